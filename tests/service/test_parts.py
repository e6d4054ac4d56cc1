"""The smaller parts of the composition: board, store, policy watch, sampler, service manager, state files."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from agent.errors import BadInput, ConfigError, StorageError
from agent.ports import Reading
from agent.schema.settings import LaneSettings, Settings, SimulatedAccelerator
from agent.service.board import make_board
from agent.service.conditions import MAX_CONDITIONS, ConditionBook
from agent.service.policy_watch import PolicyWatch
from agent.service.sampler import Sampler
from agent.service.serving import model_store
from agent.service.systemd import ServiceManager
from agent.storage import boot, share, state_file
from agent.storage.boot import Boot
from tests.fakes import FakeClock
from tests.service.world import profile

# ------------------------------------------------------------------------------------------------ board


def test_a_simulated_accelerator_brings_its_own_memory_and_name():
    board = make_board(profile("cpu"), (SimulatedAccelerator(name="npu0", like="other/gpu"),), lambda _: profile("gpu"))
    npu = board.profile.accelerator("npu0")
    assert (npu.memory_domain, board.simulated) == ("npu0-memory", {"npu0"})
    assert board.threads(npu) == 1
    assert board.profile.accelerator("cpu") == profile("cpu").accelerator("cpu")


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (
            SimulatedAccelerator(name="npu0", like="other/tpu"),
            "simulated_accelerators.0.like: other has no accelerator",
        ),
        (SimulatedAccelerator(name="cpu", like="other/gpu"), "simulated_accelerators.0.name: 'cpu' is already"),
    ],
)
def test_a_simulated_accelerator_that_cannot_be_is_a_configuration_error(entry, words):
    with pytest.raises(ConfigError, match=words):
        make_board(profile("cpu"), (entry,), lambda _: profile("gpu"))


def test_a_cpu_lane_uses_all_cores_unless_the_profile_says_otherwise():
    board = make_board(profile("cpu"), (), profile, cores=3)
    assert board.threads(board.profile.accelerator("cpu")) == 3


def test_a_lane_has_the_cores_the_memory_and_the_priority_of_the_settings(monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3})
    lanes = {"cpu": LaneSettings(cores=(2, 3), memory_limit_bytes=2**30, nice=5)}
    board = make_board(profile("cpu", "gpu"), (), profile, lanes=lanes)

    spec = board.lane(board.profile.accelerator("cpu"))
    assert (spec.threads, spec.cpu_affinity, spec.memory_limit_bytes, spec.nice) == (2, (2, 3), 2**30, 5)
    other = board.lane(board.profile.accelerator("gpu"))
    assert (other.cpu_affinity, other.memory_limit_bytes, other.nice) == (None, None, 0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("npu", r"lanes\.npu: .* has no such accelerator \(it has cpu\)"),
        ("cpu", r"lanes\.cpu\.cores: the agent may not use core 7 \(it may use 0, 1\)"),
    ],
)
def test_a_lane_that_cannot_be_is_a_configuration_error(monkeypatch, name, words):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    with pytest.raises(ConfigError, match=words):
        make_board(profile("cpu"), (), profile, lanes={name: LaneSettings(cores=(1, 7))})


def test_lanes_without_a_process_take_no_cores_of_their_own():
    with pytest.raises(ValueError, match="set isolation to process"):
        Settings(version=1, isolation="thread", lanes={"cpu": LaneSettings(nice=1)})


# ------------------------------------------------------------------------------------------------ store


def test_a_model_that_was_added_is_served_beside_those_of_the_settings(tmp_path):
    source = tmp_path / "My Model.onnx"
    source.write_bytes(b"onnx")
    entry = model_store.add(source, None, tmp_path / "state")
    assert (entry.name, entry.path.read_bytes()) == ("my-model", b"onnx")
    settings = Settings.model_validate(
        {"version": 1, "state_dir": tmp_path / "state", "models": [{"name": "other", "path": "/x.onnx"}]}
    )
    assert [m.name for m in model_store.configured(settings)] == ["other", "my-model"]


@pytest.mark.parametrize(("file", "name"), [("m.bin", None), ("m.onnx", "Bad Name"), ("m.onnx", "../escape")])
def test_a_file_that_is_no_model_or_a_name_that_is_none_is_refused(tmp_path, file, name):
    (tmp_path / file).write_bytes(b"x")
    with pytest.raises(BadInput):
        model_store.add(tmp_path / file, name, tmp_path / "state")
    assert model_store.entries(tmp_path / "state") == ()


def test_a_missing_source_says_so(tmp_path):
    with pytest.raises(StorageError, match="No such file"):
        model_store.add(tmp_path / "gone.onnx", None, tmp_path / "state")


# ------------------------------------------------------------------------------------------------ policy watch


def test_an_edit_is_noticed_once_and_a_broken_one_carries_file_and_line(tmp_path):
    path = tmp_path / "p.yaml"
    good = share.find_policy("balanced").read_text()
    path.write_text(good)
    watch = PolicyWatch(path)
    assert watch.poll() is None

    path.write_text(good.replace("name: balanced", "name: mine"))
    assert watch.poll().policy.name == "mine"
    assert watch.poll() is None

    path.write_text(good.replace("soft_c:", "sofft_c:"))
    edit = watch.poll()
    assert edit.policy is None
    assert f"{path}:" in edit.error
    assert "soft_c" in edit.error


def test_a_forced_poll_reads_an_unchanged_file_and_a_removed_one_is_reported(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text(share.find_policy("quiet").read_text())
    watch = PolicyWatch(path)
    assert watch.poll(force=True).policy.name == "quiet"
    path.unlink()
    assert "is gone" in watch.poll().error


# ------------------------------------------------------------------------------------------------ sampler


class _Sensor:
    name = "t"

    def read(self, now_s):
        return Reading("t", "temperature_c", 40.0, None, now_s)


def test_a_round_reads_every_sensor_and_passes_on_edits(tmp_path):
    path = tmp_path / "p.yaml"
    path.write_text("broken")
    samples, edits = [], []
    sampler = Sampler([_Sensor()], PolicyWatch(path), FakeClock(), lambda: 0.01, samples.append, edits.append)
    sampler.round()
    assert samples[0].readings[0].value == 40.0
    assert edits == []
    sampler.reload()
    sampler.round()
    assert edits[0].policy is None


def test_the_sampler_thread_runs_until_it_is_stopped(tmp_path):
    samples = []
    sampler = Sampler([_Sensor()], PolicyWatch(tmp_path / "none"), FakeClock(), lambda: 0.001, samples.append, print)
    sampler.start()
    assert sampler.alive()
    sampler.stop()
    assert not sampler.alive()
    assert samples


# ------------------------------------------------------------------------------------------------ service manager


def test_the_service_manager_hears_ready_progress_and_stopping(tmp_path):
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
        server.bind(address)
        manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "10000000"})
        manager.ready("ok")
        manager.progress("fine")
        manager.stopping()
        assert server.recv(100) == b"READY=1\nSTATUS=ok"
        assert server.recv(100) == b"WATCHDOG=1\nSTATUS=fine"
        assert server.recv(100) == b"STOPPING=1"
    assert manager.watchdog_s == 10.0
    manager.progress("nobody listens any more")


def test_without_a_service_manager_nothing_happens():
    manager = ServiceManager({})
    manager.ready("alone")
    assert manager.watchdog_s == 0.0


# ------------------------------------------------------------------------------------------------ state files


def test_every_start_counts_one_boot(tmp_path):
    assert [Boot(tmp_path).number for _ in range(3)] == [1, 2, 3]


def test_a_damaged_boot_counter_never_goes_back(tmp_path):
    (tmp_path / boot.FILE).write_text("{half")
    assert Boot(tmp_path).number > 1_000_000_000


def test_a_document_survives_and_leaves_nothing_else_behind(tmp_path):
    state_file.write_json(tmp_path / "a" / "x.json", {"k": 1})
    assert state_file.read_json(tmp_path / "a" / "x.json") == {"k": 1}
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["x.json"]
    assert state_file.read_json(tmp_path / "none.json") is None


def test_an_unusable_state_folder_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="state_dir must be writable"):
        state_file.write_json(tmp_path / "file" / "x.json", {})


def test_a_damaged_document_is_named(tmp_path):
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(StorageError, match=r"x\.json: damaged"):
        state_file.read_json(tmp_path / "x.json")
    (tmp_path / "d").mkdir()
    with pytest.raises(StorageError, match="owner and mode of state_dir"):
        state_file.read_json(tmp_path / "d")


def test_a_document_of_somebody_else_is_not_read_into_memory(tmp_path):
    with (tmp_path / "big.json").open("wb") as stream:
        os.truncate(stream.fileno(), state_file.MAX_BYTES + 10)
    with pytest.raises(StorageError, match="larger than"):
        state_file.read_json(tmp_path / "big.json")


# ------------------------------------------------------------------------------------------------ conditions


def test_conditions_are_bounded():
    book = ConditionBook()
    added = [book.set(f"c{i}", "x", "y", "z", float(i)) for i in range(MAX_CONDITIONS + 5)]
    assert added.count(True) == MAX_CONDITIONS
    assert len(book.all()) == MAX_CONDITIONS


def test_shipped_policies_survive_json(tmp_path):
    from agent.schema.policy import Policy
    from agent.storage import yaml_files

    for name in share.list_policies():
        policy = yaml_files.load_policy(share.find_policy(name))
        assert Policy.model_validate(json.loads(json.dumps(policy.model_dump(mode="json")))) == policy
    assert isinstance(tmp_path, Path)
