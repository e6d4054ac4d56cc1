"""Desired state over fake parts: versions, crash points, what the disk refuses."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from agent.errors import StorageError
from agent.mqtt.inbound import Inbound
from agent.mqtt.topics import Topics
from agent.schema.desired import Desired
from agent.service.remote.desired import DesiredState
from agent.service.remote.desired_apply import Applied
from agent.storage import state_file
from tests.fakes import FakeClock
from tests.mqtt.signed import KEY, desired_text, signed
from tests.mqtt.stack import until

TOPICS = Topics("acme", "b1")


class World:
    """The desired state without its thread; `outcome` is what applying it comes to."""

    def __init__(self, folder) -> None:
        self.folder = folder
        self.outcome = Applied(None, {"log_level": {"status": "applied"}})
        self.applied: list[int | None] = []
        self.refusals: list = []
        self.reports: list[dict] = []
        self.events: list[dict] = []
        self.acknowledged = 0
        self.linked = True
        self.boot()

    def boot(self) -> None:
        self.state = DesiredState(
            self.folder, TOPICS, [KEY.public], self._apply, self, lambda: {"policy": "balanced"}, FakeClock()
        )
        self.state.resume()

    def _apply(self, desired, run) -> Applied:
        self.applied.append(desired.ver)
        return self.outcome

    def refused(self, refusal) -> None:
        self.refusals.append(refusal)

    def report(self, fields) -> bool:
        self.reports.append(fields)
        return self.linked

    def event(self, fields) -> None:
        self.events.append(fields)

    def _acknowledge(self) -> None:
        self.acknowledged += 1

    def send(self, payload: bytes) -> None:
        self.state.on_request(Inbound(TOPICS.desired, payload, None, None, self._acknowledge))
        self.state.round()

    def want(self, ver, **fields) -> None:
        self.send(signed(desired_text(ver, **fields)))

    def record(self) -> dict:
        return json.loads((self.folder / "desired.json").read_text())


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def test_a_newer_version_is_tried_kept_and_reported(world):
    world.want(3, log_level="debug")
    assert world.applied == [3]
    assert (world.record()["ver"], world.record()["status"], world.record()["kept_ver"]) == (3, "applied", 3)
    assert [r["status"] for r in world.reports] == ["pending", "applied"]
    assert world.reports[-1]["keys"] == {"log_level": {"status": "applied"}}
    assert world.events[0]["status"] == "applied"
    assert world.acknowledged == 1


def test_a_version_that_cannot_be_had_leaves_the_kept_one_and_says_why(world):
    world.want(1, log_level="debug")
    world.outcome = Applied("policy: no such", {"policy": {"status": "rejected"}})
    world.want(2, policy="x")
    assert world.state.in_force.ver == 1
    assert world.reports[-1]["err"] == "policy: no such"
    assert (world.reports[-1]["des_ver"], world.reports[-1]["in_force_ver"]) == (2, 1)
    world.want(1, log_level="debug")
    assert world.refusals[-1].code == "old_version"


def test_the_same_again_is_nothing_new_and_a_refused_one_is_refused_once(world):
    text = signed(desired_text(4))
    world.send(text)
    world.send(text)
    assert world.applied == [4]
    old = signed(desired_text(2))
    for _ in range(3):
        world.send(old)
    assert [r.code for r in world.refusals] == ["old_version"]
    assert world.acknowledged == 5


def test_a_start_follows_what_was_kept_and_refuses_what_is_older(world):
    world.want(7, log_level="debug")
    world.boot()
    assert world.applied == [7, 7]
    assert world.state.in_force.ver == 7
    world.want(6)
    assert world.refusals[-1].code == "old_version"


def test_a_crash_while_it_is_tried_tries_it_once_more_and_then_stays_with_the_kept_one(world):
    world.want(1, log_level="debug")

    def crash(desired, run):
        if desired.ver == 2:
            raise KeyboardInterrupt
        return world.outcome

    world._apply = crash
    world.state._apply = crash
    with pytest.raises(KeyboardInterrupt):
        world.want(2, log_level="error")
    assert world.record()["attempts"] == 1
    with pytest.raises(KeyboardInterrupt):
        world.boot()
    assert world.record()["attempts"] == 2
    world.boot()
    assert world.state.in_force.ver == 1
    assert (world.record()["status"], world.record()["ver"]) == ("rejected", 2)
    assert "twice" in world.record()["error"]


def test_a_bug_while_it_is_applied_is_its_outcome_and_the_next_version_is_followed(world):
    def bug(desired, run):
        raise ZeroDivisionError("oops")

    good, world.state._apply = world.state._apply, bug
    world.want(1)
    assert world.record()["status"] == "rejected"
    assert world.reports[-1]["err"] == "ZeroDivisionError: oops"
    world.state._apply = good
    world.want(2)
    assert world.state.in_force.ver == 2


def test_an_untried_one_is_tried_by_the_next_start(world):
    world.want(1)
    record = world.record()
    record.update(ver=2, status="pending", attempts=0, text=desired_text(2, log_level="error"))
    (world.folder / "desired.json").write_text(json.dumps(record))
    world.boot()
    assert world.applied == [1, 1, 2]
    assert world.state.in_force.ver == 2


def test_a_kept_state_that_cannot_be_had_any_more_is_reported_as_rejected(world):
    world.want(5, policy="quiet")
    world.outcome = Applied("policy: there is no policy 'quiet'")
    world.boot()
    assert world.state.in_force is None
    assert world.record()["status"] == "rejected"
    assert world.state.overrules_policy() is None


def test_only_a_policy_of_the_fleet_overrules_the_file(world):
    world.want(1, log_level="debug")
    assert world.state.overrules_policy() is None
    world.want(2, policy="quiet")
    assert "version 2" in world.state.overrules_policy()


def test_a_disk_that_takes_nothing_refuses_before_anything_is_tried(world, monkeypatch):
    def full(path, document):
        raise StorageError("disk full")

    monkeypatch.setattr(state_file, "write_json", full)
    world.want(1)
    assert world.applied == []
    assert world.refusals[-1].code == "storage"
    monkeypatch.undo()
    world.want(1)
    assert world.applied == [1]


def test_an_end_that_cannot_be_remembered_is_followed_all_the_same(world, monkeypatch):
    write, writes = state_file.write_json, []

    def once(path, document):
        writes.append(1)
        if len(writes) > 1:
            raise StorageError("disk full")
        write(path, document)

    monkeypatch.setattr(state_file, "write_json", once)
    world.want(1)
    assert world.state.in_force.ver == 1
    assert world.reports[-1]["status"] == "applied"


def test_a_deleted_retained_message_withdraws_nothing(world):
    world.want(1)
    world.send(b"")
    assert world.state.in_force.ver == 1
    assert world.refusals == []


def test_the_newest_of_several_messages_counts_and_all_are_acknowledged(world):
    for ver in (1, 2, 3):
        payload = signed(desired_text(ver))
        world.state.on_request(Inbound(TOPICS.desired, payload, None, None, world._acknowledge))
    world.state.round()
    assert world.applied == [3]
    assert world.acknowledged == 3


def test_reports_wait_for_the_link_and_come_again_with_a_new_connection(world):
    world.linked = False
    world.want(1)
    count = len(world.reports)
    world.state.round()
    assert len(world.reports) == count + 1
    world.linked = True
    world.state.round()
    world.state.round()
    assert len(world.reports) == count + 2
    world.state.on_connected()
    world.state.round()
    assert len(world.reports) == count + 3


def test_every_problem_of_a_document_is_named_with_its_key_path(world):
    world.want(1, log_level="loud", window_s=-1, modles=[])
    message = world.refusals[-1].message
    for part in ("log_level", "window_s", "modles", "did you mean models"):
        assert part in message


def test_a_damaged_record_is_an_error_at_the_beginning(tmp_path):
    (tmp_path / "desired.json").write_text("{")
    with pytest.raises(StorageError):
        World(tmp_path)
    (tmp_path / "desired.json").write_text('{"version": 9}')
    with pytest.raises(ValidationError):
        World(tmp_path)


def test_threads_follow_and_end(world):
    world.state.start()
    world.state.on_request(Inbound(TOPICS.desired, signed(desired_text(1)), None, None, world._acknowledge))
    until(lambda: world.state.in_force is not None and world.reports)
    assert world.state.in_force.ver == 1
    assert world.state.alive()
    world.state.stop()
    assert not world.state.alive()


@pytest.mark.parametrize(
    "fields",
    [
        {"ver": 0}, {"ver": 2**60}, {"models": ["a", "a"]}, {"policy": "x", "inline_policy": {}}, {"window_s": 0},
        {"kind": "command"},
    ],
)  # fmt: skip
def test_a_document_that_contradicts_itself_is_none(fields):
    with pytest.raises(ValidationError):
        Desired.model_validate_json(json.dumps({**json.loads(desired_text(1)), **fields}))
