"""What is refused before it runs: too many, too late, replayed, without a clock or a disk."""

from __future__ import annotations

import json

import pytest

from agent.mqtt.inbound import Inbound
from agent.service.remote import command_intake
from agent.service.remote.command_intake import Refusal
from agent.service.remote.command_reports import REFUSALS_A_MINUTE
from tests.mqtt.signed import signed
from tests.service.command_world import World


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.table.close()


def test_refusals_beyond_the_rate_are_counted_and_told_with_the_next(world):
    for _ in range(REFUSALS_A_MINUTE + 7):
        world.send("", payload=b"{")
    kinds = [kind for kind, _ in world.recorder.events]
    assert kinds.count("command_refused") == REFUSALS_A_MINUTE
    assert world.reports.counters["refused"] == REFUSALS_A_MINUTE + 7
    world.clock.advance(61)
    world.send("", payload=b"{")
    assert world.recorder.events[-1][1]["suppressed"] == 7
    assert world.acknowledged == REFUSALS_A_MINUTE + 8


def test_what_is_refused_leaves_no_row_that_anybody_without_a_key_could_fill_the_table_with(world):
    world.send("", payload=b"{}")
    world.send("", payload=signed(world.text(board="b2")))
    assert world.table.recent(10) == []


def judged(world, **fields):
    inbound = Inbound("t", signed(world.text(**fields)), None, None, lambda: None)
    return world.commands._intake.judge(inbound, world.clock.wall_s())


def test_a_board_that_does_not_know_the_time_takes_no_command(world):
    text = world.text()
    world.clock.offset_s = -world.clock.now_s
    inbound = Inbound("t", signed(text), None, None, lambda: None)
    verdict = world.commands._intake.judge(inbound, world.clock.wall_s())
    assert isinstance(verdict, Refusal)
    assert verdict.code == "clock_unset"


def test_a_forgotten_command_cannot_be_replayed(world, monkeypatch):
    text = world.text("restart-lane", args={"accelerator": "cpu"})
    world.send(text)
    world.work()
    world.clock.advance(8 * 86_400)
    world.send(world.text())
    world.work()
    world.clock.offset_s -= 8 * 86_400  # somebody sets the board's clock back
    world.send(text)
    world.work()
    assert world.ran == ["restart-lane", "plan"]
    assert world.recorder.events[-1][1]["code"] == "replayed"


def test_too_many_waiting_commands_are_refused_as_busy(world, monkeypatch):
    monkeypatch.setattr(command_intake, "MAX_WAITING", 2)
    states = [judged(world).row.state for _ in range(3)]
    assert states == ["accepted", "accepted", "rejected"]


def test_a_command_that_the_disk_does_not_take_is_refused_by_its_id_and_runs_once_when_it_comes_again(world):
    text = world.text()
    world.table._db.execute(
        "CREATE TRIGGER no BEFORE INSERT ON commands BEGIN SELECT RAISE(ABORT, 'disk is full'); END"
    )
    for _ in range(2):
        world.send(text)
    refused = [fields for kind, fields in world.recorder.events if kind == "command_refused"]
    assert [(r["id"], r["command"], r["code"]) for r in refused] == [(json.loads(text)["id"], "plan", "storage")] * 2
    assert (world.ran, world.acknowledged) == ([], 2)
    world.table._db.execute("DROP TRIGGER no")
    for _ in range(2):
        world.send(text)
        world.work()
    assert world.ran == ["plan"]
