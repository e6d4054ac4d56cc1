"""Messages on their way to boards: each ends, with what its board said of it, whoever was killed when."""

from __future__ import annotations

import json

import pytest

from agent.errors import BadInput
from agent.fleet.messages import parse
from agent.fleet.outgoing import AGAIN_S, ASKED_S, Outgoing
from agent.schema.fleet import Signed
from tests.fakes import FakeClock
from tests.mqtt.signed import KEY, command_text, signed


class Post:
    """One board of paper, and any number of controllers."""

    def __init__(self, store) -> None:
        self.store, self.clock = store, FakeClock()
        self.sent: list[tuple[str, dict]] = []
        self.linked = True
        self.outgoing = self.controller()
        self.hear("state", online=True, boot=1, conn=1)

    def controller(self) -> Outgoing:
        return Outgoing(self.store.engine, [KEY.public], self.clock.wall_s)

    def send(self, topic, payload, retain, expires_s) -> bool:
        if self.linked:
            self.sent.append((topic.split("/", 5)[5], json.loads(json.loads(payload)["doc"])))
        return self.linked

    def hear(self, part: str, **fields) -> None:
        payload = json.dumps({"v": 1, **fields}).encode()
        self.store.take([parse(f"qeil/v1/acme/b1/up/{part}", payload)], self.clock.wall_s())

    def turn(self, seconds: float = 1.0, outgoing: Outgoing | None = None) -> int:
        self.clock.advance(seconds)
        return (outgoing or self.outgoing).round(self.send)

    def command(self, lifetime_s: float = 600.0) -> str:
        now_s = self.clock.wall_s()
        text = command_text("plan", board="b1", iat=now_s, exp=now_s + lifetime_s)
        self.outgoing.add(Signed(**json.loads(signed(text))), "anna")
        return str(json.loads(text)["id"])

    def desired(self, ver: int) -> str:
        text = json.dumps({"v": 1, "kind": "desired", "tenant": "acme", "board": "b1", "ver": ver, "iat": 1.0})
        return self.outgoing.add(Signed(**json.loads(signed(text))), "anna")

    def status(self, key: str) -> str:
        return str(self.outgoing.find(key)["status"])


@pytest.fixture
def post(store) -> Post:
    return Post(store)


def test_what_a_board_says_after_the_expiry_counts_for_more_than_that_it_said_nothing(post):
    command = post.command(30.0)
    post.turn()
    post.turn(60.0)
    assert post.outgoing.find(f"acme/{command}")["answer"] == {"code": "no_answer"}
    post.hear("res/plan", id=command, status="ok")
    assert post.status(f"acme/{command}") == "ok"
    post.hear("res/plan", id=command, status="failed")
    assert post.status(f"acme/{command}") == "ok"


@pytest.mark.parametrize("told", ["accepted", "running"])
def test_a_board_that_falls_silent_over_a_command_is_asked_what_became_of_it(post, told):
    command = post.command()
    post.turn()
    post.hear("res/plan", id=command, status=told)
    assert [post.turn(AGAIN_S / 4) for _ in range(4)] == [0, 0, 0, 0]
    assert post.turn(AGAIN_S) == 1
    assert post.status(f"acme/{command}") == told
    post.turn(3600.0)
    assert post.status(f"acme/{command}") == told  # begun, so nobody may say that it expired
    post.hear("res/plan", id=command, status="ok", repeat=True)
    asked = len(post.sent)
    post.turn(3600.0)
    assert (post.status(f"acme/{command}"), len(post.sent)) == ("ok", asked)


def test_a_board_that_is_gone_for_good_is_not_asked_for_ever(post):
    command = post.command()
    post.turn()
    post.hear("res/plan", id=command, status="running")
    assert post.turn(ASKED_S - 60.0) == 1
    assert post.turn(3600.0) == 0


def test_a_link_that_takes_nothing_leaves_every_message_as_it_was(post):
    command = post.command()
    post.turn()
    post.hear("res/plan", id=command, status="running")
    post.desired(1)
    post.linked = False
    for _ in range(3):
        assert post.turn(2 * AGAIN_S) == 0
        assert (post.status(f"acme/{command}"), post.status("acme/b1/desired/1")) == ("running", "waiting")
    post.linked = True
    assert post.turn() == 2


def test_only_states_of_a_command_are_taken_from_a_board(post):
    command = post.command()
    for status in ("waiting", "sent", "x", "ok "):
        post.turn()
        post.hear("res/plan", id=command, status=status)
    assert (post.status(f"acme/{command}"), len(post.sent)) == ("sent", 1)


@pytest.mark.parametrize("code", ["storage", "clock_unset", "not_yet"])
def test_a_command_that_its_board_cannot_take_now_is_sent_again_and_ends_once(post, code):
    key = f"acme/{(command := post.command())}"
    post.turn()
    refusal = {"id": command, "command": "plan", "status": "rejected", "code": code, "message": "not now"}
    post.hear("res/refused", **refusal)
    assert (post.status(key), post.outgoing.find(key)["answer"]["message"]) == ("sent", "not now")
    assert [post.turn(AGAIN_S + 1), len(post.sent)] == [1, 2]
    post.hear("res/plan", id=command, command="plan", status="accepted")
    post.hear("res/refused", **refusal)  # overtaken
    assert post.status(key) == "accepted"
    post.hear("res/plan", id=command, command="plan", status="ok")
    post.hear("res/refused", **refusal)
    assert (post.status(key), post.outgoing.find(key)["answer"]["status"]) == ("ok", "ok")


def test_a_code_that_is_no_text_stops_no_consumer(post):
    key = f"acme/{(command := post.command())}"
    post.turn()
    post.hear("res/refused", id=command, command="plan", status="rejected", code=["storage"])
    assert post.status(key) == "rejected"


def test_a_desired_state_that_a_killed_controller_had_in_hand_still_reaches_its_board(post):
    key = post.desired(1)
    killed = post.controller()
    with pytest.raises(KeyboardInterrupt):  # claimed, not handed over
        killed.round(lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    assert post.turn(2 * AGAIN_S) == 0  # the board was not heard of: what is retained waits for it
    post.hear("state", online=True, boot=1, conn=2)
    assert post.turn() == 1
    assert post.sent[-1][1]["ver"] == 1
    post.hear("rep", des_ver=1, status="applied")
    post.turn(2 * AGAIN_S)
    assert (post.status(key), len(post.sent)) == ("ok", 1)


def test_an_older_desired_state_neither_goes_out_nor_stays_open_behind_a_newer_one(post):
    first, second = post.desired(4), post.desired(7)
    assert post.outgoing.find(first)["answer"] == {"code": "superseded"}
    assert post.desired(4) == first  # the same once more is the same
    with pytest.raises(BadInput, match="version 5 is older than 7"):
        post.desired(5)
    post.turn()
    assert [document["ver"] for _, document in post.sent] == [7]
    assert post.status(second) == "sent"
    post.hear("rep", des_ver=4, status="applied")
    assert post.status(first) == "ok"


def test_a_desired_state_that_its_board_refuses_ends_as_rejected(post):
    key = post.desired(3)
    post.turn()
    post.hear("res/refused", id="3", command="desired", status="rejected", code="storage")
    assert post.status(key) == "sent"  # retained: the board tries it again
    post.hear("res/refused", id="3", command="desired", status="rejected", code="old_version")
    assert post.status(key) == "rejected"


def test_two_controllers_at_once_send_each_message_once(post):
    other = post.controller()
    ids = [post.command() for _ in range(20)]
    turns = [o._due() for o in (post.outgoing, other)]  # both have read the same before either sends
    for rows in zip(*turns, strict=True):
        for outgoing, row in zip((post.outgoing, other), rows, strict=True):
            outgoing._one(row, post.send)
    assert [document["id"] for _, document in post.sent] == ids
