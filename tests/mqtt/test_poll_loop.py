"""One turn of network work, on socket pairs."""

from __future__ import annotations

import socket
import time

import pytest

from agent.mqtt.poll_loop import JOINED_BYTES, BufferedReads, JoinedWrites, Wake, turn


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


class Sending:
    """A client that sends its packets one by one, as paho does, to a connection that takes so many bytes a call."""

    def __init__(self, *takes: int | type[OSError]) -> None:
        self.takes = list(takes)
        self.sent: list[bytes] = []
        self.packets: list[bytes] = []

    def want_write(self) -> bool:
        return bool(self.packets)

    def _sock_send(self, buf: bytes) -> int:
        take = self.takes.pop(0) if self.takes else len(buf)
        if not isinstance(take, int):
            raise take
        self.sent.append(bytes(buf[:take]))
        return min(take, len(buf))

    def _packet_write(self) -> int:
        while self.packets:
            packet = self.packets.pop(0)
            try:
                taken = self._sock_send(packet)
            except BlockingIOError:
                self.packets.insert(0, packet)
                return -1
            except OSError:
                return 7
            if taken < len(packet):
                self.packets.insert(0, packet[taken:])
        return 0


class Writer(JoinedWrites, Sending):
    pass


def test_what_waits_together_leaves_with_one_call():
    writer = Writer()
    writer.packets = [b"@one", b"@two", b"@three"]
    assert writer._packet_write() == 0
    assert writer.sent == [b"@one@two@three"]
    assert not writer.want_write()


def test_what_the_connection_did_not_take_is_sent_later_and_nothing_twice():
    writer = Writer(6, BlockingIOError)
    writer.packets = [b"@one", b"@two"]
    assert (writer._packet_write(), writer.want_write()) == (-1, True)
    writer.packets = [b"@three"]
    assert (writer._packet_write(), writer.want_write()) == (0, False)
    assert b"".join(writer.sent) == b"@one@two@three"


@pytest.mark.parametrize("error", [BrokenPipeError, ConnectionResetError])
def test_a_connection_that_breaks_meanwhile_is_told_as_lost(error):
    writer = Writer(error)
    writer.packets = [b"@one"]
    assert writer._packet_write() == 7


def test_a_disconnect_leaves_behind_all_that_was_to_be_sent_before_it():
    writer = Writer(2, BlockingIOError)
    writer.packets = [b"@one", b"\xe0\x00"]
    assert writer._packet_write() == -1
    assert writer.packets == [b"\xe0\x00"]
    assert writer._packet_write() == 0
    assert writer.sent == [b"@o", b"ne", b"\xe0\x00"]


def test_large_packets_are_not_copied_behind_others():
    writer = Writer()
    large = b"0" * (JOINED_BYTES + 1)
    writer.packets = [b"@one", large, b"@two"]
    assert writer._packet_write() == 0
    assert writer.sent == [b"@one", large, b"@two"]
