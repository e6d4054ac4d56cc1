"""Commands over fake parts: every crash point, nothing run twice."""

from __future__ import annotations

import json
import threading
import time

import pytest

from agent.errors import PlacementError, StorageError
from agent.mqtt.inbound import Inbound
from agent.schema.command import KINDS
from agent.service.remote.commands import CommandFailed, Run
from tests.mqtt.signed import signed
from tests.service.command_world import TOPICS, World


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.table.close()


def test_a_command_is_accepted_run_and_ended_and_each_is_told(world):
    command = world.send(world.text())
    assert world.acknowledged == 1
    assert world.statuses(command) == ["accepted"]
    world.work()
    assert world.statuses(command) == ["accepted", "running", "ok"]
    assert world.ran == ["plan"]
    assert world.ends(command) == [
        {"id": command, "command": "plan", "status": "ok", "attempts": 1, "out": {"did": "plan"}}
    ]
    world.work()
    assert world.ran == ["plan"]
    assert len(world.ends(command)) == 1


def test_every_supported_kind_has_arguments_that_can_be_checked(world):
    given = {"restart-lane": {"accelerator": "cpu"}, "set-log-level": {"level": "info"}}
    given |= {"model-add": {"name": "m"}, "model-remove": {"name": "m"}}
    for name, kind in KINDS.items():
        command = world.send(world.text(name, args=given.get(name, {})))
        world.work()
        assert world.statuses(command)[-1] == ("ok" if kind.supported else "rejected")


def test_a_repeat_gets_the_stored_result_before_during_and_after(world):
    text = world.text()
    command = world.send(text)
    world.send(text)
    assert world.statuses(command) == ["accepted", "accepted"]
    world.work()
    world.send(text)
    world.crash()
    world.send(text)
    world.work()
    assert world.statuses(command)[-2:] == ["ok", "ok"]
    assert world.sent[-1][1]["repeat"]
    assert world.sent[-1][1]["out"] == {"did": "plan"}
    assert world.ran == ["plan"]


def test_a_crash_between_acceptance_and_begin_runs_it_at_the_next_start(world):
    command = world.send(world.text("drain"))
    world.crash()
    world.work()
    assert world.ran == ["drain"]
    assert world.ends(command)[0]["status"] == "ok"


@pytest.mark.parametrize(("name", "args"), [("restart-lane", {"accelerator": "cpu"}), ("drain", {}), ("calibrate", {})])
def test_a_crash_while_it_runs_ends_what_must_not_be_repeated_as_interrupted(world, name, args):
    command = world.send(world.text(name, args=args))
    world.table.begin(command, world.clock.wall_s())
    world.crash()
    world.work()
    assert world.ran == []
    (end,) = world.ends(command)
    assert (end["status"], end["code"], end["attempts"]) == ("failed", "interrupted", 1)
    assert world.statuses(command)[-1] == "failed"


def test_a_crash_while_it_runs_begins_what_may_be_repeated_once_more_and_no_third_time(world):
    command = world.send(world.text("plan"))
    world.table.begin(command, world.clock.wall_s())
    world.crash()
    world.work()
    assert world.ran == ["plan"]
    assert world.ends(command)[0]["attempts"] == 2

    other = world.send(world.text("plan"))
    for _ in range(2):
        world.table.begin(other, world.clock.wall_s())
    world.crash()
    world.work()
    assert world.ran == ["plan"]
    assert world.ends(other)[0]["code"] == "interrupted"


def test_a_crash_between_the_end_and_its_telling_tells_it_at_the_next_start(world):
    command = world.send(world.text())
    world.recorder.safe = False
    world.work()
    world.crash()
    assert world.ends(command) == []
    world.recorder.safe = True
    world.work()
    assert len(world.ends(command)) == 1
    assert world.ran == ["plan"]
    world.crash()
    world.work()
    assert len(world.ends(command)) == 1


@pytest.mark.parametrize("name", ["plan", "no-such-thing"])
def test_a_crash_between_the_end_and_its_response_answers_the_caller_at_the_next_start(world, monkeypatch, name):
    command = world.send(world.text(name), topic=TOPICS.response("mine"), correlation=b"c")
    world.sent.clear()  # as if the end of one that is refused at once had not gone out
    monkeypatch.setattr(world.reports, "ended", lambda row: False)  # killed once the end is on disk, before it is told
    monkeypatch.setattr(world.reports, "recorded", lambda row: False)
    world.work()
    world.crash()
    world.sent.clear()
    world.work()
    end = "ok" if name == "plan" else "rejected"
    assert [(t, d["status"], c) for t, d, c in world.sent] == [(TOPICS.response("mine"), end, b"c")]
    assert [fields["status"] for fields in world.ends(command)] == [end]
    world.crash()
    world.work()
    assert world.statuses(command) == [end]  # once told it is not told again


def test_a_disk_that_is_full_for_ten_minutes_makes_one_event_of_one_end(world):
    commands = [world.send(world.text()) for _ in range(3)]
    world.recorder.safe = False
    for _ in range(120):
        world.commands.round()
    assert [len(world.ends(command)) for command in commands] == [1, 1, 1]
    world.recorder.safe = True
    world.work()
    assert world.table.untold() == []
    assert [len(world.ends(command)) for command in commands] == [1, 1, 1]


def test_a_command_that_waited_too_long_is_not_begun(world):
    command = world.send(world.text())
    world.clock.advance(61)
    world.work()
    assert world.ran == []
    assert world.ends(command)[0]["status"] == "expired"


def test_failures_carry_the_code_of_what_failed(tmp_path):
    def own(args, run):
        raise CommandFailed("still_busy", "3 requests")

    def ours(args, run):
        raise PlacementError("does not fit")

    def bug(args, run):
        raise ZeroDivisionError("oops")

    world = World(tmp_path, {"drain": own, "plan": ours, "reload": bug})
    found = {}
    for name in ("drain", "plan", "reload"):
        command = world.send(world.text(name))
        world.work()
        found[name] = (world.ends(command)[0]["code"], world.ends(command)[0]["message"])
    assert found["drain"] == ("still_busy", "3 requests")
    assert found["plan"] == ("infeasible", "does not fit")
    assert found["reload"] == ("bug", "ZeroDivisionError: oops")
    world.table.close()


def test_progress_is_told_at_most_once_a_second_and_a_limit_ends_it(tmp_path):
    world: World

    def slow(args, run):
        for i in range(2000):
            world.clock.advance(0.25)
            run.progress(f"step {i}", i / 2000)
        return {}

    world = World(tmp_path, {"plan": slow})
    command = world.send(world.text())
    world.work()
    told = [d["progress"]["message"] for _, d, _ in world.sent if d["id"] == command and "progress" in d]
    assert told[:3] == ["step 0", "step 4", "step 8"]
    assert world.ends(command)[0]["code"] == "timed_out"
    world.table.close()


def test_a_stop_while_it_runs_ends_it_as_interrupted(tmp_path):
    world: World

    def waits(args, run):
        world.commands._stopping.set()
        run.wait(lambda: False, "for ever")

    world = World(tmp_path, {"plan": waits})
    command = world.send(world.text())
    world.work()
    assert world.ends(command)[0]["code"] == "interrupted"
    world.table.close()


def test_responses_go_where_the_caller_wants_in_our_own_tree_only(world):
    mine = TOPICS.response("mine")
    world.send(world.text(), topic=mine, correlation=b"c")
    assert world.sent[-1][0] == mine
    assert world.sent[-1][2] == b"c"
    for foreign in ("qeil/v1/acme/b2/up/res/x", TOPICS.response("#"), TOPICS.response("a+"), TOPICS.state):
        world.send(world.text(), topic=foreign)
        assert world.sent[-1][0] == TOPICS.response("plan")


def test_responses_wait_for_the_link_and_the_oldest_give_way(world):
    world.linked = False
    command = world.send(world.text())
    world.work()
    world.linked = True
    world.reports.retry()
    assert world.statuses(command) == ["accepted", "running", "ok"]


def test_a_response_that_is_larger_than_the_broker_takes_holds_up_no_other(tmp_path):
    world = World(tmp_path, {"plan": lambda args, run: {"rows": "x" * 5000}})
    world.largest_bytes = 2000
    large = world.send(world.text("plan"))
    world.work()
    world.linked = False
    small = world.send(world.text("reload"))
    world.work()
    world.linked = True
    world.reports.retry()
    ends = [document["id"] for _, document, _ in world.sent if document["status"] == "ok"]
    assert ends == [small]
    world.largest_bytes = 10_000
    world.reports.retry()
    world.reports.retry()
    ends = [document["id"] for _, document, _ in world.sent if document["status"] == "ok"]
    assert ends == [small, large]
    world.table.close()


def test_an_end_that_the_disk_refuses_is_written_when_it_takes_it_again(world, monkeypatch):
    monkeypatch.setattr("agent.service.remote.commands.RETRY_S", 0.01)
    command = world.send(world.text())
    finish, failures = world.table.finish, [StorageError("full"), StorageError("full")]

    def failing(*arguments):
        if failures:
            raise failures.pop()
        finish(*arguments)

    monkeypatch.setattr(world.table, "finish", failing)
    world.work()
    assert world.ends(command)[0]["status"] == "ok"
    assert world.ran == ["plan"]


def test_threads_take_in_while_a_command_runs_and_end_when_told(tmp_path):
    release, begun = threading.Event(), threading.Event()

    def holds(args, run: Run):
        begun.set()
        run.wait(release.is_set, "for the test")
        return {}

    world = World(tmp_path, {"plan": holds})
    world.commands.start()
    first = world.text()
    world.commands.on_request(Inbound("t", signed(first), None, None, world._acknowledge))
    assert begun.wait(60)
    second = world.text("reload")
    world.commands.on_request(Inbound("t", signed(second), None, None, world._acknowledge))
    until(lambda: world.statuses(json.loads(second)["id"]) == ["accepted"])
    assert world.commands.alive()
    release.set()
    until(lambda: world.ends(json.loads(second)["id"]))
    assert world.ends(json.loads(first)["id"])[0]["status"] == "ok"
    world.commands.stop()
    assert not world.commands.alive()


def until(condition, timeout_s=60.0):
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.01)
