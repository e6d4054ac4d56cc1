"""Thermal model: when a reading is not believed, and when it is the model that has to be doubted instead."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.control import thermal_model
from agent.control.thermal_model import (
    LEARNING_SAMPLES,
    OVERRULED_CHANGES,
    OVERRULED_S,
    PROBED_S,
    ModelState,
    Sample,
    ZoneMemory,
)
from agent.physics import impedance
from agent.physics.impedance import ImpedancePrior

PRIOR = ImpedancePrior(np.array([4.0, 40.0, 400.0]), np.array([[1.0, 1.0, 2.0]]))


def learnt(value_c=50.0, deviation_c=0.1, **known):
    """A zone whose model has seen enough, says `value_c`, and doubts it by about `deviation_c`."""
    network = replace(
        impedance.start(PRIOR, value_c, 0.0),
        samples=LEARNING_SAMPLES,
        covariance=np.diag([deviation_c**2] + [1e-6] * 4),
    )
    return ModelState({"z": ZoneMemory(network, 0.0, value_c, network, **known)})


def after(state, value_c, now_s=1.0, power_w=0.0):
    samples = {"z": Sample(value_c, now_s)}
    return thermal_model.observe(state, samples, {"z": PRIOR}, [power_w], 0.0, now_s)


@pytest.mark.parametrize(("value_c", "believed"), [(74.0, True), (76.0, False), (26.0, True), (24.0, False)])
def test_a_reading_further_from_a_sure_model_than_any_power_explains_is_doubted(value_c, believed):
    assert (after(learnt(), value_c).zones["z"].doubt == "") is believed


@pytest.mark.parametrize(("value_c", "believed"), [(76.0, True), (79.0, True), (82.0, False)])
def test_a_model_that_knows_that_it_knows_little_believes_more(value_c, believed):
    assert (after(learnt(deviation_c=10.0), value_c).zones["z"].doubt == "") is believed


def test_a_sensor_that_was_doubted_has_to_come_closer_to_be_believed():
    state = after(learnt(deviation_c=10.0, doubt="off", doubted_s=0.0), 61.0)
    assert state.zones["z"].doubt
    assert not after(learnt(doubt="off"), 59.0).zones["z"].doubt


def follow(values, every_s=2.0):
    """How long a reading that was never believed is doubted: seconds, None where it is to the end."""
    state = learnt()
    for count, value_c in enumerate(values, 1):
        state = after(state, value_c, count * every_s)
        if not state.zones["z"].doubt:
            return (count - 1) * every_s, state
    return None, state


def test_readings_that_go_on_and_move_overrule_the_model_which_learns_anew():
    doubted_s, state = follow([10.0 + 0.1 * (n % 3) for n in range(100)])
    assert doubted_s == OVERRULED_S
    zone = state.zones["z"]
    assert (zone.network.samples, zone.network.ambient_c) == (0, zone.value_c)
    assert not thermal_model.trusted(zone, 3.0)


def test_one_that_hardly_moves_is_believed_only_much_later():
    still = [10.0 + 0.1 * min(n, OVERRULED_CHANGES - 1) for n in range(400)]
    assert follow(still)[0] == PROBED_S


def test_the_last_change_that_is_needed_counts():
    still = [10.0 + 0.1 * min(n, OVERRULED_CHANGES) for n in range(400)]
    assert follow(still)[0] == OVERRULED_S


def test_a_doubt_that_ended_begins_anew():
    state = after(after(after(learnt(), 10.0, 2.0), 10.1, 4.0), 50.0, 6.0)
    assert not state.zones["z"].doubt
    zone = after(state, 10.0, 8.0).zones["z"]
    assert (zone.doubted_s, zone.changes) == (8.0, 0)


def test_a_sensor_that_is_stuck_is_not_believed_for_going_on():
    state = learnt(doubt="stuck", stuck=True, doubted_s=-2 * PROBED_S)
    assert after(state, 50.0).zones["z"].doubt.startswith("stuck")


def test_a_board_that_is_warm_from_its_work_is_not_taken_for_one_in_hot_air_when_the_model_learns_anew():
    state, warm_c = learnt(), 90.0
    for count in range(1, 60):
        state = after(state, warm_c + 0.1 * (count % 3), 2.0 * count, power_w=10.0)
        if not state.zones["z"].doubt:
            break
    network = state.zones["z"].network
    assert network.samples == 0
    assert impedance.estimate(network) == pytest.approx(state.zones["z"].value_c)
    assert network.filtered_w[0, 0] == pytest.approx(10.0, rel=0.01)
    assert network.ambient_c < warm_c - 20.0


@pytest.mark.parametrize(
    ("rms_c", "value_c", "samples", "gives_up"),
    [
        (1.45, 56.0, LEARNING_SAMPLES, True),
        (1.6, 56.0, LEARNING_SAMPLES, False),  # it erred before: what is read now teaches it already
        (1.0, 50.1, LEARNING_SAMPLES, False),
        (1.45, 56.0, LEARNING_SAMPLES - 1, True),
        (1.45, 56.0, LEARNING_SAMPLES - 2, False),  # it is not sure of anything yet
    ],
)
def test_a_network_that_begins_to_err_gives_up_its_certainty_once(rms_c, value_c, samples, gives_up):
    zone = learnt().zones["z"]
    network = replace(zone.network, innovation_c2=rms_c**2, samples=samples)
    found = after(ModelState({"z": replace(zone, network=network)}), value_c).zones["z"].network
    assert np.array_equal(found.covariance, PRIOR.covariance) is gives_up


def test_a_board_that_ran_at_one_load_for_hours_and_lost_its_sensor_is_not_stopped_for_good():
    """Nothing told the board's own heat from the air's, so the model errs by far once the load is gone."""
    random = np.random.default_rng(3)
    state, hot_c = ModelState(), 30.0
    for count in range(1, 6000):
        now_s = 2.0 * count
        settled_c = 48.0 + now_s / 1200.0 + 30.0 * (count < 5940)
        hot_c += (settled_c - hot_c) * 0.05
        lost = 5940 <= count < 5990
        value_c = None if lost else round(2.0 * (hot_c + random.normal(0.0, 0.4))) / 2.0
        power_w = 5.0 if count < 5940 else 0.0
        state = after(state, value_c, now_s, power_w)
    assert state.zones["z"].doubt == ""
