"""The fleet's side begins when all of it finds room: not before, not by halves, and without a restart."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.schema.settings import MqttSettings, Settings
from agent.service.remote import remote as remote_module
from agent.service.remote.command_actions import Agent, Rejections
from agent.service.remote.remote import Remote
from agent.service.remote.reporting import Reporting
from agent.storage.state_file import StorageFull
from tests.fakes import FakeClock

NO_ROOM = "commands.db: disk I/O error; make room there"


class Link:
    """Counts its starts."""

    connected = storm = None
    client_id = "default-b1"

    def __init__(self) -> None:
        self.starts = 0

    def start(self, *_) -> None:
        self.starts += 1

    def alive(self) -> bool:
        return self.starts == 1

    def stop(self) -> None:
        """Nothing runs."""


class World:
    """A board whose disk is full for one of what it keeps while `full` is set."""

    def __init__(self, folder) -> None:
        self.clock, self.posted = FakeClock(), {}
        self.settings = Settings(version=1, state_dir=folder, mqtt=MqttSettings(host="127.0.0.1", port=9))
        self.reporting = Reporting(self.settings, "b1", 4, self.clock)
        self.reporting.attach(self.post, lambda: None, dict, lambda: 10.0)
        self.reporting._link.stop()
        self.link = self.reporting._link = Link()
        self.reporting._publisher = Link()
        self.reporting._check_link = self.reporting._check_delivery = lambda *_: None

    def post(self, event) -> None:
        self.posted[event.type] = event.cause

    def look(self) -> None:
        """What the watch does each second."""
        self.reporting._begin_late()
        self.reporting.check()

    def remote(self) -> Remote:
        agent = Agent(
            self.settings, Path("p.yaml"), None, None, (), lambda: None, lambda: None, self.post, Rejections(),
            self.clock,
        )  # fmt: skip
        return Remote(self.settings.mqtt, "b1", 4, agent, self.reporting)


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    made.reporting.outbox.start()
    yield made
    made.reporting.outbox.stop()


def full(*_):
    raise StorageFull(NO_ROOM)


@pytest.mark.parametrize("store", ["CommandTable", "open_bundles"])
def test_a_store_without_room_is_tried_again_and_is_no_lasting_condition(world, store, monkeypatch):
    made: list[Remote] = []
    world.reporting.when_begun(lambda: made.append(world.remote()))
    with monkeypatch.context() as disk:
        disk.setattr(remote_module, store, full)
        assert world.reporting.made(world.remote) is None
        for _ in range(3):
            world.look()
            assert (made, world.link.starts) == ([], 0)
            assert world.posted["outbox_failing"] == NO_ROOM
            assert world.reporting.alive()
    world.look()
    assert (len(made), world.link.starts, world.posted["outbox_failing"]) == (1, 1, None)
    assert made[0].commands is not None
    assert made[0].bundles is not None
    assert not {"commands_unavailable", "bundles_unavailable"} & set(world.posted)
    world.look()
    assert (len(made), world.link.starts) == (1, 1)
    made[0].commands.stop()


def test_whatever_hinders_the_begin_the_watch_goes_on_and_tries_again(world):
    troubles = [ValueError("odd"), ValueError("odd")]

    def begin() -> None:
        if troubles:
            raise troubles.pop()

    world.reporting.when_begun(begin)
    world.look()
    assert "odd" in world.posted["outbox_failing"]
    world.look()
    world.look()
    assert (world.link.starts, world.posted["outbox_failing"]) == (1, None)


def test_a_link_that_cannot_start_is_not_taken_for_alive(world):
    def broken() -> None:
        raise RuntimeError("can't start new thread")

    world.link.start = broken
    world.look()
    assert not world.reporting.alive()


def test_the_spool_is_not_flushed_each_second_for_the_clock_while_it_fails(world):
    asked = []
    world.reporting.flushed = lambda: asked.append(1) or True
    world.reporting.outbox.failing = "disk I/O error"
    world.reporting.check()
    assert asked == []
    world.reporting.outbox.failing = None
    world.reporting.check()
    assert len(asked) <= 1
