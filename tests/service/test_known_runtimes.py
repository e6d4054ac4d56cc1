"""What the last start found is taken where nothing changed since, and looked at again once the agent is up."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from agent.backends import probe
from agent.backends.probe import EpDevice, RuntimeInventory
from agent.service import early_probe, known_runtimes
from agent.service.early_probe import EarlyProbe

FOUND = RuntimeInventory(
    "1.23.0", ("CPUExecutionProvider",), (EpDevice("CPUExecutionProvider", "CPU", "x", None, {"a": "b"}),),
    notes=("LiteRT is not usable",),
)  # fmt: skip


class Looks:
    """Stands for the processes that look at the runtimes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, found: RuntimeInventory = FOUND) -> None:
        self.found, self.count = found, 0
        monkeypatch.setattr(early_probe, "start_probe", self.look)
        monkeypatch.setattr(probe, "start_probe", self.look)
        monkeypatch.setattr(probe, "read_inventory", lambda *_: self.found)

    def look(self, _: float) -> object:
        self.count += 1
        return self


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> Looks:
    return Looks(monkeypatch)


def started(folder: Path) -> tuple[RuntimeInventory, list[str]]:
    told: list[str] = []
    begun = EarlyProbe(folder)
    found = begun.result()
    begun.settle(told.append)
    return found, told


def test_a_second_start_takes_what_the_first_one_found_and_looks_once_it_is_up(looks, tmp_path):
    assert started(tmp_path) == (FOUND, [])
    begun = EarlyProbe(tmp_path)
    assert looks.count == 1
    assert begun.result() == FOUND
    begun.settle([].append)
    assert looks.count == 2


def test_a_start_that_came_to_nothing_makes_the_next_one_look(looks, tmp_path):
    started(tmp_path)
    EarlyProbe(tmp_path).result()
    EarlyProbe(tmp_path)
    assert looks.count == 2


def test_what_changed_unseen_is_told_and_taken_by_the_next_start(looks, tmp_path):
    started(tmp_path)
    looks.found = replace(FOUND, litert="2.0")
    assert started(tmp_path) == (FOUND, ["litert None became '2.0'"])
    assert started(tmp_path) == (looks.found, [])


def test_a_machine_without_runtimes_is_looked_at_each_time(looks, tmp_path):
    looks.found = probe.nothing("it ended")
    started(tmp_path)
    assert not (tmp_path / known_runtimes.FILE).exists()


@pytest.mark.parametrize("kept", ["", "[]", '{"stamp": "other", "found": {}}', '{"stamp": "NOW", "found": []}'])
def test_what_is_no_result_of_now_is_not_taken(kept, tmp_path):
    (tmp_path / known_runtimes.FILE).write_text(kept.replace("NOW", known_runtimes.stamp()))
    assert known_runtimes.take(tmp_path, known_runtimes.stamp()) is None


def test_a_result_of_another_version_is_looked_for_again(looks, tmp_path):
    document = {"stamp": known_runtimes.stamp(), "found": {"onnxruntime": "1"}}
    (tmp_path / known_runtimes.FILE).write_text(json.dumps(document))
    assert started(tmp_path) == (FOUND, [])
    assert looks.count == 1
    assert json.loads((tmp_path / known_runtimes.FILE).read_text())["found"] == json.loads(json.dumps(asdict(FOUND)))


def test_devices_boots_packages_and_variables_change_the_stamp(tmp_path, monkeypatch):
    packages = tmp_path / "packages"
    for folder in ("dev", "proc/sys/kernel/random", "packages"):
        (tmp_path / folder).mkdir(parents=True)
    boot = tmp_path / known_runtimes.FACTS[0]
    boot.write_text("one")

    def stamp() -> str:
        return known_runtimes.stamp(tmp_path, (str(packages),))

    seen = [stamp()]
    assert stamp() == seen[0]
    (tmp_path / "dev/apex_0").touch()
    seen.append(stamp())
    boot.write_text("two")
    seen.append(stamp())
    os.utime(packages, (1, 1))
    seen.append(stamp())
    monkeypatch.setenv("LD_LIBRARY_PATH", "/elsewhere")
    seen.append(stamp())
    assert len(set(seen)) == len(seen)


def test_without_a_known_state_folder_every_start_looks(looks):
    begun = EarlyProbe()
    assert begun.result() == FOUND
    begun.settle([].append)
    assert looks.count == 1


def test_a_probe_that_cannot_begin_is_told_by_its_result(monkeypatch):
    def refused(_: float) -> None:
        raise OSError(12, "no memory")

    monkeypatch.setattr(early_probe, "start_probe", refused)
    assert "no memory" in EarlyProbe().result().notes[0]
