"""A bundle's probe compares what a model answers with what it must answer, whatever the tensor's type."""

from __future__ import annotations

import json
from concurrent.futures import Future
from types import SimpleNamespace

import numpy as np
import pytest

from agent.schema.bfloat16 import from_floats
from agent.service.remote import bundle_probes
from tests.fakes import FakeClock


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (from_floats(np.array([1.0, -2.0])), None),
        (from_floats(np.array([1.0, -4.0])), "probe p: m: output y is off by 2; 0.001 is accepted"),
        (np.array([1.0, -2.0], np.float32), None),
        (np.array([1.0, -2.0, 3.0], np.float32), "probe p: m: output y has another shape"),
    ],
)
def test_an_answer_is_compared_by_its_numbers(tmp_path, answer, problem):
    tensor = {"datatype": "FP32", "shape": [2], "data": [1.0, -2.0]}
    path = tmp_path / "p"
    path.write_text(json.dumps({"model": "m", "inputs": {"x": tensor}, "outputs": {"y": tensor}}))
    done: Future[SimpleNamespace] = Future()
    done.set_result(SimpleNamespace(outputs={"y": answer}))
    unpacked = SimpleNamespace(files=lambda _: {"p": path})
    run = SimpleNamespace(clock=FakeClock(), wait=lambda ready, _: ready())
    found = bundle_probes.failed(unpacked, SimpleNamespace(infer=lambda _: done), lambda _: True, run)
    assert found == problem
