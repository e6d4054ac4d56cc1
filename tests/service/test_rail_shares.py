"""Joules of a rail by model in telemetry: requests that overlap share them, idle time and other rails do not."""

from __future__ import annotations

import pytest

from agent.control.energy_share import Used
from agent.ports import Reading
from agent.schema.device import Rail
from agent.sensors.energy import EnergyMeter
from agent.sensors.registry import ENERGY_SUFFIX
from agent.service.remote.rail_shares import RailShares
from agent.service.serving.meter import Meter

RAILS = (Rail(name="vdd", source="hwmon", type="ina/vdd", covers=("cpu", "npu"), scope="rail"),)


def window(joules: float, busy: float = 1.0):
    meter = EnergyMeter("vdd", 10.0)
    for t_s, value in ((0.0, 0.0), (1.0, joules)):
        meter.add(Reading("vdd", "energy_j", value, None, t_s), busy)
    return meter.close(1.0)


def ran(meter: Meter, accelerator: str, seconds: float, joules: float | None) -> None:
    meter.answered(accelerator, seconds, seconds, joules, "modelled" if joules is not None else "unknown", 0)


def test_each_window_is_divided_by_what_the_models_did_in_it():
    meters = {"a": Meter(), "b": Meter(), "far": Meter()}
    rails = RailShares(RAILS, lambda: {name: meter.used() for name, meter in meters.items()})
    ran(meters["a"], "cpu", 0.5, 1.0)
    ran(meters["b"], "npu", 0.5, 3.0)
    ran(meters["far"], "gpu", 0.5, 100.0)
    assert rails.close({"vdd": window(8.0)})["vdd"] == {"models_j": {"a": 2.0, "b": 6.0}, "unattributed_j": 0.0}

    ran(meters["a"], "cpu", 0.25, 1.0)
    half_idle = rails.close({"vdd": window(8.0, busy=0.5)})["vdd"]
    assert half_idle == {"models_j": {"a": 4.0}, "unattributed_j": 0.0}
    assert rails.close({"vdd": window(8.0)})["vdd"] == {"models_j": {}, "unattributed_j": 8.0}


def test_joules_that_nobody_knows_leave_the_time_to_divide_by():
    meters = {"a": Meter(), "b": Meter()}
    rails = RailShares(RAILS, lambda: {name: meter.used() for name, meter in meters.items()})
    ran(meters["a"], "cpu", 3.0, None)
    ran(meters["a"], "cpu", 0.0, 1.0)
    ran(meters["b"], "cpu", 1.0, 5.0)
    assert meters["a"].used() == {"cpu": Used(3.0, None)}
    assert rails.close({"vdd": window(8.0)})["vdd"]["models_j"] == pytest.approx({"a": 6.0, "b": 2.0})


def test_a_rail_without_a_reading_or_of_nobody_says_nothing():
    rails = RailShares(RAILS, dict)
    assert rails.close({"vdd": EnergyMeter("vdd", 10.0).close(1.0), "other": window(8.0)}) == {"vdd": {}}


def test_a_rail_with_two_sensors_is_divided_once():
    meters = {"a": Meter()}
    rails = RailShares(RAILS, lambda: {name: meter.used() for name, meter in meters.items()})
    ran(meters["a"], "cpu", 1.0, 1.0)
    both = {"vdd": window(7.9), "vdd" + ENERGY_SUFFIX: window(8.0)}
    assert rails.close(both) == {"vdd" + ENERGY_SUFFIX: {"models_j": {"a": 8.0}, "unattributed_j": 0.0}}
