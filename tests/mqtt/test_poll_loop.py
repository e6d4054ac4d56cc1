"""One turn of network work, on socket pairs."""

from __future__ import annotations

import socket
import time

import pytest

from agent.mqtt.poll_loop import Wake, turn


class Client:
    """Counts what it was asked to do."""

    def __init__(self, connection) -> None:
        self.connection = connection
        self.read = self.written = self.misc = 0
        self.wants_write = False
        self.errors: dict[str, int] = {}

    def socket(self):
        return self.connection

    def want_write(self):
        return self.wants_write

    def loop_read(self):
        self.read += 1
        return self.errors.get("read", 0)

    def loop_write(self):
        self.written += 1
        self.wants_write = False
        return self.errors.get("write", 0)

    def loop_misc(self):
        self.misc += 1
        return self.errors.get("misc", 0)


@pytest.fixture
def world():
    near, far = socket.socketpair()
    wake = Wake()
    yield Client(near), far, wake
    near.close()
    far.close()
    wake.close()


def test_arriving_bytes_are_read_and_silence_only_keeps_alive(world):
    client, far, wake = world
    assert turn(client, wake, 0.0)
    assert (client.read, client.written, client.misc) == (0, 0, 1)
    far.send(b"x")
    assert turn(client, wake, 5.0)
    assert client.read == 1


def test_what_waits_to_be_sent_is_sent(world):
    client, _, wake = world
    client.wants_write = True
    assert turn(client, wake, 5.0)
    assert client.written == 1


def test_the_bell_ends_the_wait_and_rings_once(world):
    client, _, wake = world
    for _ in range(5000):
        wake.ring()
    begun_s = time.monotonic()
    assert turn(client, wake, 30.0)
    assert time.monotonic() - begun_s < 10
    assert client.read == 0
    wake.ring()
    wake.clear()
    assert turn(client, wake, 0.0)


def test_ringing_a_closed_bell_is_no_error():
    wake = Wake()
    wake.close()
    wake.ring()


@pytest.mark.parametrize("step", ["read", "write", "misc"])
def test_an_error_in_any_step_ends_the_connection(world, step):
    client, far, wake = world
    client.errors[step] = 7
    client.wants_write = True
    far.send(b"x")
    assert not turn(client, wake, 1.0)


def test_without_a_connection_there_is_nothing_to_do(world):
    _, _, wake = world
    assert not turn(Client(None), wake, 1.0)


def test_a_closed_peer_wakes_the_client(world):
    client, far, wake = world
    far.close()
    turn(client, wake, 5.0)
    assert client.read == 1


def test_bytes_that_were_decrypted_already_do_not_wait_for_the_descriptor(world):
    client, _, wake = world
    real = client.connection

    class Decrypting:
        def fileno(self):
            return real.fileno()

        def pending(self):
            return 3

    client.connection = Decrypting()
    assert turn(client, wake, 30.0)
    assert client.read == 1
