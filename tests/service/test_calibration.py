"""Calibration: coefficients from timings, refused where they scatter, applied with their origin."""

from __future__ import annotations

import pytest

from agent.placement.costing import dispatch_of
from agent.schema.base import Quantity
from agent.schema.device import Runtime
from agent.service.calibration.calibration import Calibration, Coefficient, Timing, apply, fit
from agent.workload.micro import MicroModel
from tests.service.world import profile

RUNTIME = Runtime(backend="onnx", provider="CPUExecutionProvider")


def micro(name, kind, flops=0.0, moved=0.0, nodes=1, family="gemm", precision="fp32") -> MicroModel:
    return MicroModel(name, f"{name}.onnx", "onnx", kind, family, precision, flops, moved, nodes, (("x", (1,)),))


def timing(model: MicroModel, seconds: float, spread: float = 0.0) -> Timing:
    return Timing(model, tuple(seconds * (1 + spread * (i % 5 - 2)) for i in range(20)))


TIMINGS = [
    timing(micro("dispatch", "dispatch"), 10e-6),
    timing(micro("chain", "node", nodes=100), 110e-6),
    timing(micro("gemm", "compute", flops=1e9, nodes=10), 0.1 + 20e-6),
    timing(micro("gemm-slow", "compute", flops=1e9, nodes=10), 0.2),
    timing(micro("conv", "compute", flops=1e9, nodes=0, family="conv"), 0.05 + 10e-6),
    timing(micro("stream", "bandwidth", moved=1e8, nodes=0), 0.01 + 10e-6),
]


def by_kind(coefficients, kind, family=None):
    return next(c.value for c in coefficients if c.kind == kind and family in (None, c.family))


def test_overheads_are_taken_off_before_rates_are_computed():
    found, refused = fit("cpu", RUNTIME, TIMINGS, "test")
    assert not refused
    assert by_kind(found, "dispatch_overhead_s") == pytest.approx(10e-6)
    assert by_kind(found, "node_overhead_s") == pytest.approx(1e-6)
    assert by_kind(found, "compute_flops_per_s", "gemm") == pytest.approx(1e10)
    assert by_kind(found, "compute_flops_per_s", "conv") == pytest.approx(2e10)
    assert by_kind(found, "bandwidth_bytes_per_s") == pytest.approx(1e10)


def test_a_measurement_that_scatters_is_refused_by_name():
    found, refused = fit("cpu", RUNTIME, [*TIMINGS[:2], timing(micro("gemm", "compute", flops=1e9), 0.1, 0.3)], "test")
    assert [c.kind for c in found] == ["dispatch_overhead_s", "node_overhead_s"]
    assert "gemm scatters by" in refused[0]
    assert "limit 35%" in refused[0]
    assert "the profile's figure stays" in refused[0]
    assert "calibrate again" in refused[0]


@pytest.mark.parametrize("stated", [None, Quantity(value=30e-6, provenance="measured", source="a bench")])
def test_without_overhead_models_what_predictions_add_for_a_launch_is_taken_off_all_the_same(stated):
    runtime = RUNTIME.model_copy(update={"dispatch_overhead_s": stated})
    found, _ = fit("cpu", runtime, [timing(micro("stream", "bandwidth", moved=1e6, nodes=0), 1e-4)], "test")
    launch_s = dispatch_of(runtime).value
    assert by_kind(found, "bandwidth_bytes_per_s") == pytest.approx(1e6 / (1e-4 - launch_s))


def test_applied_coefficients_predict_what_was_measured_and_say_where_from():
    board = profile("cpu", "other")
    found, _ = fit("cpu", RUNTIME, TIMINGS, "qeil calibrate")
    changed = apply(board, Calibration(profile="testboard", measured_at="now", coefficients=tuple(found)))
    cpu = changed.accelerator("cpu")
    runtime = cpu.runtimes[0]
    shares = {e.family: e.share.value for e in runtime.compute_efficiency}
    assert cpu.peak_flops_per_s["fp32"].value * shares["gemm"] == pytest.approx(1e10)
    assert cpu.peak_flops_per_s["fp32"].value * shares["conv"] == pytest.approx(2e10)
    domain = changed.memory_domain("ram")
    assert domain.bandwidth_bytes_per_s.value * runtime.bandwidth_efficiency.value == pytest.approx(1e10)
    assert runtime.dispatch_overhead_s.provenance == "measured"
    assert runtime.dispatch_overhead_s.source == "qeil calibrate"
    assert changed.accelerator("other") == board.accelerator("other")


def test_a_bandwidth_above_the_data_sheet_raises_it():
    stream = Coefficient(
        accelerator="cpu", backend="onnx", provider="CPUExecutionProvider", kind="bandwidth_bytes_per_s", value=3e10,
        rel_uncertainty=0.1, source="t",
    )  # fmt: skip
    changed = apply(profile("cpu"), Calibration(profile="testboard", measured_at="now", coefficients=(stream,)))
    assert changed.memory_domain("ram").bandwidth_bytes_per_s.value == 3e10
    assert changed.accelerator("cpu").runtimes[0].bandwidth_efficiency.value == 1.0


def test_a_runtime_that_was_not_measured_keeps_its_own_figures():
    other = Coefficient(
        accelerator="cpu", backend="litert", provider="XNNPACK", kind="dispatch_overhead_s", value=1e-5,
        rel_uncertainty=0.1, source="t",
    )  # fmt: skip
    changed = apply(profile("cpu"), Calibration(profile="testboard", measured_at="now", coefficients=(other,)))
    assert changed.accelerator("cpu").runtimes == profile("cpu").accelerator("cpu").runtimes


def test_a_model_that_only_moves_bytes_gives_no_rate_of_operations():
    found, _ = fit("cpu", RUNTIME, [timing(micro("movement", "compute", moved=1e6), 0.1)], "test")
    assert found == []
