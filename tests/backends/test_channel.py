"""A lane's channel: what a side said before it ended is heard, whatever it left unread."""

from __future__ import annotations

import pytest

from agent.backends.messages import Channel, Closed, pair


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
