"""Kernel times of a calibration: fitted, applied to the profile, refused where they do not hold."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.schema.device import Runtime
from agent.schema.workload import Kernels
from agent.service.calibration.calibrate_kernels import fit_kernel_times
from agent.service.calibration.calibration import Calibration, Timing, apply
from agent.service.calibration.micro_rounds import undisturbed
from agent.service.calibration.steadiness import Round
from agent.workload.micro import MicroModel
from tests.service.world import profile

RUNTIME = Runtime(backend="onnx", provider="CPUExecutionProvider")


def timing(index: int, seconds: float, flops: float, count: int, scatter: float = 0.0) -> Timing:
    work = (Kernels(routine="gemm", precision="fp32", count=count, flops=flops),)
    micro = MicroModel(f"m{index}", "m.onnx", "onnx", "compute", "gemm", "fp32", flops * count, 0.0, count,
                       (("x", (1,)),), work, 0.0, 0.0, 0)  # fmt: skip
    return Timing(micro, tuple(seconds * (1 + scatter * (i % 5 - 2)) for i in range(20)))


def sums(count: int, scatter: float = 0.0) -> list[Timing]:
    """Launches of 10 µs and operations of 0.1 ns, in different mixtures."""
    made = [(i, 1e6 * (1 + i % 4), 1 + i % 5) for i in range(count)]
    return [timing(i, n * (1e-5 + 1e-10 * flops), flops, n, scatter) for i, flops, n in made]


def test_launches_and_operations_come_apart():
    found, why_not = fit_kernel_times("cpu", RUNTIME, 1, sums(16), "test")
    assert why_not is None
    each_s = {t.amount: t.seconds for t in found.times.terms}
    assert each_s["heavy_kernel"] == pytest.approx(1e-5, rel=1e-3)
    assert each_s["operation"] == pytest.approx(1e-10, rel=1e-3)
    assert found.times.source == "test"


def test_the_width_of_a_tile_is_the_one_that_the_times_agree_with():
    def shaped(index: int, flops: float, count: int) -> Timing:
        columns = (8, 24, 32, 40, 64)[index % 5]
        tiles = -(-columns // 32) * 32 / columns
        found = timing(index, count * (1e-5 + 1e-10 * flops * tiles), flops, count)
        work = tuple(k.model_copy(update={"columns": columns}) for k in found.micro.kernels)
        return Timing(replace(found.micro, kernels=work), found.times_s)

    measured, _ = fit_kernel_times("cpu", RUNTIME, 1, [shaped(i, 1e6 * (1 + i % 4), 1 + i % 3) for i in range(20)], "t")
    assert measured.times.tile_columns == 32


@pytest.mark.parametrize("timings", [sums(5), sums(16, scatter=0.5)])
def test_too_few_steady_models_fit_nothing_and_say_what_to_do(timings):
    found, why_not = fit_kernel_times("cpu", RUNTIME, 1, timings, "test")
    assert found is None
    assert "need 12" in why_not
    assert "calibrate again" in why_not


def test_times_that_do_not_follow_the_work_are_refused_with_the_limit():
    wild = [timing(i, 10.0 ** -(i % 5), 1e6, 1) for i in range(20)]
    found, why_not = fit_kernel_times("cpu", RUNTIME, 1, wild, "test")
    assert found is None
    assert "limit 25%" in why_not


def test_applied_kernel_times_reach_the_runtime_they_were_measured_on():
    measured, _ = fit_kernel_times("cpu", RUNTIME, 1, sums(16), "test")
    board = profile("cpu", "other")
    done = apply(board, Calibration(profile="testboard", measured_at="now", coefficients=(), kernel_times=(measured,)))
    assert done.accelerator("cpu").runtimes[0].kernel_times == measured.times
    assert done.accelerator("other") == board.accelerator("other")


def test_the_fastest_third_of_all_rounds_counts_however_much_disturbed_the_rest():
    quiet = timing(0, 1.0, 1.0, 1)
    disturbed = replace(quiet, times_s=tuple(1.0 + 0.2 * i for i in range(40)))
    found = undisturbed(quiet.micro, [Round(disturbed.times_s, 1.0), Round(quiet.times_s, 1.0)])
    assert found.times_s == (1.0,) * 20
    assert found.micro is quiet.micro
    assert disturbed.scatter > found.scatter == 0.0


def test_of_few_runs_four_are_kept_for_their_scatter():
    few = Round((5.0, 1.0, 2.0, 4.0, 3.0), 1.0)
    assert undisturbed(timing(0, 1.0, 1.0, 1).micro, [few]).times_s == (1.0, 2.0, 3.0, 4.0)
