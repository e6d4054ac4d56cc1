"""One turn of network work, on socket pairs."""

from __future__ import annotations

import socket
import time

import pytest

from agent.mqtt.poll_loop import BufferedReads, Wake, turn


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
    assert wake.ring() is None


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


class Arriving:
    """What a connection would give, one call at a time."""

    def __init__(self, *parts: bytes) -> None:
        self.parts = list(parts)
        self.calls = 0

    def _sock_recv(self, size: int) -> bytes:
        self.calls += 1
        if not self.parts:
            raise BlockingIOError
        return self.parts.pop(0)


class Reader(BufferedReads, Arriving):
    pass


def test_one_call_takes_what_is_there_and_hands_it_out_byte_by_byte():
    reader = Reader(b"abcdef", b"gh")
    assert [reader._sock_recv(n) for n in (1, 1, 3)] == [b"a", b"b", b"cde"]
    assert (reader.calls, reader.unread()) == (1, 1)
    assert [reader._sock_recv(5), reader._sock_recv(5)] == [b"f", b"gh"]
    assert reader.unread() == 0
    with pytest.raises(BlockingIOError):
        reader._sock_recv(1)


def test_what_was_read_ahead_is_handled_before_the_next_wait(world):
    client, _, wake = world
    left = [3]

    class ReadAhead(Client):
        def unread(self):
            return left[0]

        def loop_read(self):
            left[0] -= 1
            return super().loop_read()

    ahead = ReadAhead(client.connection)
    assert turn(ahead, wake, 30.0)
    assert (ahead.read, left[0]) == (3, 0)


def test_a_bell_that_rang_is_heard_again_after_it_was_heard():
    wake = Wake()
    for _ in range(3):
        wake.ring()
        wake.ring()
        assert wake._far.recv(10) == b"!"
        wake.clear()
    wake.close()
