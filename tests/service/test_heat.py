"""Heat in the running agent: the supervisor learns its zones, looks ahead, paces lanes before a limit, and says so."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agent.physics.thermal import ThermalNetwork, step
from agent.ports import Reading
from agent.schema.device import OperatingPoint
from agent.schema.policy import ThermalForecast
from agent.service.heat import HeatWatch
from agent.service.mail import SamplesEvent
from tests.service.world import POLICY, World, profile, quantity

ZONE = {"name": "soc", "source": "thermal_zone", "type": "cpu-thermal", "critical": True}
FORECAST = POLICY.model_copy(
    update={"thermal": POLICY.thermal.model_copy(update={"forecast": ThermalForecast(), "min_dwell_s": 5})}
)
NETWORK = ThermalNetwork(np.array([2.0, 15.0]), np.array([[0.0, 0.8], [0.8, 0.0]]), np.array([0.0, 0.12]))


class Oven(World):
    """A board that its two lanes really heat, 7 W each while busy; hard limit 85 °C."""

    def __init__(self, **options):
        super().__init__(models={"m": ["gpu0"]}, policy=FORECAST, zones=(ZONE,), **options)
        self.air_c = 40.0
        self.at_c = np.full(2, self.air_c)
        self.peak_c = 40.0

    def work(self, seconds: int, *busy: str) -> None:
        for _ in range(seconds):
            self.supervisor.post(
                SamplesEvent((Reading("soc", "temperature_c", float(self.at_c[0]), None, self.clock.now_s),))
            )
            self.tick(1.0)
            power_w = 0.0
            for name in busy:
                lane = self.lane(name)
                share = lane.pace if lane.permit_until_s > self.clock.now_s else 0.0
                lane.busy_s += share
                power_w += 7.0 * share
            self.at_c = step(NETWORK, self.at_c, np.array([power_w, 0.0]), 1.0, ambient_c=self.air_c)
            self.peak_c = max(self.peak_c, float(self.at_c[0]))


def test_a_busy_board_is_paced_below_its_limit_and_status_says_why():
    world = Oven()
    world.work(400, "gpu0")
    zone = world.snapshot.zones[0]
    assert world.peak_c < 85.0
    assert 0.2 < world.lane("gpu0").pace < 1.0
    assert world.accelerator("gpu0").pace == world.lane("gpu0").pace
    assert "forecast: soc would reach" in world.condition("thermal:gpu0").cause
    assert world.snapshot.agent.mode == "throttled"
    assert (zone.name, zone.learnt, zone.limit_c) == ("soc", True, 85.0)
    assert zone.forecast_c is not None
    assert zone.k_per_w is not None


def test_a_light_load_is_left_alone():
    world = Oven()
    world.air_c = 20.0
    world.work(60, "gpu0")
    world.work(200)
    for _ in range(6):
        world.work(1, "gpu0")
        world.work(9)
    assert world.lane("gpu0").pace == 1.0
    assert world.condition("thermal:gpu0") is None
    assert world.snapshot.agent.mode == "ready"


def test_a_vanished_sensor_still_counts_as_hot():
    world = Oven()
    world.work(40)
    world.supervisor.post(SamplesEvent((Reading("soc", "temperature_c", None, "absent", world.clock.now_s),)))
    world.tick(0.2)
    assert not world.accelerator("gpu0").permit
    assert world.snapshot.zones[0].fault == "absent"


def test_readings_that_stop_coming_are_noticed_without_new_ones():
    world = Oven()
    world.work(40)
    world.tick(3.5)
    assert not world.accelerator("gpu0").permit
    assert "no reading for" in world.condition("thermal:gpu0").cause


def watch(world, **changes):
    return HeatWatch(world.supervisor.profile.model_copy(update=changes))


def test_a_rail_of_its_own_is_measured_and_a_shared_one_is_not():
    world = World(zones=(ZONE,))
    rail = {"name": "gpu", "source": "hwmon", "type": "x/y", "covers": ("gpu0",), "scope": "rail"}
    board = profile("gpu0", "cpu", zones=(ZONE,))
    rails = board.model_validate({**board.model_dump(), "rails": [rail]}).rails
    readings = (Reading("gpu", "power_w", 3.5, None, 0.0),)
    heat = watch(world, rails=rails)
    assert heat._measured_w(world.keepers["gpu0"], readings) == 3.5
    assert heat._measured_w(world.keepers["cpu"], readings) is None


def test_full_power_is_that_of_the_hungriest_model_else_of_the_profile():
    world = World()
    heat = watch(world)
    assert heat.full_power_w(world.keepers["gpu0"]) == pytest.approx(0.05 / 0.01 + 2.0)
    empty = World(models={})
    assert heat.full_power_w(empty.keepers["gpu0"]) == pytest.approx(3 * 2.0)
    empty.keepers["gpu0"].spec = empty.keepers["gpu0"].spec.__class__("unknown", 1)
    assert heat.full_power_w(empty.keepers["gpu0"]) == 5.0


def test_the_network_of_the_profile_is_where_learning_starts():
    world = World(zones=(ZONE,))
    board = world.supervisor.profile.model_dump()
    board["thermal"] = {
        "nodes": [{"name": "soc", "heat_capacity_j_per_k": quantity(60), "to_ambient_w_per_k": quantity(0.25)}]
    }
    for unit in board["accelerators"]:
        unit["thermal_node"] = "soc"
    heat = HeatWatch(world.supervisor.profile.model_validate(board))
    heat.judge(world.keepers, (Reading("soc", "temperature_c", 40.0, None, world.clock.now_s),), FORECAST, 0.0)
    assert heat._priors["soc"].resistance_k_per_w.sum(axis=1) == pytest.approx([4.0, 4.0])


def test_work_can_move_only_where_all_of_it_is_loaded():
    world = World(models={"m": ["gpu0", "cpu"], "n": ["gpu0"]})
    heat = watch(world)
    moves = {name: heat._source(k, world.keepers, (), FORECAST, 0.0).moves for name, k in world.keepers.items()}
    assert [m.to for m in moves["cpu"]] == ["gpu0"]
    assert moves["gpu0"] == ()


def test_a_simulated_accelerator_heats_its_own_zone_alone():
    world = World(simulated=("gpu0",), policy=FORECAST)
    world.lane("gpu0").temperature_c = 50.0
    world.tick(2.0)
    prior = world.supervisor._heat._priors["gpu0-simulated"]
    assert prior.resistance_k_per_w[0].sum() > 1.0
    assert prior.resistance_k_per_w[1].sum() < 0.01
    assert world.snapshot.zones[0].temperature_c == 50.0


def test_a_lane_that_does_not_count_its_time_is_judged_by_the_moment():
    world = World()
    world.lane("gpu0").busy_s = None
    heat = watch(world)
    world.tick()
    assert heat._busy_share(world.keepers["gpu0"], world.clock.now_s) == 0.0
    world.lane("gpu0").busy_since_s = world.clock.now_s
    world.tick()
    assert heat._busy_share(world.keepers["gpu0"], world.clock.now_s) == 1.0
    world.keepers["gpu0"].vitals = None
    assert heat._busy_share(world.keepers["gpu0"], world.clock.now_s) == 0.0


class Clocks:
    """An actuator that notes what it is told."""

    def __init__(self, problem=""):
        self.problem, self.told, self.restored = problem, [], 0

    def points(self):
        return () if self.problem else (OperatingPoint(name="slow", clock_share=0.7, power_cap_w=quantity(2.0)),)

    def set(self, point):
        if not self.told or self.told[-1] != point:
            self.told.append(point)
        return self.problem

    def restore(self):
        self.restored += 1
        return ""


def with_clocks(clocks, **rule):
    world = Oven()
    world.supervisor._heat.actuators = {"gpu0": clocks}
    thermal = FORECAST.thermal.model_copy(update={"forecast": ThermalForecast(**rule)})
    world.supervisor._state.current = replace(
        world.supervisor._state.current, policy=FORECAST.model_copy(update={"thermal": thermal})
    )
    return world


def test_a_lower_operating_point_is_set_where_that_gets_more_done():
    clocks = Clocks()
    world = with_clocks(clocks, operating_points=True)
    world.work(400, "gpu0")
    assert clocks.told[:2] == ["", "slow"]
    assert "runs at slow" in world.condition("thermal:gpu0").cause
    world.supervisor.stop()
    assert clocks.restored == 1


def test_operating_points_are_left_alone_where_the_policy_does_not_allow_them():
    clocks = Clocks()
    world = with_clocks(clocks)
    world.work(300, "gpu0")
    assert clocks.told == [""]


def test_a_policy_that_no_longer_allows_points_has_the_fastest_set_again_and_tells_of_no_actuator():
    clocks = Clocks()
    world = with_clocks(clocks, operating_points=True)
    world.work(400, "gpu0")
    clocks.problem = "max_freq: not allowed"
    world.supervisor._state.current = with_clocks(clocks).supervisor._state.current
    world.work(2, "gpu0")
    assert clocks.told[-2:] == ["slow", ""]
    assert all(c.type != "operating_point:gpu0" for c in world.supervisor.conditions.all())


def test_an_actuator_that_cannot_is_a_condition_and_the_lane_is_paced():
    world = with_clocks(Clocks("max_freq: not allowed"), operating_points=True)
    world.work(300, "gpu0")
    assert world.condition("operating_point:gpu0").cause == "max_freq: not allowed"
    assert world.lane("gpu0").pace < 1.0
