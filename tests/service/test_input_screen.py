"""Inputs that look wrong are served with a note, refused, or kept – as the policy says – and every one is counted."""

from __future__ import annotations

from concurrent.futures import Future

import numpy as np
import pytest

from agent.errors import BadInput, InferenceFailed, ModelLoadFailed
from agent.ports import InferenceAnswer, InferenceRequest
from agent.schema.guard import ModelGuard, TensorGuard
from agent.service import metrics
from agent.service.conditions import SHOWN_S
from agent.service.serving.artifacts import check_guard, open_artifact
from agent.service.serving.input_screen import InputScreen
from agent.service.serving.quarantine import MAX_FILES, MAX_WAITING, Quarantine
from agent.service.serving.statistics_store import StatisticsStore
from tests.fakes import FakeClock

RNG = np.random.default_rng(3)


class Bench:
    def __init__(self, tmp_path, model=None, **guard):
        self.clock = FakeClock()
        self.guard = TensorGuard(**guard)
        self.asked, self.told, self.open = [], [], []
        self.model = model or (lambda inputs: {"y": np.zeros((1, 2), np.float32)})
        self.hold = False
        self.quarantine = Quarantine(tmp_path / "quarantine")
        self.store = StatisticsStore(tmp_path / "guard")
        self.screen = InputScreen(self._infer, lambda: self.guard, self.store, self.quarantine, self.clock,
                                  lambda *told: self.told.append(told))  # fmt: skip
        self.look()

    def look(self, digest="a" * 64):
        self.screen.look({"m": digest}, self.clock.now_s)

    def _infer(self, request):
        self.asked.append(request)
        future = Future()
        self.open.append(future)
        if not self.hold:
            self._answer(future, request)
        return future

    def _answer(self, future, request):
        try:
            outputs = self.model(request.inputs)
        except InferenceFailed as error:
            future.set_exception(error)
        else:
            future.set_result(InferenceAnswer(outputs, "m", "1", "cpu", "P", None, 0.01, None, "unknown", "d"))

    def ask(self, x):
        return self.screen.infer(InferenceRequest("m", {"x": x}, None, "r"))


def ordinary():
    return RNG.random((1, 16, 16, 3)).astype(np.float32)


def test_a_model_nobody_learnt_costs_nothing_and_an_unknown_one_is_passed_on(tmp_path):
    bench = Bench(tmp_path)
    assert bench.ask(ordinary() * 1e9).result().model == "m"
    assert bench.screen.infer(InferenceRequest("other", {}, None, "r")).result()
    assert not bench.screen.counts


def test_what_was_learnt_survives_the_agent_and_flags_what_is_unlike(tmp_path):
    bench = Bench(tmp_path, learn_requests=40)
    for _ in range(40):
        bench.ask(ordinary())
    bench.look()
    again = Bench(tmp_path)
    again.ask(ordinary())
    assert not again.screen.counts
    assert again.ask(ordinary() * 255).result()
    assert {kind for _, kind, action in again.screen.counts if action == "flag"} == {"range", "distribution"}
    again.look()
    (told,) = again.told
    assert told[0] == "guard:m"
    assert "learnt were" in told[1]
    again.clock.advance(SHOWN_S)
    again.look()
    assert again.told[-1] == ("guard:m", None, "", "")
    again.look("b" * 64)  # another file under the same name: nothing is known of it
    again.ask(ordinary() * 255)
    assert sum(again.screen.counts.values()) == 2


@pytest.mark.parametrize(("reaction", "kept"), [("reject", 0), ("quarantine", 1)])
def test_a_refused_input_never_reaches_a_lane_and_a_quarantined_one_is_kept(tmp_path, reaction, kept):
    bench = Bench(tmp_path, learn_requests=30, out_of_range=reaction)
    for _ in range(30):
        bench.ask(ordinary())
    strange = ordinary() - 900
    before = len(bench.asked)
    error = bench.ask(strange).exception()
    assert isinstance(error, BadInput)
    assert "input 'x' holds -" in error.message
    assert len(bench.asked) == before
    bench.quarantine.settle()
    files = list((tmp_path / "quarantine").glob("*.npz"))
    assert len(files) == kept
    if kept:
        np.testing.assert_array_equal(np.load(files[0])["arr_0"], strange)


def test_size_and_rate_are_bounded(tmp_path):
    bench = Bench(tmp_path, max_elements=768, rate_per_s=2.0)
    assert bench.ask(np.zeros((1, 16, 16, 4))).exception().status == 413
    assert bench.ask(ordinary()).result()
    assert bench.ask(ordinary()).result()
    refused = bench.ask(ordinary()).exception()
    assert (refused.status, refused.retry_after_s) == (503, 1.0)
    bench.clock.advance(1.0)
    assert bench.ask(ordinary()).result()
    assert bench.screen.counts == {("m", "size", "reject"): 1, ("m", "rate", "reject"): 1}
    metric = metrics.guarded(bench.screen.counts)
    assert ({"model": "m", "kind": "rate", "action": "reject"}, 1.0) in metric.samples


def brittle(inputs):
    """Sure of one class for a picture with a single bright point, of the other one else."""
    bright = float(inputs["x"].max()) > 5
    return {"y": np.array([[float(bright), float(not bright)]], np.float32)}


def pointed():
    x = np.zeros((1, 16, 16, 3), np.float32)
    x[0, 3, 3] = 9.0
    return x


def test_a_picture_whose_answer_hangs_on_a_point_is_refused_where_the_policy_screens(tmp_path):
    bench = Bench(tmp_path, brittle, adversarial="reject")
    assert bench.ask(np.zeros((1, 16, 16, 3), np.float32)).result().outputs["y"].tolist() == [[0, 1]]
    assert len(bench.asked) == 3
    assert "changes the answer by 2.00 of 2" in bench.ask(pointed()).exception().message
    bench.guard = TensorGuard(adversarial="flag")
    assert bench.ask(pointed()).result()
    assert bench.screen.counts["m", "adversarial", "flag"] == 1
    bench.guard = TensorGuard(adversarial="reject", adversarial_bound=2.0)
    assert bench.ask(pointed()).result()


def test_an_error_of_the_run_itself_is_told_at_once_and_one_of_a_squeezed_run_is_not(tmp_path):
    def fails(inputs):
        raise InferenceFailed("no")

    bench = Bench(tmp_path, fails, adversarial="reject")
    assert isinstance(bench.ask(pointed()).exception(), InferenceFailed)
    calls = []

    def once(inputs):
        calls.append(1)
        if len(calls) > 1:
            raise InferenceFailed("only the first one works")
        return brittle(inputs)

    bench.model = once
    assert bench.ask(pointed()).result()


def test_a_client_that_hangs_up_gives_all_three_runs_up(tmp_path):
    bench = Bench(tmp_path, brittle, adversarial="reject")
    bench.hold = True
    future = bench.ask(pointed())
    assert future.cancel()
    assert all(asked.cancelled() for asked in bench.open)


def test_the_quarantine_is_bounded_in_every_direction(tmp_path):
    kept = Quarantine(tmp_path)
    for number in range(MAX_FILES + 5):
        kept.keep(f"m-{number:03d}", {"x": np.zeros(3)})
        kept.settle()
    assert len(list(tmp_path.glob("*.npz"))) == MAX_FILES
    kept.keep("big", {"x": np.zeros(3_000_000)})
    kept.keep("texts", {"x": np.array(["a"], object)})
    assert kept.dropped == 2
    stuck = Quarantine(tmp_path / "file")
    (tmp_path / "file").write_text("no folder")
    stuck.keep("a", {"x": np.zeros(1)})
    stuck.settle()
    assert stuck.dropped == 1
    full = Quarantine(tmp_path)
    full._thread = object()  # nobody takes from the queue
    for _ in range(MAX_WAITING + 1):
        full.keep("one more", {"x": np.zeros(1)})
    assert full.dropped == 1


@pytest.mark.parametrize("text", ["{", "[]", '{"inputs": {"x": {"count": 1}}}', '{"inputs": {"x": {"count": 1, '
                                  '"mean": [1], "scatter": [], "low": 0, "high": 1}}}'])  # fmt: skip
def test_damaged_statistics_count_as_none(tmp_path, text):
    store = StatisticsStore(tmp_path)
    store._path("m", "d").write_text(text)
    assert store.load("m", "d") is None


def test_statistics_that_cannot_be_written_are_only_told(tmp_path):
    (tmp_path / "guard").write_text("no folder")
    store = StatisticsStore(tmp_path / "guard")
    store.save_later("m", "d", {})
    store.write_waiting()
    assert store.load("m", "d") is None
    assert (tmp_path / "guard").read_text() == "no folder"


def onnx_file(path, domain="", location=None):
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1]) for n in "xy"]
    tensor = helper.make_tensor("w", TensorProto.FLOAT, [1], [1.0])
    if location:
        tensor.ClearField("float_data")
        tensor.data_location = TensorProto.EXTERNAL
        entry = tensor.external_data.add()
        entry.key, entry.value = "location", location
    node = helper.make_node("Add" if not domain else "Shell", ["x", "w"], ["y"], domain=domain)
    graph = helper.make_graph([node], "g", ports[:1], ports[1:], [tensor])
    sets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    save(helper.make_model(graph, opset_imports=sets, ir_version=9), path)
    return path


@pytest.mark.parametrize(
    ("make", "limits", "why"),
    [
        ({}, {}, None),
        ({"domain": "evil.org"}, {}, "library of their own: 'evil.org:Shell'"),
        ({"location": "../../etc/passwd"}, {}, "outside the model's folder"),
        ({"location": "/etc/passwd"}, {}, "outside the model's folder"),
        ({}, {"forbidden_operators": ("Add",)}, "forbidden_operators names 'Add'"),
        ({}, {"max_opset": 16}, "operator set 17"),
        ({}, {"digests": ("0" * 64,)}, "not among guard.models.digests"),
        ({"domain": "evil.org"}, {"custom_operators": "quarantine"}, "quarantined by the policy's guard"),
    ],
)
def test_a_model_file_is_judged_before_a_runtime_opens_it(tmp_path, make, limits, why):
    artifact = open_artifact(onnx_file(tmp_path / "m.onnx", **make))
    for _ in range(2):  # the second time from the cache
        if why is None:
            assert check_guard(artifact, ModelGuard(**limits), tmp_path / "cache") == ()
        else:
            with pytest.raises(ModelLoadFailed, match="guard") as caught:
                check_guard(artifact, ModelGuard(**limits), tmp_path / "cache")
            assert why in caught.value.message


def test_a_flagged_file_is_served_with_the_reason(tmp_path):
    artifact = open_artifact(onnx_file(tmp_path / "m.onnx", "evil.org"))
    (reason,) = check_guard(artifact, ModelGuard(custom_operators="flag"), None)
    assert "evil.org" in reason


def test_a_file_that_cannot_be_read_is_refused_in_one_line(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(b"\x08\x07garbage")
    with pytest.raises(ModelLoadFailed, match="not an ONNX model"):
        check_guard(open_artifact(path), ModelGuard(), None)
