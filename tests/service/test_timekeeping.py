"""What an agent tells of its clock: set late, stepped, across restarts of agent and machine, on a full disk."""

from __future__ import annotations

import pytest

from agent.errors import StorageError
from agent.service.remote import timekeeping
from agent.service.remote.timekeeping import FILE, Timekeeping, machine_start
from agent.storage import state_file
from tests.fakes import FakeClock


class World:
    """One board: `begin` is a start of its agent."""

    def __init__(self, folder) -> None:
        self.folder, self.clock = folder, FakeClock()
        self.set_s, self.clock.offset_s = self.clock.offset_s, 0.0
        self.events: list[dict] = []
        self.disk = True
        self.begin("m1")

    def begin(self, machine: str | None) -> None:
        self.kept = Timekeeping(self.folder, self.clock, machine)

    def record(self, kind, fields) -> bool:
        self.events.append({"event": kind, **fields})
        return True

    def look(self) -> list[dict]:
        self.events.clear()
        self.clock.advance(1.0)
        self.kept.look(self.record, lambda: self.disk)
        return list(self.events)


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.fixture
def synchronised(monkeypatch):
    """What says that a time service keeps the clock: call it."""
    quality = Timekeeping.quality
    return lambda: monkeypatch.setattr(
        Timekeeping, "quality", lambda self: "ntp" if quality(self) == "rtc" else quality(self)
    )


def test_a_clock_that_is_set_is_told_once(world):
    assert (world.look(), world.kept.stamp()["tq"], world.kept.stamp()["machine"]) == ([], "none", "m1")
    world.clock.offset_s = world.set_s
    assert world.look() == [{"event": "clock_set", "offset_s": world.set_s, "machine": "m1"}]
    assert world.look() == []


def test_a_restart_before_the_time_arrives_leaves_it_to_the_next_start_to_tell(world):
    world.look()
    world.begin("m1")
    assert world.look() == []
    world.clock.offset_s = world.set_s
    world.begin("m1")  # killed again, and the time came meanwhile
    assert [e["machine"] for e in world.look()] == ["m1"]
    world.begin("m1")
    assert world.look() == []


def test_another_start_of_the_machine_tells_nothing_of_the_one_before(world):
    world.look()
    world.clock.offset_s = world.set_s
    world.begin("m2")
    assert world.look() == []
    world.begin("m2")
    assert world.look() == []


def test_what_is_told_is_told_again_by_the_next_start_unless_it_was_on_disk(world):
    world.look()
    world.clock.offset_s, world.disk = world.set_s, False
    assert len(world.look()) == 1
    assert world.look() == []
    world.begin("m1")
    assert len(world.look()) == 1
    world.disk = True
    world.look()
    world.begin("m1")
    assert world.look() == []


def test_a_step_of_a_set_clock_is_told_and_slow_correction_is_not(world):
    world.clock.offset_s = world.set_s
    world.begin("m1")
    world.look()
    world.clock.offset_s += 2.0
    assert world.look() == []
    world.clock.offset_s += 86_400.0
    assert [e["offset_s"] for e in world.look()] == [world.set_s + 86_402.0]
    assert world.look() == []


def test_the_time_service_that_takes_over_is_told_and_ends_what_rows_carry(world, synchronised):
    world.clock.offset_s = world.set_s
    world.begin("m1")
    assert (world.look(), world.kept.marks()) == ([], {"tq": "rtc", "machine": "m1"})
    synchronised()
    assert (len(world.look()), world.kept.marks()) == (1, {"tq": "ntp"})


def test_a_clock_that_is_unset_again_is_told_when_it_is_set(world):
    world.clock.offset_s = world.set_s
    world.begin("m1")
    world.look()
    world.clock.offset_s = 0.0
    assert world.look() == []
    world.clock.offset_s = world.set_s
    assert len(world.look()) == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"machine":"m1","tq":[],"offset_s":0}', '{"machine":"m1","tq":"ntp"}'])
def test_a_file_that_says_nothing_is_as_none(world, text):
    (world.folder / FILE).write_text(text)
    world.clock.offset_s = world.set_s
    world.begin("m1")
    assert world.look() == []


def test_without_a_name_of_the_machine_start_nothing_is_kept(world):
    world.begin(None)
    world.look()
    world.clock.offset_s = world.set_s
    assert [set(e) for e in world.look()] == [{"event", "offset_s"}]
    assert not (world.folder / FILE).exists()


def test_a_disk_that_takes_nothing_costs_one_line_and_is_not_asked_each_second(world, monkeypatch):
    asked = []

    def full(path, document):
        asked.append(document)
        raise StorageError("full")

    monkeypatch.setattr(timekeeping.state_file, "write_json", full)
    for _ in range(5):
        world.look()
    assert len(asked) == 1


@pytest.mark.parametrize("clock_set", [False, True])
def test_what_a_full_disk_did_not_take_is_kept_once_there_is_room(world, monkeypatch, clock_set):
    asked = []
    if clock_set:
        world.look()
        world.clock.offset_s = world.set_s
    with monkeypatch.context() as disk:
        disk.setattr(timekeeping.state_file, "write_json", full)
        world.look()
        for _ in range(int(timekeeping.RETRY_S) - 2):
            world.clock.advance(1.0)
            world.kept.look(world.record, lambda: asked.append(1) or True)
    assert asked == []
    world.clock.advance(2.0)
    world.look()
    assert state_file.read_json(world.folder / FILE)["tq"] == ("rtc" if clock_set else "none")


def full(path, document):
    raise StorageError("full")


def test_the_start_of_the_machine_has_a_name_where_the_kernel_tells_it(tmp_path):
    assert machine_start(tmp_path) is None
    path = tmp_path / timekeeping.BOOT_ID
    path.parent.mkdir(parents=True)
    path.write_text("0f1e2d3c-aaaa-bbbb-cccc-000000000000\n")
    assert machine_start(tmp_path) == "0f1e2d3c"


def test_what_is_kept_survives_as_written(world):
    world.look()
    assert state_file.read_json(world.folder / FILE)["tq"] == "none"
