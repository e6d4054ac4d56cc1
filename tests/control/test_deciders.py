"""Fault detector, admission, input guard, routing, lifecycle and fallback."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control import admission, fallback, fault_detector, input_guard, lifecycle, routing, verdict
from agent.control.fault_detector import LaneSigns
from agent.schema.bfloat16 import from_floats
from agent.schema.policy import Admission, Fallback
from agent.schema.workload import TensorSpec
from tests.control.test_lane_health import LIMITS as RECOVERY

ADMISSION = Admission(
    max_concurrent_requests=10, max_queue_per_lane=8, default_deadline_s=5, max_deadline_s=60,
    max_body_bytes=10_000, max_json_body_bytes=5_000, reject_non_finite=True,
)  # fmt: skip


@pytest.mark.parametrize(
    ("signs", "fault"),
    [
        (LaneSigns(0.1, None, None, False), None),
        (LaneSigns(None, None, None, False), None),
        (LaneSigns(0.1, 0.1, 0.01, False), None),
        (LaneSigns(0.1, 0.11, 0.01, False), "hung"),
        (LaneSigns(0.1, 0.29, 0.1, False), None),
        (LaneSigns(0.1, 0.31, 0.1, False), "hung"),
        (LaneSigns(0.1, 5.1, None, False), "hung"),
        (LaneSigns(0.1, 4.9, None, False), None),
        (LaneSigns(0.1, 0.5, 0.01, False, starved_s=0.45), None),
        (LaneSigns(0.1, 0.5, 0.01, False, starved_s=0.35), "hung"),
        (LaneSigns(0.1, 0.9, 0.01, False, starved_s=None), None),
        (LaneSigns(0.1, 1.1, 0.01, False, starved_s=None), "hung"),
        (LaneSigns(0.1, None, 0.01, True, stopped=True), "stopped"),
        (LaneSigns(0.1, 9.9, 0.01, False, allowed_s=10.0), None),
        (LaneSigns(0.1, 10.1, 0.01, False, allowed_s=10.0), fault_detector.UNTIMED),
        (LaneSigns(0.1, 10.1, 3.4, False, allowed_s=5.0), None),
        (LaneSigns(0.1, 10.1, 3.3, False, allowed_s=5.0), "hung: "),
        (LaneSigns(0.1, 1.0, 0.01, False, stopped=True, allowed_s=10.0), "stopped"),
        (LaneSigns(3.0, None, None, False), None),
        (LaneSigns(3.1, None, None, False), "heartbeat"),
        (LaneSigns(99.0, 99.0, 0.1, True), None),
    ],
)
def test_a_hang_is_a_call_beyond_its_deadline_or_a_lost_heartbeat(signs, fault):
    cause = fault_detector.judge(signs, RECOVERY)
    assert (cause is None) if fault is None else (fault in cause)


@pytest.mark.parametrize(
    ("load", "admit", "reason"),
    [
        (admission.Load("ready", 9, 1.0, 0.1), True, ""),
        (admission.Load("ready", 10, 1.0, 0.1), False, "busy"),
        (admission.Load("throttled", 4, 0.5, 0.1), True, ""),
        (admission.Load("throttled", 5, 0.5, 0.1), False, "busy"),
        (admission.Load("ready", 0, 0.0, 0.1), False, "no_capacity"),
        (admission.Load("draining", 0, 1.0, 0.1), False, "draining"),
        (admission.Load("ready", 0, 0.01, 0.1), True, ""),
    ],
)
def test_admission_follows_mode_capacity_and_the_derated_bound(load, admit, reason):
    decision = admission.decide(load, ADMISSION)
    assert (decision.admit, decision.reason) == (admit, reason)
    assert decision.admit or (decision.sentence and decision.retry_after_s > 0)


def test_retry_after_is_the_time_the_present_load_takes():
    assert admission.decide(admission.Load("ready", 20, 1.0, 0.5), ADMISSION).retry_after_s == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("in_flight", "share", "back_s", "retry_s"), [(20, 1.0, 7.0, 8.0), (0, 0.0, 7.0, 7.0), (0, 0.0, 0.3, 1.0)]
)
def test_retry_after_waits_for_a_lane_that_is_away(in_flight, share, back_s, retry_s):
    load = admission.Load("ready", in_flight, share, 0.5, back_s)
    assert admission.decide(load, ADMISSION).retry_after_s == pytest.approx(retry_s)


@pytest.mark.parametrize(("asked_s", "given_s"), [(None, 5), (1.0, 1.0), (61.0, 60)])
def test_a_deadline_is_what_was_asked_for_within_the_bound_of_the_policy(asked_s, given_s):
    assert admission.deadline_s(asked_s, ADMISSION) == given_s


SPECS = (
    TensorSpec(name="image", datatype="FP32", shape=(-1, 3)),
    TensorSpec(name="scale", datatype="INT64", shape=(1,)),
)
GOOD = {"image": np.ones((2, 3), np.float32), "scale": np.ones(1, np.int64)}


def test_tensors_as_declared_pass():
    assert input_guard.check(GOOD, SPECS, True).allow


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"image": None}, "missing", "FP32 [-1, 3]"),
        ({"imagee": np.ones(1)}, "unknown", "did you mean 'image'"),
        ({"zzz": np.ones(1)}, "unknown", "it takes image, scale"),
        ({"image": None, "scale": None, "a": np.ones(1), "b": np.ones(1)}, "unknown", "no input 'a'"),
        ({"image": np.ones((2, 3))}, "datatype", "float64"),
        ({"image": np.ones((2, 4), np.float32)}, "shape", "[2, 4], expected FP32 [-1, 3]"),
        ({"image": np.ones((3,), np.float32)}, "shape", "[3]"),
        ({"image": np.ones((0, 3), np.float32)}, "shape", "[0, 3]"),
        ({"image": np.array([[1, 2, 3], [1, np.nan, 3]], np.float32)}, "non_finite", "nan at index [1, 1]"),
        ({"image": np.full((1, 3), np.inf, np.float32)}, "non_finite", "inf"),
    ],
)
def test_the_guard_names_what_is_wrong(change, code, words):
    inputs = {k: v for k, v in {**GOOD, **change}.items() if v is not None}
    seen = input_guard.check(inputs, SPECS, True)
    assert (seen.allow, seen.code) == (False, code)
    assert words in seen.sentence


HALVES = TensorSpec(name="x", datatype="BF16", shape=(-1,))
WHOLES = TensorSpec(name="x", datatype="UINT16", shape=(-1,))
TEXTS = TensorSpec(name="x", datatype="BYTES", shape=(-1,))


def test_bfloat16_and_whole_numbers_of_as_many_bits_are_not_taken_for_each_other():
    halves, wholes = from_floats(np.ones(2)), np.ones(2, np.uint16)
    assert input_guard.check({"x": halves}, (HALVES,), True).allow
    assert input_guard.check({"x": wholes}, (WHOLES,), True).allow
    seen = input_guard.check({"x": wholes}, (HALVES,), True)
    assert (seen.code, seen.sentence) == ("datatype", "input 'x' has datatype uint16, expected BF16 [-1]")
    seen = input_guard.check({"x": halves}, (WHOLES,), True)
    assert (seen.code, seen.sentence) == ("datatype", "input 'x' has datatype bfloat16, expected UINT16 [-1]")


def test_infinite_bfloat16_is_refused_like_any_other_number_that_is_not_finite():
    bad = from_floats(np.array([1.0, np.inf]))
    seen = input_guard.check({"x": bad}, (HALVES,), True)
    assert (seen.code, seen.sentence[:28]) == ("non_finite", "input 'x' holds inf at index")
    assert input_guard.check({"x": bad}, (HALVES,), False).allow


def test_bytes_that_are_no_text_are_refused_with_what_to_send_instead():
    for good in ([b"plain", "é".encode(), "str"], [b"plain", "str"], []):
        assert input_guard.check({"x": np.array(good, object)}, (TEXTS,), True, reject_empty=False).allow
    seen = input_guard.check({"x": np.array([b"ok", b"a\xff"], object)}, (TEXTS,), True)
    assert seen.code == "text"
    assert "element 1 is not UTF-8 text (byte 1 is 0xff)" in seen.sentence
    assert "send UTF-8" in seen.sentence
    # As one text these bytes would be right.
    assert not input_guard.check({"x": np.array([b"\xc3", b"\xa9"], object)}, (TEXTS,), True).allow


def test_non_finite_values_pass_where_the_policy_allows_them():
    assert input_guard.check({**GOOD, "image": np.full((1, 3), np.nan, np.float32)}, SPECS, False).allow


def route(name, usable=True, share=1.0, queue=0):
    return routing.Route(name, usable, share, queue)


@pytest.mark.parametrize(
    ("routes", "tried", "chosen"),
    [
        ([route("a"), route("b")], (), 0),
        ([route("a", usable=False), route("b")], (), 1),
        ([route("a", share=0.0), route("b")], (), 1),
        ([route("a", queue=8), route("b")], (), 1),
        ([route("a", queue=7), route("b")], (), 0),
        ([route("a"), route("b")], ("a",), 1),
        ([route("a")], ("a",), None),
        ([], (), None),
    ],
)
def test_the_first_route_that_may_run_and_has_room_wins(routes, tried, chosen):
    assert routing.choose(routes, 0, 8, tried) == chosen


def test_a_ramping_lane_gets_its_share_and_the_rest_goes_on():
    taken = [routing.choose([route("a", share=0.25), route("b")], i, 8) for i in range(100)]
    assert taken.count(0) == 25


def test_reduced_capacity_everywhere_still_serves_every_request():
    routes = [route("a", share=0.1), route("b", share=0.1)]
    assert None not in [routing.choose(routes, i, 8) for i in range(50)]


def test_a_lane_of_last_resort_is_passed_over_even_for_one_that_ramps_up_and_taken_where_it_is_the_only_one():
    late, ramping = route("a", share=routing.LAST_RESORT), route("b", share=0.25)
    assert {routing.choose([late, ramping], i, 8) for i in range(50)} == {1}
    assert {routing.choose([late], i, 8) for i in range(50)} == {0}
    assert routing.choose([late, ramping], 0, 8, ("b",)) == 0


def test_a_request_that_would_be_late_behind_a_queue_takes_the_next_placement_where_it_would_not():
    slow, free = routing.Route("a", True, 1.0, 5, waits_s=0.5), routing.Route("b", True, 1.0, 1, waits_s=0.1)
    assert routing.choose([slow, free], 0, 8) == 0
    assert routing.choose([slow, free], 0, 8, left_s=0.6) == 0
    assert routing.choose([slow, free], 0, 8, left_s=0.4) == 1
    assert routing.choose([slow, free], 0, 8, ("b",), left_s=0.4) == 0
    assert routing.choose([slow, free], 0, 8, left_s=0.05) == 0  # late everywhere: where it is best


@given(st.integers(1, 500), st.floats(0.01, 1.0))
def test_a_share_is_spread_evenly(count, share):
    assert sum(routing.in_share(i, share) for i in range(count)) == pytest.approx(count * share, abs=1)


FACTS = lifecycle.Facts(False, False, 2, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("change", "mode"),
    [
        ({}, "ready"),
        ({"lanes_down": 1}, "degraded"),
        ({"models_unserved": 1}, "degraded"),
        ({"thermally_limited": 1, "lanes_down": 1}, "throttled"),
        ({"models_pending": 1, "thermally_limited": 1}, "starting"),
        ({"draining": True, "models_pending": 1}, "draining"),
        ({"thread_died": True, "draining": True}, "fault"),
    ],
)
def test_the_strictest_fact_decides_the_mode(change, mode):
    assert lifecycle.mode(lifecycle.Facts(**{**FACTS.__dict__, **change})) == mode


@pytest.mark.parametrize(
    ("actual", "fraction", "minimum", "rule", "outcome"),
    [
        (("CUDA",), 1.0, 0.9, "fail", "serve"),
        (("CUDA", "CPU"), 0.9, 0.9, "fail", "serve"),
        (("CUDA", "CPU"), 0.89, 0.9, "fail", "refuse"),
        (("CUDA", "CPU"), 0.5, 0.9, "warn", "warn"),
        (("CUDA", "CPU"), None, 0.9, "fail", "serve"),
        (("CPU",), 0.0, 0.0, "fail", "refuse"),
        (("CPU",), 0.0, 0.0, "warn", "warn"),
        (("CPU",), 0.0, 0.0, "allow", "serve"),
        ((), None, 0.0, "fail", "refuse"),
    ],
)
def test_fallback_is_judged_by_provider_and_share(actual, fraction, minimum, rule, outcome):
    judged = fallback.judge(
        fallback.Assignment("CUDA", actual, fraction), Fallback(on_fallback=rule, min_accelerated_fraction=minimum)
    )
    assert judged.outcome == outcome
    assert bool(judged.sentence) == (outcome != "serve" or actual == ("CPU",))
    assert "CUDA" in actual or judged.sentence.endswith(f"but {'CPU' if actual else 'nothing'} runs it")


@pytest.mark.parametrize(
    ("reactions", "action", "kinds"),
    [
        ((), "allow", ""),
        (("ignore",), "allow", ""),
        (("flag", "ignore"), "flag", "0"),
        (("flag", "quarantine", "ignore", "reject"), "quarantine", "130"),
        (("reject", "flag", "reject"), "reject", "021"),
    ],
)
def test_of_several_findings_the_gravest_decides_and_those_switched_off_do_not_count(reactions, action, kinds):
    found = verdict.weigh([verdict.Finding(str(n), reaction, f"{n}.") for n, reaction in enumerate(reactions)])
    assert (found.action, "".join(f.kind for f in found.findings)) == (action, kinds)
    assert found.sentence == (f"{kinds[0]}." if kinds else "")


@pytest.mark.parametrize("size", [1, 100, 20_000])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("odd", [1.0, 6e4, np.nan, np.inf, -np.inf, "most"])
def test_one_value_that_is_not_finite_is_found_and_large_ones_are_not_taken_for_one(size, kind, odd):
    tensor = np.ones((size, 2), kind)
    tensor[size // 2] = np.finfo(kind).max if odd == "most" else odd
    names = {np.float16: "FP16", np.float32: "FP32", np.float64: "FP64"}
    spec = TensorSpec(name="x", datatype=names[kind], shape=(-1, 2))

    for seen in (tensor, np.asfortranarray(tensor)):
        passed = input_guard.check({"x": seen}, (spec,), reject_non_finite=True)
        assert passed.allow == (odd in (1.0, 6e4, "most"))


def test_an_empty_tensor_is_refused_for_being_empty_and_not_for_its_shape():
    free = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    found = input_guard.check({"x": np.ones((0, 4), np.float32)}, (free,), True)
    assert (found.allow, found.code) == (False, "shape")
    assert "has shape [0, 4] and holds no value" in found.sentence
    assert "expected" not in found.sentence


def test_an_empty_tensor_passes_where_the_policy_lets_it_or_the_model_has_no_other_form():
    empty = {"x": np.ones((0, 4), np.float32)}
    free, fixed = (TensorSpec(name="x", datatype="FP32", shape=(n, 4)) for n in (-1, 0))
    assert input_guard.check(empty, (free,), True, reject_empty=False).allow
    assert input_guard.check(empty, (fixed,), True).allow
    assert "reject_empty: false" in input_guard.check(empty, (free,), True, reject_empty=True).sentence


@pytest.mark.parametrize(("non_finite", "empty"), [(True, False), (False, True), (True, True), (False, False)])
def test_the_policy_says_what_the_screen_refuses(non_finite, empty):
    rules = ADMISSION.model_copy(update={"reject_non_finite": non_finite, "reject_empty": empty})
    free = TensorSpec(name="x", datatype="FP32", shape=(-1, 4))
    assert input_guard.screen({"x": np.ones((0, 4), np.float32)}, (free,), rules).allow is not empty
    assert input_guard.screen({"x": np.full((1, 4), np.nan, np.float32)}, (free,), rules).allow is not non_finite
