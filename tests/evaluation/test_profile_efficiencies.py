"""Efficiencies of boards that nobody calibrated: from the fit, labelled, never over what a profile states itself."""

from __future__ import annotations

import pytest

from agent.evaluation.catalogue import find_coefficients, load_catalogue
from agent.evaluation.coefficients_file import load_coefficients
from agent.evaluation.forecast import forecast_time
from agent.evaluation.profile_efficiencies import MIN_SHARE, with_fitted
from agent.evaluation.rows import Case, case_of
from agent.evaluation.table import Measurement
from agent.placement import costing
from agent.schema.device import DeviceProfile
from agent.service.detection import load_profiles
from agent.workload.catalogue import resolve_name

CATALOGUE, COEFFICIENTS = load_catalogue(), load_coefficients(find_coefficients())
PROFILES = load_profiles([])


def fitted(name: str) -> DeviceProfile:
    return with_fitted(PROFILES[name], CATALOGUE, COEFFICIENTS)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_every_shipped_profile_stays_valid_and_keeps_what_it_states(name: str) -> None:
    after = fitted(name)
    DeviceProfile.model_validate(after.model_dump())
    for old, new in zip(PROFILES[name].accelerators, after.accelerators, strict=True):
        for before, now in zip(old.runtimes, new.runtimes, strict=True):
            assert now.compute_efficiency[: len(before.compute_efficiency)] == before.compute_efficiency
            for entry in now.compute_efficiency[len(before.compute_efficiency) :]:
                assert MIN_SHARE <= entry.share.value <= 1
                assert entry.share.provenance == "fitted"
                assert entry.share.rel_uncertainty
                assert "published measurements" in entry.share.source
            if before.bandwidth_efficiency is not None:
                assert now.bandwidth_efficiency == before.bandwidth_efficiency


@pytest.mark.parametrize("name", ["generic-x86", "generic-arm64"])
def test_a_board_that_the_tables_do_not_know_is_left_alone(name: str) -> None:
    assert fitted(name) == PROFILES[name]


def test_an_accelerator_with_other_peaks_is_not_taken_for_the_one_in_the_tables() -> None:
    igpu = fitted("core-ultra-285hx-npu-rtx-pro-5000").accelerator("igpu")
    assert igpu == PROFILES["core-ultra-285hx-npu-rtx-pro-5000"].accelerator("igpu")


@pytest.mark.parametrize(
    ("profile", "accelerator", "provider", "board", "notes"),
    [
        ("raspberry-pi-5", "cpu", "CPUExecutionProvider", "Raspberry Pi 5", "onnxruntime"),
        ("raspberry-pi-5-hailo-8", "cpu", "XNNPACK", "Raspberry Pi 5", "tflite"),
        ("jetson-orin-nx", "gpu", "TensorrtExecutionProvider", "Jetson Orin NX 16GB", "tensorrt"),
    ],
)
def test_the_planner_and_the_validation_predict_the_same_dense_network(
    profile: str, accelerator: str, provider: str, board: str, notes: str
) -> None:
    own = fitted(profile).accelerator(accelerator)
    runtime = next(r for r in own.runtimes if r.provider == provider)
    work = resolve_name("resnet-50").workload(precision="fp32")
    planned_s = costing.model_cost(work, fitted(profile), own, runtime).time_s
    row = Measurement(
        row_id="1", board=board, device=own.kind, model="resnet50", task="image-classification", precision="fp32",
        notes=notes, latency_ms=1.0,
    )  # fmt: skip
    case = case_of(row, CATALOGUE.hardware, CATALOGUE.architectures)
    assert isinstance(case, Case)
    assert planned_s == pytest.approx(forecast_time(case, COEFFICIENTS).mean_s, rel=0.15)
