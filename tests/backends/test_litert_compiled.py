"""LiteRT's compiled models: the whole graph on the accelerator asked for, or a sentence that says why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.backends import litert, litert_compiled
from agent.backends.artifact import LoadOrder
from agent.errors import InferenceFailed, ModelLoadFailed
from agent.schema.device import Runtime
from tests.backends.conftest import FACE, LANDMARK, Rig

FACES = {"input": np.random.default_rng(0).random((1, 128, 128, 3), dtype=np.float32)}


def order(path: Path, provider: str) -> LoadOrder:
    return LoadOrder(model="m", path=str(path), backend="litert", provider=provider)


@pytest.fixture
def runtime() -> Any:
    return pytest.importorskip("ai_edge_litert.compiled_model")


@pytest.mark.usefixtures("runtime")
@pytest.mark.parametrize(("path", "nodes"), [(FACE, 164), (LANDMARK, 97)])
def test_a_compiled_model_has_the_names_and_the_answers_of_the_interpreter(path: Path, nodes: int) -> None:
    compiled = litert.open_session(order(path, "compiled-cpu"))
    interpreted = litert.open_session(order(path, "XNNPACK"))

    assert compiled.inputs == interpreted.inputs
    assert set(compiled.outputs) == set(interpreted.outputs)
    assert compiled.assignment.actual == ("compiled-cpu",)
    assert (compiled.assignment.nodes, compiled.assignment.nodes_on_requested) == (nodes, nodes)
    feeds = {s.name: np.random.default_rng(1).random(s.shape, dtype=np.float32) for s in compiled.inputs}
    names = tuple(s.name for s in reversed(compiled.outputs))
    for got, expected in zip(compiled.run(feeds, names), interpreted.run(feeds, names), strict=True):
        assert got.shape == expected.shape
        np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.usefixtures("runtime")
def test_a_lane_runs_a_compiled_model_again_and_again(process_rig: Rig) -> None:
    lane = process_rig.lane()
    provider = Runtime(backend="litert", provider="compiled-cpu")
    report = process_rig.load(lane, FACE, "compiled", provider)
    process_rig.load(lane, FACE, "plain", Runtime(backend="litert", provider="none"))

    assert report.accelerated_fraction == 1.0
    for scale in (1.0, 0.5):
        faces = {"input": FACES["input"] * np.float32(scale)}
        got, expected = (process_rig.run(lane, faces, name).outputs for name in ("compiled", "plain"))
        for name, array in expected.items():
            np.testing.assert_allclose(got[name], array, atol=1e-2, rtol=1e-3)


@pytest.mark.usefixtures("runtime")
def test_another_shape_than_the_compiled_one_fails_that_request_alone() -> None:
    session = litert.open_session(order(FACE, "compiled-cpu"))

    with pytest.raises(InferenceFailed, match=r"'input' is \[2, 128, 128, 3\], compiled for \[1, 128, 128, 3\]"):
        session.run({"input": np.zeros((2, 128, 128, 3), np.float32)}, ("regressors",))
    with pytest.raises(InferenceFailed, match="m: "):
        session.run({"input": np.zeros((1, 128, 128, 3), np.complex64)}, ("regressors",))
    assert session.run(FACES, ("regressors",))[0].any()


@pytest.mark.usefixtures("runtime")
def test_an_accelerator_that_is_not_here_is_refused_and_not_replaced(process_rig: Rig) -> None:
    lane = process_rig.lane()
    with pytest.raises(ModelLoadFailed, match="compiled-npu: it does not take all of the operators"):
        process_rig.load(lane, FACE, runtime=Runtime(backend="litert", provider="compiled-npu"))
    assert lane.alive()


def test_what_an_accelerator_takes_in_part_is_refused(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runtime.CompiledModel, "is_fully_accelerated", lambda _: False)
    with pytest.raises(ModelLoadFailed, match="m: compiled-cpu: it does not take all of the operators"):
        litert.open_session(order(FACE, "compiled-cpu"))


def test_without_the_runtime_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(litert_compiled.importlib, "import_module", absent)
    with pytest.raises(ModelLoadFailed, match=r"compiled-gpu needs ai-edge-litert 2 \(.*\); install qeil-agent\[lit"):
        litert_compiled.open_session(order(FACE, "compiled-gpu"), {}, {}, None)


@pytest.mark.parametrize(
    ("message", "said"),
    [
        ("ERROR: [a.h:1]\n└ Some ops are not accelerated. Add X.", "it does not take all of the operators"),
        ("ERROR: [a.h:1]\n└ ERROR: [b/c.cc:2]", "the runtime could not set it up and does not say why (c.cc:2)"),
        ("ERROR: [a.h:1]\n└ No  adapter\nfound", "No adapter found"),
        ("", "RuntimeError"),
    ],
)
def test_the_runtimes_chain_of_places_becomes_one_sentence(message: str, said: str) -> None:
    assert litert_compiled.reason(RuntimeError(message)) == said
