"""Weights apart: which files get them, how much disk they may take, and what a plan then loads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.schema.settings import ModelEntry
from agent.service.board import Board
from agent.service.planning.planner import Planner
from agent.service.serving import artifacts, weights_apart
from agent.service.serving.artifacts import open_artifact
from agent.service.serving.weights_apart import WeightsApart
from agent.storage import share, yaml_files
from agent.workload.examine import GRAPH_FILE
from tests.service.test_split_planner import profile


def saved(path: Path, amount: float = 1.0) -> Path:
    """160 KB of weights."""
    weights = numpy_helper.from_array(np.full((200, 200), amount, np.float32), "w")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 200]) for n in "xy"]
    graph = helper.make_graph([helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(weights_apart, "LEAST_BYTES", 100_000)
    return


def plans(planner: Planner, path: Path, running=None):  # type: ignore[no-untyped-def]
    policy = yaml_files.load_policy(share.find_policy("balanced"))
    return planner.plan(policy, "p", (ModelEntry(name="m", path=path),), running=running)


def test_a_plan_loads_the_graph_whose_weights_lie_apart_and_forgets_that_of_a_version_before_the_last(tmp_path):
    planner = Planner(Board(profile("a"), frozenset({"a"}), 2), tmp_path / "state" / "workloads")
    first = plans(planner, saved(tmp_path / "m.onnx"))
    second = plans(planner, saved(tmp_path / "m.onnx", 2.0), first)
    paths = [plan.models[0].candidates[0].load.path for plan in (first, second)]

    assert [p.name for p in paths] == [GRAPH_FILE] * 2
    assert first.models[0].candidates[0].load.source == tmp_path / "m.onnx"  # whom known questions are shared with
    assert paths[0].is_file()  # requests are still served from it

    third = plans(planner, tmp_path / "m.onnx", second)

    assert third.models[0].candidates[0].load == second.models[0].candidates[0].load
    assert not paths[0].exists()
    assert paths[1].is_file()


def test_a_file_is_read_by_one_child_and_never_again(tmp_path, monkeypatch):
    asked = []
    real = artifacts.examine_in_child
    monkeypatch.setattr(artifacts, "examine_in_child", lambda *a: asked.append(a) or real(*a))
    for alone in ("facts_in_child", "inspect_in_child"):
        monkeypatch.setattr(artifacts.file_facts if alone[0] == "f" else artifacts, alone, pytest.fail)
    planner = Planner(Board(profile("a"), frozenset({"a"}), 2), tmp_path / "state" / "workloads")

    plans(planner, saved(tmp_path / "m.onnx"))
    plans(planner, tmp_path / "m.onnx")

    assert len(asked) == 1


def test_small_files_and_other_formats_stay_as_they_are(tmp_path, monkeypatch):
    apart = WeightsApart(tmp_path / "apart")
    (tmp_path / "t.tflite").write_bytes(bytes(200_000))
    artifact = open_artifact(saved(tmp_path / "m.onnx"))
    assert apart.folder_for(artifact) is not None
    assert apart.folder_for(open_artifact(tmp_path / "t.tflite")) is None
    assert WeightsApart(tmp_path / "apart", 0).folder_for(artifact) is None
    monkeypatch.setattr(weights_apart, "LEAST_BYTES", 1_000_000)
    assert apart.folder_for(artifact) is None
    assert apart.path_of(artifact.digest, artifact.path) == artifact.path


def test_all_of_them_take_no_more_disk_than_they_may(tmp_path):
    apart = WeightsApart(tmp_path / "apart", 300_000)
    for at, most in ((1.0, True), (2.0, False)):
        artifact = open_artifact(saved(tmp_path / f"{at}.onnx", at))
        folder = apart.folder_for(artifact)
        assert (folder is not None) == most
        if folder is not None:
            artifacts.read_once(artifact, tmp_path / "cache", folder)
    apart.keep_only([])
    assert apart.folder_for(open_artifact(tmp_path / "2.0.onnx")) is not None


def test_a_full_disk_leaves_the_weights_in_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_apart.shutil, "disk_usage", lambda _: weights_apart.shutil._ntuple_diskusage(1, 1, 0))
    assert WeightsApart(tmp_path / "apart").folder_for(open_artifact(saved(tmp_path / "m.onnx"))) is None


def test_a_file_that_cannot_be_read_is_left_to_those_who_say_why(tmp_path):
    (tmp_path / "m.onnx").write_bytes(b"no model")
    artifacts.read_once(open_artifact(tmp_path / "m.onnx"), tmp_path / "cache", None)
    assert not (tmp_path / "cache").exists()
