"""Channel, packets and layouts: what a process could send must never surprise the agent."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backends import messages, packets, segments
from agent.backends.formats import Signature
from agent.backends.layouts import REMEMBERED, TensorArea
from agent.backends.messages import Channel, Closed
from agent.backends.packets import Done, Run
from agent.backends.segments import Ring
from agent.errors import BackendError, InferenceFailed

U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**63 - 1)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    ours, theirs = messages.pair()
    pair = Channel(ours), Channel(theirs)
    yield pair
    for end in pair:
        end.close()


def ring(slots: int = 4, input_bytes: int = 4096, output_bytes: int = 4096) -> Ring:
    memory = np.zeros(slots * segments.slot_bytes(input_bytes, output_bytes), np.uint8)
    return Ring(memory, slots, input_bytes, output_bytes)


def test_messages_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    ends[0].send({"k": "a", "n": [1, 2]})
    ends[0].send_packet(b"\x01raw")

    assert messages.parse(ends[1].receive()[0]) == {"k": "a", "n": [1, 2]}
    assert ends[1].receive() == (b"\x01raw", None)


def test_a_descriptor_crosses_with_its_message(ends: tuple[Channel, Channel]) -> None:
    fd, memory = segments.create("t", 4096)
    memory[0] = 42
    ends[0].send({"k": "x"}, fd)
    os.close(fd)

    _, received = ends[1].receive()

    assert received is not None
    assert segments.attach(received, 4096)[0] == 42


def test_nothing_to_read_and_a_gone_peer_are_told_apart(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(BlockingIOError):
        ends[0].receive()
    ends[1].close()
    with pytest.raises(Closed):
        ends[0].receive()
    with pytest.raises(Closed):
        ends[0].send({"k": "x"})


def test_a_peer_that_does_not_read_is_not_waited_for(ends: tuple[Channel, Channel]) -> None:
    def flood() -> None:
        while True:
            ends[0].send({"k": "x" * 1000})

    with pytest.raises(BlockingIOError):
        flood()


def test_a_message_that_is_too_long_is_refused(ends: tuple[Channel, Channel]) -> None:
    with pytest.raises(BackendError, match="exceeds 65536 bytes"):
        ends[0].send({"k": "x" * 70_000})


@pytest.mark.parametrize("packet", [b"{", b"\xff\xfe", b"[1]"])
def test_what_is_no_message_is_refused(packet: bytes) -> None:
    with pytest.raises(BackendError, match="the lane's process sent something"):
        messages.parse(packet)


def test_long_texts_are_one_bounded_line() -> None:
    assert messages.shorten("a\n  b") == "a b"
    assert len(messages.shorten("x" * 10_000)) == messages.MAX_TEXT_CHARS


@given(U64, U32, st.integers(0, 65535), U64, U64, st.binary(max_size=255), st.binary(max_size=64))
def test_a_run_survives_packing(
    number: int, load: int, slot: int, deadline_ns: int, segment: int, outputs: bytes, tensors: bytes
) -> None:
    run = Run(number, load, slot, deadline_ns, segment, outputs, tensors)

    assert packets.unpack_run(packets.pack_run(run)) == run


@given(U64, st.floats(0, 1e6), st.none() | st.floats(0, 1e6), U64, st.binary(max_size=64))
def test_an_answer_survives_packing(
    number: int, execute_s: float, energy_j: float | None, segment: int, tensors: bytes
) -> None:
    done = Done(number, execute_s, energy_j, segment, tensors)

    assert packets.unpack_done(packets.pack_done(done)) == done


def test_a_short_answer_is_refused() -> None:
    with pytest.raises(BackendError, match="too short"):
        packets.unpack_done(b"\x02")


@given(st.binary(max_size=128))
def test_a_description_that_makes_no_sense_is_refused_and_never_crashes(code: bytes) -> None:
    area = TensorArea(ring(), [Signature("x", "FP32", (-1,)), Signature("s", "BYTES", (-1,))], output=True)

    try:
        layout = area.decode(code)
        area.texts(area.views(0, layout), layout)
    except (BackendError, InferenceFailed):
        return
    assert code


@pytest.mark.parametrize(
    "numbers", [(1, 4), (1, -1, 16), (1, 4, 16, 9), (-1, 4, 16), (1, 2**40, 2**42), (1, 4096, 16), (2, 2**40, 2**40, 0)]
)
def test_tensors_beyond_their_slot_are_refused(numbers: tuple[int, ...]) -> None:
    area = TensorArea(ring(), [Signature("x", "FP32", (-1,))], output=True)

    with pytest.raises(BackendError):
        area.views(3, area.decode(struct.pack(f"<{len(numbers)}q", *numbers)))


def test_layouts_agree_on_both_sides_and_are_remembered_within_a_bound() -> None:
    shared = ring()
    ours, theirs = (TensorArea(shared, [Signature("x", "FP32", (-1,))], output=False) for _ in range(2))

    for size in range(3 * REMEMBERED):
        x = np.arange(size, dtype=np.float32)
        layout = ours.describe([x], [x])
        ours.views(1, layout)[0][...] = x
        other = theirs.decode(layout.encoded)
        np.testing.assert_array_equal(theirs.views(1, other)[0], x)

    assert len(ours._by_shapes) <= REMEMBERED
    assert len(theirs._by_code) <= REMEMBERED


def test_a_lease_holds_its_slot_until_the_last_view_goes() -> None:
    shared = ring(slots=1)
    lease = shared.acquire()
    assert lease is not None
    view = segments.tensor(lease.view(), 64, np.dtype(np.float32), (2, 2))[:, 0]
    assert segments.lease_of(view) is lease

    del lease
    assert shared.acquire() is None
    del view

    assert shared.acquire() is not None


def test_a_cancelled_slot_is_clean_for_the_next_call() -> None:
    shared = ring(slots=1)
    lease = shared.acquire()
    assert lease is not None
    lease.cancel()
    assert shared.cancelled(0)
    del lease

    kept = shared.acquire()

    assert kept is not None
    assert not shared.cancelled(0)


def test_a_segment_that_the_sender_could_shrink_is_refused() -> None:
    fd = os.memfd_create("open", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 4096)

    with pytest.raises(BackendError, match="sealed"):
        segments.attach(fd, 4096)


def test_a_segment_smaller_than_said_is_refused() -> None:
    fd, _ = segments.create("t", 4096)

    with pytest.raises(BackendError, match="8192 sealed bytes"):
        segments.attach(fd, 8192)
