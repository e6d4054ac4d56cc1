"""Doctor: models that the policy refuses, or leaves no accelerator for."""

from __future__ import annotations

import pytest

from agent.schema.settings import ModelEntry
from agent.service.doctor import doctor_guard
from agent.storage import share, yaml_files
from tests.service.test_detection import shipped  # noqa: F401  (fixture)
from tests.service.test_doctor import settings

POLICY = yaml_files.load_policy(share.find_policy("balanced"))


def policy(**changes):
    return type(POLICY).model_validate({**POLICY.model_dump(), **changes})


def rule(model, accelerator):
    return {"model": model, "accelerator": accelerator}


def rows(tmp_path, shipped, models=("faces",), **rules):  # noqa: F811
    board = shipped["generic-x86"]
    assert {a.name for a in board.accelerators} >= {"cpu"}
    entries = tuple(ModelEntry(name=name, path=tmp_path / f"{name}.onnx") for name in models)
    return doctor_guard.nowhere(settings(tmp_path, models=entries), policy(**rules), board)


def everywhere(shipped, model):  # noqa: F811
    return [rule(model, a.name) for a in shipped["generic-x86"].accelerators]


@pytest.mark.parametrize("model", ["faces", "*"])
def test_a_policy_that_forbids_every_accelerator_is_a_failure(tmp_path, shipped, model):  # noqa: F811
    found = rows(tmp_path, shipped, forbidden=everywhere(shipped, model))
    assert [r.result for r in found] == ["fail"]
    assert "faces can run nowhere" in found[0].message
    assert "qeil check" in found[0].mend


def test_without_models_it_is_said_of_every_model(tmp_path, shipped):  # noqa: F811
    found = rows(tmp_path, shipped, (), forbidden=everywhere(shipped, "*"))
    assert "every model can run nowhere" in found[0].message
    assert rows(tmp_path, shipped, (), forbidden=everywhere(shipped, "faces")) == []


def test_a_pin_to_what_is_forbidden_for_all_is_a_failure(tmp_path, shipped):  # noqa: F811
    found = rows(tmp_path, shipped, pinned=[rule("faces", "cpu")], forbidden=[rule("*", "cpu")])
    assert "pins it to cpu and forbids it on cpu" in found[0].message


def test_one_accelerator_that_is_left_is_enough(tmp_path, shipped):  # noqa: F811
    assert rows(tmp_path, shipped, pinned=[rule("faces", "cpu")]) == []
    assert rows(tmp_path, shipped, forbidden=everywhere(shipped, "faces")[1:]) == []


@pytest.mark.parametrize(
    ("limits", "words"),
    [({"digests": ["0" * 64]}, "is not among guard.models.digests"), ({"max_bytes": 1}, "max_bytes")],
)
def test_a_model_that_the_guard_refuses_is_a_failure_with_the_reason(tmp_path, limits, words):
    onnx = pytest.importorskip("onnx")
    x = onnx.helper.make_tensor_value_info("x", 1, [1])
    y = onnx.helper.make_tensor_value_info("y", 1, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 13)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets), tmp_path / "m.onnx")
    wanted = settings(tmp_path, models=(ModelEntry(name="m", path=tmp_path / "m.onnx"),))
    guard = POLICY.guard.model_dump()

    assert doctor_guard.refused(wanted, POLICY) == []
    found = doctor_guard.refused(wanted, policy(guard={**guard, "models": {**guard["models"], **limits}}))

    assert [(r.check, r.result, words in r.message) for r in found] == [("model m", "fail", True)]
    assert "guard.models" in found[0].mend


def test_a_model_that_cannot_be_read_is_another_checks_business(tmp_path):
    wanted = settings(tmp_path, models=(ModelEntry(name="m", path=tmp_path / "none.onnx"),))
    assert doctor_guard.refused(wanted, POLICY) == []
    assert doctor_guard.refused(wanted, None) == []
