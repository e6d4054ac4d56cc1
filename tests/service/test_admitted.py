"""A lane that loads a model again takes the file that was admitted, and no other one behind its name."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace

import pytest

from agent.errors import ModelLoadFailed
from agent.schema.settings import ModelEntry
from agent.service.board import Board
from agent.service.planning.plan import Candidate, ModelPlan, Plan
from agent.service.planning.planner import Planner
from agent.service.serving.admitted import Admitted, recognise, stamp_of, weights_of
from agent.service.serving.artifacts import open_artifact
from agent.service.serving.serving_state import InForce
from tests.fakes import load_spec
from tests.service import world
from tests.service.test_replanning import BOARD
from tests.service.world import POLICY, World


def admit(path):
    artifact = open_artifact(path)
    return Admitted(path, artifact.digest, artifact.stamp)


def plan(path, name="m", digest="sha"):
    load = replace(load_spec(name), path=path, source=path)
    candidates = [Candidate(a, load, 0.01, 0.05, 2.0, admitted=admit(path)) for a in ("gpu0", "cpu")]
    return Plan("d1", (ModelPlan("m", "1", digest, None, tuple(candidates)),))


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "add.onnx"
    path.write_bytes(b"the admitted one")
    return path


@pytest.fixture
def bed(file, monkeypatch):
    monkeypatch.setattr(world, "plan_of", lambda models: plan(file))
    return World()


def settle(bed, seconds=5.0):
    """Time passes in small steps, and whoever reads a file is waited for."""
    for _ in range(round(seconds / 0.5)):
        bed.tick(0.5)
        for thread in threading.enumerate():
            if thread.name == "model-file":
                thread.join(10.0)
    bed.tick()


def kill_all(bed):
    for name in ("gpu0", "cpu"):
        bed.lane(name).die()
    settle(bed)


def test_a_file_that_changed_since_is_not_loaded_by_a_lane_that_begins_anew(bed, file):
    file.write_bytes(b"quite another ..")
    bed.lane("gpu0").die()
    settle(bed)
    assert bed.lane("gpu0").loaded == {}
    told = bed.condition("model_changed:m@gpu0")
    assert "add.onnx changed since it was admitted (sha256 " in told.cause
    assert "qeil models load m" in told.cause
    assert bed.infer().result().placement == "cpu"
    kill_all(bed)
    error = bed.infer().exception()
    assert error.status == 503
    assert "changed since it was admitted" in error.message


def test_a_stage_that_changed_since_it_was_cut_is_not_loaded_and_its_model_is_to_be_cut_again(file, monkeypatch):
    monkeypatch.setattr(world, "plan_of", lambda models: plan(file, "m/1of2-k"))
    bed = World()
    file.write_bytes(b"quite another ..")
    bed.lane("gpu0").die()
    settle(bed)
    reason = bed.keepers["gpu0"].models["m/1of2-k"].reason
    assert reason.endswith("its stages are cut again: qeil models load m")


def test_a_changed_file_whose_size_and_time_were_kept_is_found_too(bed, file):
    before = file.stat()
    file.write_bytes(b"the admittEd one")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    kill_all(bed)
    assert bed.infer().exception().status == 503


def test_a_file_with_the_same_content_is_loaded_whatever_its_times(bed, file):
    copy = file.with_suffix(".copy")
    shutil.copyfile(file, copy)
    copy.replace(file)
    kill_all(bed)
    assert bed.infer().result().placement == "gpu0"
    assert not any(c.type.startswith("model_changed") for c in bed.snapshot.conditions)


def test_a_file_that_was_put_back_is_taken_by_the_lanes_next_start_or_by_the_next_plan(bed, file):
    content = file.read_bytes()
    file.unlink()
    kill_all(bed)
    assert bed.condition("model_changed:m@cpu") is not None
    file.write_bytes(content)
    bed.lane("cpu").die()
    settle(bed)
    assert bed.infer().result().placement == "cpu"
    assert bed.condition("model_changed:m@gpu0") is not None
    bed.supervisor._state.propose(InForce(POLICY, "d1", plan(file)))
    settle(bed, 1.0)
    assert bed.infer().result().placement == "gpu0"
    assert bed.condition("model_changed:m@gpu0") is None


def test_a_file_that_changes_while_a_lane_loads_it_is_not_served(bed, file):
    bed.prepare = lambda lane, generation: setattr(lane, "hold_loads", True)
    bed.lane("gpu0").die()
    settle(bed, 1.0)
    lane = bed.lane("gpu0")
    file.write_bytes(b"quite another ..")
    lane.release_loads()
    settle(bed, 1.0)
    assert lane.loaded == {}
    assert "changed while it was loaded" in bed.condition("model_changed:m@gpu0").cause


def test_another_file_under_the_same_name_is_loaded_and_never_taken_for_the_old_one(bed, file):
    loads = []
    lane = bed.lane("gpu0")
    load = lane.load
    lane.load = lambda spec, timeout_s: (loads.append(spec), load(spec, timeout_s))[1]
    file.write_bytes(b"quite another ..")
    bed.supervisor._state.propose(InForce(POLICY, "d1", plan(file, digest="new")))
    settle(bed, 1.0)
    assert len(loads) == 1


@pytest.fixture
def weighed(file, monkeypatch):
    """A world whose model has its weights in a file of their own."""
    weights = file.with_name("weights.bin")
    weights.write_bytes(b"the admitted weights")
    admitted = replace(admit(file), weights=weights_of(file, ("weights.bin",), {}))
    made = plan(file)
    model = made.models[0]
    candidates = tuple(replace(c, admitted=admitted) for c in model.candidates)
    monkeypatch.setattr(world, "plan_of", lambda models: replace(made, models=(replace(model, candidates=candidates),)))
    return World(), weights


def test_weights_that_are_a_pipe_are_refused_instead_of_read_for_ever(file):
    os.mkfifo(file.with_name("weights.bin"))
    with pytest.raises(ModelLoadFailed, match="which is no regular file"):
        weights_of(file, ("weights.bin",), {})


def test_weights_beside_a_file_that_changed_since_are_not_loaded_by_a_lane_that_begins_anew(weighed):
    bed, weights = weighed
    weights.write_bytes(b"the admittEd weights")
    kill_all(bed)
    assert "weights.bin changed since it was admitted" in bed.infer().exception().message
    weights.write_bytes(b"the admitted weights")
    kill_all(bed)
    assert bed.infer().result().placement == "gpu0"


def test_weights_beside_a_file_that_change_while_a_lane_loads_them_are_not_served(weighed):
    bed, weights = weighed
    bed.prepare = lambda lane, generation: setattr(lane, "hold_loads", True)
    bed.lane("gpu0").die()
    settle(bed, 1.0)
    weights.write_bytes(b"other weights")
    bed.lane("gpu0").release_loads()
    settle(bed, 1.0)
    assert bed.lane("gpu0").loaded == {}
    assert "weights.bin changed while it was loaded" in bed.condition("model_changed:m@gpu0").cause


def test_weights_are_read_once_while_they_stay_as_they_are_and_named_where_they_are_missing(file):
    weights, known = file.with_name("weights.bin"), {}
    weights.write_bytes(b"weights")
    first = weights_of(file, ("weights.bin",), known)
    assert weights_of(file, ("weights.bin",), known)[0] is first[0]
    weights.write_bytes(b"others!")
    assert weights_of(file, ("weights.bin",), known)[0].digest != first[0].digest
    with pytest.raises(ModelLoadFailed, match=r"weights are in 'none.bin': No such file"):
        weights_of(file, ("none.bin",), known)


def test_what_was_admitted_is_recognised_by_its_content(file):
    admitted = admit(file)
    assert recognise(admitted) == (stamp_of(file),) == (admitted.stamp,)
    file.unlink()
    assert stamp_of(file) is None
    with pytest.raises(ModelLoadFailed, match="admitted before: No such file"):
        recognise(admitted)


def test_a_plan_says_what_was_admitted_and_whether_its_graph_draws(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    graph = helper.make_graph([helper.make_node("RandomNormalLike", ["x"], ["y"])], "g", ends[:1], ends[1:])
    path = tmp_path / "draws.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    entry = ModelEntry(name="m", path=path)
    (model,) = Planner(Board(BOARD, frozenset(), 2), tmp_path / "cache").plan(POLICY, "d", (entry,)).models
    assert {c.admitted for c in model.candidates} == {replace(admit(path), draws="RandomNormalLike")}


def test_a_plan_says_which_weights_beside_the_file_were_admitted(tmp_path):
    import numpy as np
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 4]) for name in "xy"]
    constant = numpy_helper.from_array(np.ones(4, np.float32), "w")
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path = tmp_path / "apart.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    (made,) = Planner(Board(BOARD, frozenset(), 2), tmp_path / "cache").plan(
        POLICY, "d", (ModelEntry(name="m", path=path),)
    ).models  # fmt: skip
    assert {c.admitted.weights for c in made.candidates} == {weights_of(path, ("w.bin",), {})}
