"""Rollouts on both databases over boards of paper: every way to end, two controllers, and people."""

from __future__ import annotations

import json
import random
import threading

import pytest

from agent.errors import BadInput, NotFound
from agent.fleet.inventory import Inventory
from agent.fleet.messages import Told
from agent.fleet.outgoing import Outgoing
from agent.fleet.rollouts import Rollouts
from agent.mqtt.topics import Topics
from agent.schema.fleet import Plan, RolloutRequest, Signed
from tests.fakes import FakeClock
from tests.mqtt.signed import KEY, signed

STATE = {"v": 1, "online": True, "boot": 1, "conn": 1, "profile": "p"}


class Fleet:
    """`ends(board)` is the report that a board makes of an offer, None while it says nothing."""

    def __init__(self, store, count: int) -> None:
        self.store = store
        self.clock = FakeClock()
        self.names = [f"b{i:04d}" for i in range(count)]
        told = [Told(("acme", name), "state", {**STATE}) for name in self.names]
        for i in range(0, count, 250):
            store.take(told[i : i + 250], self.clock.wall_s())
        self.ends = lambda board: {"status": "kept", "figures": {}}
        self.offered: dict[str, int] = {}
        self.withdrawn: set[str] = set()
        self.linked = True
        self.reports: list[Told] = []
        self.ver = 0
        self.makers = [self.maker("one")]

    def maker(self, holder: str) -> Rollouts:
        inventory = Inventory(self.store.engine, 1e9, 1e9, self.clock.wall_s)
        outgoing = Outgoing(self.store.engine, [KEY.public], self.clock.wall_s)
        return Rollouts(self.store.engine, inventory, outgoing, holder, self.clock.wall_s)

    def send(self, topic, payload, retain, expires_s) -> bool:
        if not self.linked:
            return False
        board = topic.split("/")[3]
        assert topic == Topics("acme", board).bundle
        if not payload:
            self.withdrawn.add(board)
            return True
        self.offered[board] = self.offered.get(board, 0) + 1
        end = self.ends(board)
        if end is not None:
            ver = json.loads(json.loads(payload)["doc"])["ver"]
            self.reports.append(Told(("acme", board), "bundle", {"v": 1, "ver": ver, **end}))
        return True

    def request(self, plan: dict, **fields) -> RolloutRequest:
        self.ver += 1
        now_s = self.clock.wall_s()
        document = {
            "v": 1, "kind": "bundle", "tenant": "acme", "name": "n", "ver": self.ver, "sha256": "0" * 64, "bytes": 10,
            "iat": now_s, "exp": now_s + 1e6, "policy": "p", "url": "https://x/y", **fields,
        }  # fmt: skip
        message = json.loads(signed(json.dumps(document)))
        return RolloutRequest(offer=Signed(**message), plan=Plan(**{"soak_s": 5.0, "per_minute": 100_000, **plan}))

    def begin(self, who: str = "anna", **plan) -> str:
        return self.makers[0].begin(self.request(plan), who)["id"]

    def turn(self, seconds: float = 1.0) -> None:
        self.clock.advance(seconds)
        for maker in self.makers:
            maker.round(self.send)
        reports, self.reports = self.reports, []
        for i in range(0, len(reports), 250):
            self.store.take(reports[i : i + 250], self.clock.wall_s())

    def run(self, key: str, turns: int = 200, seconds: float = 2.0) -> dict:
        for _ in range(turns):
            self.turn(seconds)
            if self.find(key)["status"] not in {"running"}:
                break
        return self.find(key)

    def find(self, key: str) -> dict:
        return self.makers[0].find(key)


def test_a_good_one_reaches_every_board_ring_by_ring(store):
    fleet = Fleet(store, 200)
    key = fleet.begin(rings=(0.01, 0.05, 0.25, 1.0), ramp_boards=200)
    reached = []
    for _ in range(40):
        fleet.turn()
        reached.append(len(fleet.offered))
    assert fleet.find(key)["status"] == "done"
    assert fleet.find(key)["boards"] == {"kept": 200}
    assert set(fleet.offered.values()) == {1}
    steps = sorted(set(reached))
    assert len(steps) == 4
    assert steps[2] < 80
    fleet.turn(100.0)
    assert set(fleet.offered.values()) == {1}


def test_one_that_breaks_three_of_a_hundred_boards_is_aborted_early_and_leaves_none_behind(store):
    fleet = Fleet(store, 1000)
    rng = random.Random(4)
    broken = {name for name in fleet.names if rng.random() < 0.03}
    bad, good = {"status": "reverted", "code": "crash_loop"}, {"status": "kept", "figures": {}}
    fleet.ends = lambda board: bad if board in broken else good
    found = fleet.run(fleet.begin())
    assert (found["status"], found["ring"]) == ("aborted", 0)
    assert "boards failed or fell silent" in found["reason"]
    assert len(fleet.offered) < 250
    assert set(found["boards"]) <= {"kept", "reverted", "withdrawn"}


def test_boards_of_open_rollouts_are_counted_by_state(store):
    fleet = Fleet(store, 30)
    key = fleet.begin(rings=(1.0,))
    assert fleet.makers[0].boards_of_open() == [(key, "pending", 30)]
    fleet.turn()
    assert sum(count for _, _, count in fleet.makers[0].boards_of_open()) == 30
    fleet.run(key)
    assert fleet.makers[0].boards_of_open() == []


def test_silent_boards_count_as_failed_and_are_not_offered_it_any_more_after_an_abort(store):
    fleet = Fleet(store, 100)
    fleet.ends = lambda board: None
    found = fleet.run(fleet.begin(rings=(0.2, 1.0), silent_s=30.0))
    assert found["status"] == "aborted"
    fleet.turn()
    assert fleet.withdrawn == set(fleet.offered)
    assert set(fleet.find(found["id"])["boards"]) == {"withdrawing", "withdrawn"}
    fleet.turn(61.0)
    assert set(fleet.find(found["id"])["boards"]) == {"withdrawn"}


def test_slightly_more_joules_on_each_board_abort_it_before_a_quarter_has_it(store):
    fleet = Fleet(store, 1000)
    rng = random.Random(2)

    def worse(board):
        return {"status": "kept", "figures": {"energy": {"m": 0.08 + rng.gauss(0, 0.05)}}}

    fleet.ends = worse
    found = fleet.run(fleet.begin())
    assert found["status"] == "aborted"
    assert "joules per inference" in found["reason"]
    assert len(fleet.offered) <= 250


def test_a_board_whose_report_makes_no_sense_counts_without_a_figure(store):
    fleet = Fleet(store, 20)
    fleet.ends = lambda board: {"status": "kept", "figures": {"energy": {"m": "lots"}}}
    assert fleet.run(fleet.begin(rings=(1.0,)))["status"] == "done"


def test_two_controllers_offer_each_board_once_and_either_goes_on_alone(store):
    fleet = Fleet(store, 100)
    fleet.makers.append(fleet.maker("two"))
    key = fleet.begin(per_minute=30)
    fleet.turn()
    assert len(fleet.offered) <= 30
    fleet.makers.pop(0)  # the first one is killed; its lease runs out
    found = {}
    for _ in range(200):
        fleet.turn(5.0)
        found = fleet.find(key)
        if found["status"] != "running":
            break
    assert found["status"] == "done"
    assert found["boards"] == {"kept": 100}
    assert set(fleet.offered.values()) == {1}


def test_an_offer_that_never_left_is_sent_again(store):
    fleet = Fleet(store, 10)
    key = fleet.begin(rings=(1.0,))
    fleet.linked = False
    fleet.turn()
    assert fleet.find(key)["boards"] == {"offered": 10}
    fleet.linked = True
    assert fleet.run(key)["status"] == "done"


def test_pause_resume_abort_and_the_wrong_moment_for_them(store):
    fleet = Fleet(store, 50)
    key = fleet.begin(rings=(0.5, 1.0), soak_s=50.0)
    fleet.turn()
    assert fleet.makers[0].steer(key, "pause", "anna")["status"] == "paused"
    before = len(fleet.offered)
    fleet.run(key, 5, 100.0)
    assert len(fleet.offered) == before
    with pytest.raises(BadInput, match="is paused"):
        fleet.makers[0].steer(key, "pause", "anna")
    fleet.makers[0].steer(key, "resume", "anna")
    fleet.makers[0].steer(key, "abort", "anna")
    assert fleet.find(key)["reason"] == "aborted by anna"
    with pytest.raises(BadInput, match="is aborted"):
        fleet.makers[0].steer(key, "resume", "anna")
    with pytest.raises(NotFound):
        fleet.makers[0].steer("none", "pause", "anna")


def test_a_rollout_that_takes_two_people_waits_for_the_second(store):
    fleet = Fleet(store, 5)
    key = fleet.begin(approvals=2, rings=(1.0,))
    fleet.turn()
    assert (fleet.offered, fleet.find(key)["status"]) == ({}, "approval")
    with pytest.raises(BadInput, match="another person"):
        fleet.makers[0].steer(key, "approve", "anna")
    fleet.makers[0].steer(key, "approve", "ben")
    assert fleet.run(key)["status"] == "done"


def test_contradictions_are_refused(store):
    fleet = Fleet(store, 10)
    first = fleet.begin()
    with pytest.raises(BadInput, match="is not over"):
        fleet.begin()
    fleet.makers[0].steer(first, "abort", "anna")
    fleet.ver = 0
    with pytest.raises(BadInput, match="not above 1"):
        fleet.begin()
    with pytest.raises(BadInput, match="no board is meant"):
        fleet.begin(select="site=mars")
    request = fleet.request({})
    request = request.model_copy(update={"offer": request.offer.model_copy(update={"doc": "{}"})})
    with pytest.raises(BadInput, match="bad_signature"):
        fleet.makers[0].begin(request, "anna")


def test_only_boards_that_the_offer_names_are_offered_it(store):
    fleet = Fleet(store, 10)
    key = fleet.makers[0].begin(fleet.request({"rings": (1.0,)}, boards=["b0001", "b0002"]), "anna")["id"]
    assert fleet.run(key)["boards"] == {"kept": 2}
    request = fleet.request({}, profiles=["other"])
    with pytest.raises(BadInput, match="no board"):
        fleet.makers[0].begin(request, "anna")


def test_offers_wait_for_a_maintenance_window_and_one_that_was_lost_is_not_sent_again_outside_it(store):
    fleet = Fleet(store, 10)
    begins_s = fleet.clock.wall_s() // 86_400 * 86_400 + 2 * 86_400 + 3600
    fleet.clock.advance(begins_s - 60.0 - fleet.clock.wall_s())
    fleet.ends = lambda board: None
    key = fleet.begin(rings=(1.0,), windows=[{"begins": "01:00", "ends": "02:00"}])
    fleet.turn()
    assert fleet.offered == {}
    fleet.turn(120.0)
    assert len(fleet.offered) == 10
    fleet.turn(3600.0)
    assert set(fleet.offered.values()) == {1}
    assert fleet.find(key)["boards"] == {"offered": 10}


def test_who_takes_over_from_a_killed_controller_sends_no_offer_again_at_once_but_all_in_the_end(store):
    fleet = Fleet(store, 10)
    fleet.ends = lambda board: None
    fleet.begin(rings=(1.0,))
    fleet.turn()
    fleet.makers = [fleet.maker("two")]
    fleet.turn(50.0)
    assert set(fleet.offered.values()) == {1}
    fleet.turn(20.0)
    assert set(fleet.offered.values()) == {2}


def test_of_two_rollouts_that_begin_at_once_one_is_refused(store, monkeypatch):
    fleet = Fleet(store, 10)
    other, second = fleet.maker("two"), fleet.request({"rings": (1.0,)})
    third = fleet.request({"rings": (1.0,)})
    ended: list[str] = []

    def begin() -> None:
        try:
            ended.append(other.begin(third, "ben")["id"])
        except BadInput as error:
            ended.append(error.message)

    thread = threading.Thread(target=begin)
    check = Rollouts._contradictions

    def slowly(self, *arguments) -> None:
        check(self, *arguments)
        if self is fleet.makers[0]:
            thread.start()
            thread.join(0.5)  # as long as it takes where nothing holds it back

    monkeypatch.setattr(Rollouts, "_contradictions", slowly)
    first = fleet.makers[0].begin(second, "anna")["id"]
    thread.join(30.0)
    assert ended == [f"rollout {first} is not over and has b0000 too; abort it first"]


def test_an_aborted_rollout_takes_no_newer_offer_from_a_board(store):
    fleet = Fleet(store, 2)
    fleet.ends = lambda board: {"status": "trial"} if board == "b0000" else None
    first = fleet.begin(rings=(1.0,), silent_s=60.0)
    fleet.turn()
    fleet.linked = False
    fleet.makers[0].steer(first, "abort", "anna")
    fleet.turn()
    fleet.linked = True
    second = fleet.request({"rings": (1.0,)})
    key = fleet.makers[0].begin(second, "anna")["id"]
    fleet.makers[0]._step(fleet.makers[0]._held(key), fleet.send)  # its turn comes first
    assert set(fleet.offered.values()) == {2}
    fleet.turn(100.0)
    fleet.turn(100.0)
    assert fleet.withdrawn == set()
    assert fleet.find(first)["boards"] == {"withdrawn": 2}


def test_an_abort_takes_the_offer_from_boards_that_wait_for_their_hour(store):
    fleet = Fleet(store, 3)
    said = {"b0000": {"status": "offered", "phase": "waiting"}, "b0001": {"status": "trial", "phase": "trial"}}
    fleet.ends = said.get
    key = fleet.begin(rings=(1.0,))
    fleet.turn()
    fleet.makers[0].steer(key, "abort", "anna")
    fleet.turn()
    assert fleet.withdrawn == {"b0000", "b0002"}
    assert fleet.find(key)["boards"] == {"withdrawing": 2, "offered": 1}
    fleet.turn(61.0)
    assert fleet.find(key)["boards"] == {"withdrawn": 2, "offered": 1}


def test_an_offer_is_taken_back_twice_as_the_first_message_may_never_have_left(store):
    fleet = Fleet(store, 2)
    fleet.ends = lambda board: None
    key = fleet.begin(rings=(1.0,))
    fleet.turn()
    fleet.makers[0].steer(key, "abort", "anna")
    fleet.turn()
    assert fleet.withdrawn == {"b0000", "b0001"}
    fleet.withdrawn.clear()  # the broker died over them, and the controller then too
    fleet.makers = [fleet.maker("two")]
    fleet.turn(30.0)
    assert fleet.withdrawn == set()
    fleet.reports = [Told(("acme", "b0001"), "bundle", {"v": 1, "ver": 1, "status": "kept"})]
    fleet.turn(1.0)
    fleet.turn(61.0)
    fleet.turn(61.0)
    assert fleet.withdrawn == {"b0000"}
    assert fleet.find(key)["boards"] == {"withdrawn": 1, "kept": 1}


def test_an_aborted_rollout_is_looked_at_ever_more_rarely_and_no_more_once_every_board_is_settled(store):
    fleet = Fleet(store, 3)
    fleet.ends = lambda board: {"status": "trial", "phase": "trial"}
    key = fleet.begin(rings=(1.0,))
    fleet.turn()
    fleet.makers[0].steer(key, "abort", "anna")
    looks = []
    held = fleet.makers[0]._held

    def counted(wanted: str):
        looks.append(wanted)
        return held(wanted)

    fleet.makers[0]._held = counted
    for _ in range(300):
        fleet.turn(288.0)
    assert len(looks) < 40
    assert fleet.find(key)["boards"] == {"silent": 3}
    fleet.reports = [Told(("acme", name), "bundle", {"v": 1, "ver": 1, "status": "reverted"}) for name in fleet.names]
    fleet.turn(0.0)
    fleet.turn(3700.0)
    assert fleet.find(key)["boards"] == {"reverted": 3}
    looks.clear()
    for _ in range(10):
        fleet.turn(3700.0)
    assert looks == []


def test_who_pauses_a_rollout_while_it_is_judged_keeps_its_offers(store, monkeypatch):
    fleet = Fleet(store, 20)
    fleet.ends = lambda board: {"status": "refused"}
    key = fleet.begin(rings=(1.0,), min_boards=1, ramp_boards=5)
    fleet.turn()
    judged = Rollouts._progress

    def paused(self, *arguments):
        found = judged(self, *arguments)
        fleet.makers[0].steer(key, "pause", "anna")
        return found

    monkeypatch.setattr(Rollouts, "_progress", paused)
    fleet.turn()
    found = fleet.find(key)
    assert (found["status"], found["boards"], fleet.withdrawn) == ("paused", {"refused": 5, "pending": 15}, set())
