"""What a recording teaches: the board that made it, no more than it shows, and where it leads."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from agent.errors import BadInput
from agent.evaluation.heat_fit import fit_heat
from tests.evaluation.heat_world import FAN_W_PER_K, TRUE, recording


def test_the_board_that_made_the_recording_is_found_through_the_noise_of_its_sensors():
    fit = fit_heat(recording(noise_c=0.1))

    assert [node.capacity_j_per_k for node in fit.estimates] == pytest.approx([8.0, 15.0], rel=0.06)
    assert [node.ambient_w_per_k for node in fit.estimates] == pytest.approx([0.25, 0.15], rel=0.06)
    assert [node.fan_w_per_k for node in fit.estimates] == pytest.approx([0.3, 0.2], rel=0.1)
    assert fit.network.link_w_per_k[0, 1] == pytest.approx(0.4, rel=0.05)
    assert fit.supported
    assert fit.rms_c == pytest.approx(0.1, abs=0.05)
    assert fit.unseen_rms_c == pytest.approx(0.1, abs=0.05)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_no_unnamed_heat_shows_where_every_power_is_recorded(seed):
    for known in (recording(noise_c=0.1, seed=seed), recording(fan=False, noise_c=0.1, seed=seed)):
        fit = fit_heat(known)
        assert [power.power_w for power in fit.unnamed] == [0.0, 0.0]
        assert fit.mean_power_w() == pytest.approx(known.power_w.mean(axis=1), rel=0.02)


@pytest.mark.parametrize("left_out_w", [4.0, -2.0])
def test_a_power_that_the_recording_leaves_out_shows_and_does_not_spoil_the_conductances(left_out_w):
    known = recording(noise_c=0.05, unrecorded_w=max(0.0, left_out_w))
    fit = fit_heat(replace(known, power_w=known.power_w + np.array([[max(0.0, -left_out_w)], [0.0]])))

    gpu, cpu = fit.unnamed
    assert gpu.power_w == pytest.approx(left_out_w, rel=0.15)
    assert 0 < gpu.standard_error_w < 0.25 * abs(left_out_w)
    assert cpu.power_w == 0.0
    assert fit.estimates[0].ambient_w_per_k == pytest.approx(0.25, rel=0.15)
    assert fit.rms_c < 0.3
    assert fit.unseen_rms_c is not None
    assert fit.unseen_rms_c < 0.6


def test_a_fan_that_was_not_recorded_is_not_asked_for():
    fit = fit_heat(recording(fan=False))

    assert fit.undetermined == ()
    assert fit.fan_w_per_k is None
    assert fit.network.ambient_w_per_k == pytest.approx(TRUE.ambient_w_per_k + 0.2 * FAN_W_PER_K, rel=0.05)
    assert fit.settles_c(np.array([5.0, 5.0]), fan=1.0) == pytest.approx(fit.settles_c(np.array([5.0, 5.0])))


def test_where_it_leads_is_what_the_board_would_do():
    known = recording()
    fit = fit_heat(known)
    power_w = fit.highest_power_w()

    assert power_w.sum() == pytest.approx(known.power_w.sum(axis=0).max(), rel=0.1)
    still, full = fit.settles_c(power_w, fan=0.0), fit.settles_c(power_w, fan=1.0)
    assert full == pytest.approx(
        25.0 + np.linalg.solve(TRUE.laplacian_w_per_k + np.diag(FAN_W_PER_K), power_w), abs=1.5
    )
    assert np.all(still > fit.settles_c(power_w))
    assert np.all(fit.settles_c(power_w) > full)
    begin = np.full(2, 25.0)
    sooner, later = fit.reaches_s("gpu", 40.0, power_w, begin), fit.reaches_s("gpu", 45.0, power_w, begin)
    assert 0 < sooner < later < math.inf
    assert fit.reaches_s("gpu", 150.0, power_w, begin) == math.inf
    assert fit.time_constants_s[0] > fit.time_constants_s[1] > 0


def test_two_zones_always_loaded_alike_leave_something_undetermined_and_it_is_named():
    known = recording(fan=False, length_s=120.0)
    steady = replace(known, power_w=np.full_like(known.power_w, 6.0), temperature_c=known.temperature_c * 0.0 + 30.0)

    with pytest.raises(BadInput, match="in turns of a few minutes"):
        fit_heat(steady)


def test_what_a_short_recording_leaves_open_bears_the_zones_names():
    fit = fit_heat(recording(fan=False, noise_c=0.3, length_s=100.0, every_s=1.0))

    assert not fit.supported
    assert {zone for zone, _ in fit.undetermined} <= {"gpu", "cpu"}
    assert {name for _, name in fit.undetermined} <= {"capacity", "ambient", "link to cpu", "link to gpu"}


def test_nothing_is_summed_or_replayed_across_a_gap():
    known = recording(fan=False, every_s=4.0)
    half = known.time_s.size // 2
    jumped = replace(
        known,
        time_s=np.where(np.arange(known.time_s.size) < half, known.time_s, known.time_s + 5000.0),
    )

    fit = fit_heat(jumped)

    assert fit.rms_c < 0.05
    assert fit.replay_c[:, half] == pytest.approx(known.temperature_c[:, half])


def test_a_long_recording_is_replayed_in_fewer_steps_and_says_the_same():
    known = recording(fan=False, length_s=2200.0, every_s=1.0)

    fit = fit_heat(known)

    assert np.isfinite(fit.replay_c[0]).sum() == 1101
    assert fit.rms_c < 0.05
    assert [node.capacity_j_per_k for node in fit.estimates] == pytest.approx([8.0, 15.0], rel=0.03)
