"""LiteRT: what each delegate took, and delegates from libraries."""

from __future__ import annotations

import gc
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from agent.backends import litert
from agent.backends.artifact import LoadOrder
from agent.errors import InferenceFailed, LaneDied, ModelLoadFailed
from agent.schema.device import Runtime
from tests.backends.conftest import FACE, LANDMARK, Rig


@pytest.fixture(scope="session")
def delegate(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    library = tmp_path_factory.mktemp("delegate") / "libtestdelegate.so"
    source = Path(__file__).with_name("delegate.c")
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return str(library)


def order(path: Path, provider: str, **changes: Any) -> LoadOrder:
    return LoadOrder(**{"model": "m", "path": str(path), "backend": "litert", "provider": provider, **changes})


@pytest.mark.parametrize(("path", "nodes"), [(FACE, 164), (LANDMARK, 97)])
@pytest.mark.parametrize("provider", ["none", "XNNPACK"])
def test_every_operator_is_attributed(path: Path, nodes: int, provider: str) -> None:
    session = litert.open_session(order(path, provider))

    assert session.assignment.actual == (provider,)
    assert (session.assignment.nodes, session.assignment.nodes_on_requested) == (nodes, nodes)


def test_a_delegate_that_takes_nothing_is_reported_as_such(delegate: str) -> None:
    session = litert.open_session(order(FACE, "external", plugin=delegate))
    plain = litert.open_session(order(FACE, "none"))
    image = {"input": np.random.default_rng(0).random((1, 128, 128, 3), dtype=np.float32)}

    assert session.assignment.actual == ("none",)
    assert (session.assignment.nodes, session.assignment.nodes_on_requested) == (164, 0)
    for got, expected in zip(session.run(image, ("regressors",)), plain.run(image, ("regressors",)), strict=True):
        np.testing.assert_array_equal(got, expected)


def test_an_operator_between_a_delegates_ends_is_its_own() -> None:
    operators = [
        {"op_name": "A", "inputs": [0], "outputs": [1]},
        {"op_name": "B", "inputs": [1], "outputs": [2]},
        {"op_name": "C", "inputs": [2], "outputs": [3]},
        {"op_name": "DELEGATE", "inputs": [1], "outputs": [2]},
    ]

    class Interpreter:
        def _get_ops_details(self) -> list[dict[str, Any]]:
            return operators

    mixed = litert._assignment(Interpreter(), "external")
    unknown = litert._assignment(object(), "external")

    assert mixed.actual == ("external", "none")
    assert (mixed.nodes, mixed.nodes_on_requested) == (3, 1)
    assert (unknown.actual, unknown.nodes, unknown.notes) == (
        ("external",), None, ("this LiteRT does not list its operators",),
    )  # fmt: skip


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_delegate_that_refuses_says_why(delegate: str) -> None:
    # The runtime's own destructor trips over a delegate that was never made.
    with pytest.raises(ModelLoadFailed, match="no accelerator on the bus"):
        litert.open_session(order(FACE, "external", plugin=delegate, options={"mode": "fail"}))
    gc.collect()


def test_a_delegate_that_crashes_costs_the_lane_and_is_quoted(process_rig: Rig, delegate: str) -> None:
    lane, other = process_rig.lane(), process_rig.lane()
    runtime = Runtime(backend="litert", provider="external", plugin=delegate, options={"mode": "crash"})

    with pytest.raises(LaneDied, match="SIGSEGV; last words: test delegate: register 0x40 reads zero"):
        process_rig.load(lane, FACE, runtime=runtime)

    assert other.alive()
    assert not lane.alive()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"provider": "external"}, "an external delegate needs its library in `plugin`"),
        ({"provider": "external", "plugin": "/nowhere/lib.so"}, "there is no delegate library /nowhere/lib.so"),
        ({"provider": "CoreML"}, "LiteRT has no 'CoreML'"),
        ({"path": "/nowhere/m.tflite"}, "there is no model file /nowhere/m.tflite"),
        ({"path": __file__}, "m: "),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_one_sentence(changes: dict[str, str], sentence: str) -> None:
    with pytest.raises(ModelLoadFailed, match=sentence):
        litert.open_session(order(**{"path": FACE, "provider": "none", **changes}))  # type: ignore[arg-type]


def test_inputs_may_be_resized_where_the_model_allows_and_fail_where_not() -> None:
    session = litert.open_session(order(FACE, "none"))

    with pytest.raises(InferenceFailed, match="m: "):
        session.run({"input": np.zeros((2, 128, 128, 3), np.float32)}, ("regressors",))
    with pytest.raises(InferenceFailed, match="m: "):
        session.run({"input": np.zeros((1, 128, 128, 3), np.float64)}, ("regressors",))


def test_an_absent_runtime_is_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(litert, "MODULES", ("no_such_litert.interpreter",))

    with pytest.raises(ModelLoadFailed, match=r"LiteRT cannot be imported .* install qeil-agent\[litert\]"):
        litert.open_session(order(FACE, "none"))
