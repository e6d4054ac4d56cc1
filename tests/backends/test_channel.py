"""A lane's channel: what a side said before it ended is heard, whatever it left unread."""

from __future__ import annotations

import pytest

from agent.backends.messages import Channel, Closed, pair, shorten


def test_the_last_messages_of_a_side_that_ended_with_unread_ones_are_read_before_the_end() -> None:
    ours, theirs = pair()
    lane, process = Channel(ours), Channel(theirs)
    lane.send({"k": "stop"})
    process.send({"k": "first"})
    process.send({"k": "last"})
    process.close()

    assert [lane.receive()[0] for _ in range(2)] == [b'{"k":"first"}', b'{"k":"last"}']
    with pytest.raises(Closed):
        lane.receive()
    lane.close()


@pytest.mark.parametrize(
    ("native", "shown"),
    [
        ("\x1b[1;31m2026-11-22 [E:onnxruntime] no kernel\x1b[m", "2026-11-22 [E:onnxruntime] no kernel"),
        ("a\r\nb\x00\x07c\td", "a b c d"),
        ("\x1b]0;title\x07said", "said"),
        ("\x1b]8;;http://x\x1b\\\\link\x1b(B", "\\link"),
        ("\x9b31mred\x85next", "red next"),
        ("cut \x1b[", "cut"),
        ("\x1b]0;never ended: no memory", "0;never ended: no memory"),
        ("\x1bPq#0;1\x1b\\after", "after"),
        ("turned \u202e around", "turned around"),
        ("µs – 3 × 4 °C", "µs – 3 × 4 °C"),
    ],
)
def test_what_native_code_says_reaches_a_terminal_without_commands_to_it(native: str, shown: str) -> None:
    assert shorten(native) == shown
