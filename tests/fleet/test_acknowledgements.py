"""What boards are told of rows that are stored, and what happens when the link takes none."""

from __future__ import annotations

import json

import pytest

from agent.fleet import acknowledgements as module
from agent.fleet.acknowledgements import Acknowledgements
from agent.fleet.messages import Rows


class Link:
    """Takes a number of messages, none whose payload is too long, and none for some boards."""

    def __init__(self, room: int = 1000, longest: int = 10**6, refused: str = "") -> None:
        self.room, self.longest, self.refused = room, longest, refused
        self.sent: list[tuple[str, int, str, list[list[int]]]] = []
        self.tries = 0

    def send(self, topic: str, payload: bytes) -> bool:
        self.tries += 1
        if self.room == 0 or len(payload) > self.longest or topic.split("/")[3] == self.refused:
            return False
        self.room -= 1
        said = json.loads(payload)
        self.sent.append((topic.split("/")[3], said["boot"], said["cls"], said["rng"]))
        return True


def rows(board: str, first: int, count: int = 1, boot: int = 1, cls: str = "tlm") -> Rows:
    return Rows(("acme", board), boot, cls, first, ("{}",) * count, ({},) * count)


def test_each_stream_of_a_board_is_told_its_rows_as_ranges() -> None:
    link = Link()
    told = Acknowledgements(link.send)
    told.add([rows("a", 0, 3), rows("a", 7), rows("a", 3), rows("a", 0, cls="evt"), rows("b", 5, boot=2)])
    assert told.tell() == 3
    assert link.sent == [("a", 1, "tlm", [[0, 3], [7, 7]]), ("a", 1, "evt", [[0, 0]]), ("b", 2, "tlm", [[5, 5]])]
    assert told.tell() == 0


def test_a_link_without_room_is_asked_once_and_what_waits_is_joined() -> None:
    link = Link(room=0)
    told = Acknowledgements(link.send)
    for first in range(50):
        told.add([rows("a", first), rows("b", first)])
        assert told.tell() == 0
    assert link.tries == 50
    link.room = 10
    assert told.tell() == 2
    assert sorted(link.sent) == [("a", 1, "tlm", [[0, 49]]), ("b", 1, "tlm", [[0, 49]])]


def test_what_the_link_never_takes_is_not_in_the_way_of_others() -> None:
    link = Link(refused="long")
    told = Acknowledgements(link.send)
    told.add([rows("long", 0), rows("a", 0), rows("b", 0)])
    assert told.tell() == 0
    assert told.tell() == 2
    assert [sent[0] for sent in link.sent] == ["a", "b"]


def test_what_is_too_long_for_the_broker_is_told_in_shorter_messages() -> None:
    link = Link(longest=150)
    told = Acknowledgements(link.send)
    firsts = range(0, 400, 2)
    told.add(rows("long", first) for first in firsts)
    for _ in range(200):
        told.tell()
    assert sorted(low for *_, ranges in link.sent for low, _ in ranges) == list(firsts)


def test_a_send_that_raises_loses_nothing() -> None:
    link = Link()

    def send(topic: str, payload: bytes) -> bool:
        if link.tries == 0:
            link.tries = 1
            raise OSError("gone")
        return link.send(topic, payload)

    told = Acknowledgements(send)
    told.add([rows("a", 0)])
    with pytest.raises(OSError, match="gone"):
        told.tell()
    assert told.tell() == 1
    assert link.sent == [("a", 1, "tlm", [[0, 0]])]


def test_one_board_with_many_starts_leaves_room_for_the_others() -> None:
    link = Link(room=0)
    told = Acknowledgements(link.send)
    told.add(rows("liar", 0, boot=boot) for boot in range(3 * module.MAX_OF_BOARD))
    told.add([rows("honest", 0)])
    link.room = 1000
    assert told.tell() == module.MAX_OF_BOARD + 1
    told.add([rows("liar", 0, boot=99)])
    assert told.tell() == 1


def test_what_waits_of_one_stream_is_bounded() -> None:
    link = Link(room=0)
    told = Acknowledgements(link.send)
    told.add(rows("a", first) for first in range(0, 4 * module.MAX_KEPT, 2))
    link.room = 10**6
    told.tell()
    assert sum(len(ranges) for *_, ranges in link.sent) == module.MAX_KEPT


def test_many_holes_go_in_messages_of_a_bounded_length() -> None:
    link = Link()
    told = Acknowledgements(link.send)
    told.add(rows("a", first) for first in range(0, 2 * (2 * module.MAX_RANGES + 1), 2))
    assert told.tell() == 3
    assert [len(ranges) for *_, ranges in link.sent] == [module.MAX_RANGES, module.MAX_RANGES, 1]
    assert [low for *_, ranges in link.sent for low, _ in ranges] == list(range(0, 2 * (2 * module.MAX_RANGES + 1), 2))


def test_streams_beyond_the_bound_are_left_to_the_boards_resend(monkeypatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 2)
    link = Link(room=0)
    told = Acknowledgements(link.send)
    told.add([rows("a", 0), rows("b", 0), rows("c", 0), rows("a", 1)])
    told.tell()
    link.room = 10
    told.tell()
    assert sorted((board, ranges) for board, _, _, ranges in link.sent) == [("a", [[0, 1]]), ("b", [[0, 0]])]
