"""Power probe: joules above idle from a rail, and coefficients that come back from them with their origin."""

from __future__ import annotations

import threading

import pytest

from agent.physics.power_fit import FittedPower
from agent.ports import Reading
from agent.schema.device import DeviceProfile, Rail, Runtime
from agent.service.calibration.calibration import Calibration, apply, from_power
from agent.service.calibration.power_probe import MeasuredPower, PowerLoad, PowerProbe, coefficients, rail_of
from tests.fakes import FakeClock
from tests.service.world import profile, quantity

RAIL = Rail(name="vdd", source="hwmon", type="ina3221/VDD", covers=("cpu",), scope="board")
STEP_S = 0.1


class RailSensor:
    """3 W at idle, 8 W under load; every reading takes a tenth of a second of the fake clock."""

    def __init__(self, clock: FakeClock, name: str = "vdd", dead: bool = False) -> None:
        self.name, self._clock, self._dead = name, clock, dead
        self.loaded = False
        self.reads = threading.Semaphore(0)

    def read(self, now_s: float) -> Reading:
        self._clock.advance(STEP_S)
        self.reads.release()
        if self._dead:
            return Reading(self.name, "power_w", None, "read_failed", self._clock.monotonic_s())
        return Reading(self.name, "power_w", 8.0 if self.loaded else 3.0, None, self._clock.monotonic_s())


def load_for(sensor: RailSensor, readings: int) -> None:
    sensor.loaded = True
    for _ in range(readings):
        assert sensor.reads.acquire(timeout=60)


def test_a_load_is_measured_above_what_the_rail_shows_at_idle() -> None:
    clock = FakeClock()
    sensor = RailSensor(clock)
    probe = PowerProbe(RAIL, [sensor], clock, idle_s=0.2)
    assert probe.idle_w == pytest.approx(3.0)
    sensor.loaded = True
    seconds, joules = probe.measure(lambda: load_for(sensor, 20)) or (0.0, 0.0)
    assert joules / seconds == pytest.approx(5.0)
    assert probe.described == "vdd (board), idle 3.00 W taken off"


def test_a_rail_that_does_not_answer_measures_nothing() -> None:
    clock = FakeClock()
    probe = PowerProbe(RAIL, [RailSensor(clock, dead=True)], clock, idle_s=0.1)
    assert probe.idle_w is None
    assert probe.measure(lambda: None) is None
    assert "idle unknown" in probe.described


def test_the_rail_that_sees_the_memory_and_little_else_is_chosen() -> None:
    rails = [
        {"name": "wall", "source": "hwmon", "type": "a/b", "covers": ["cpu", "gpu"], "scope": "wall"},
        {"name": "core", "source": "hwmon", "type": "a/c", "covers": ["cpu"], "scope": "rail"},
        {"name": "both", "source": "hwmon", "type": "a/d", "covers": ["cpu", "gpu"], "scope": "rail"},
        {"name": "input", "source": "hwmon", "type": "a/e", "covers": ["dla"], "scope": "module"},
        {"name": "dla", "source": "hwmon", "type": "a/f", "covers": ["dla"], "scope": "rail"},
    ]
    board = DeviceProfile.model_validate({**profile("cpu", "gpu", "npu", "dla").model_dump(), "rails": rails})
    assert [getattr(rail_of(board, name), "name", None) for name in ("cpu", "gpu", "npu", "dla")] == [
        "core", "both", None, "input",
    ]  # fmt: skip


def loads(scale: float = 1.0) -> list[PowerLoad]:
    amounts = [(2e9, 0.0, 1e7, 0.1), (0.0, 8e9, 2e7, 0.08), (1e8, 0.0, 1e9, 0.15), (0.0, 0.0, 1e6, 0.5),
               (4e9, 0.0, 5e8, 0.3), (0.0, 1e9, 9e8, 0.2)]  # fmt: skip
    return [
        PowerLoad((("fp32", f), ("int8", i)), b, s, scale * (1e-11 * f + 2e-12 * i + 1e-10 * b + 1.5 * s))
        for f, i, b, s in amounts
    ]


def test_measured_joules_replace_the_profiles_own_with_their_origin() -> None:
    board = profile("cpu")
    power = coefficients(board.accelerator("cpu"), RAIL, loads())
    runtime = Runtime(backend="onnx", provider="CPUExecutionProvider")
    found = from_power("cpu", runtime, power, "rail vdd")
    assert power.refused == ()
    changed = apply(board, Calibration(profile="testboard", measured_at="now", coefficients=tuple(found)))
    cpu, memory = changed.accelerator("cpu"), changed.memory_domain("ram")
    assert cpu.energy_j_per_flop["fp32"].value == pytest.approx(1e-11, rel=1e-3)
    assert cpu.energy_j_per_flop["int8"].value == pytest.approx(2e-12, rel=1e-3)
    assert memory.energy_j_per_byte.value == pytest.approx(1e-10, rel=1e-3)
    assert cpu.base_power_w.value == pytest.approx(1.5, rel=1e-3)
    assert {cpu.base_power_w.provenance, memory.energy_j_per_byte.provenance} == {"measured"}
    assert cpu.base_power_w.source == "rail vdd"
    assert cpu.runtimes == board.accelerator("cpu").runtimes


def test_a_core_rail_says_nothing_of_the_memory_chips() -> None:
    power = coefficients(profile("cpu").accelerator("cpu"), RAIL.model_copy(update={"scope": "rail"}), loads())
    assert power.j_per_byte is None
    assert "may not see the memory chips" in power.refused[0]


def test_a_load_that_the_sensor_cannot_tell_from_idle_refuses_the_fit() -> None:
    power = coefficients(profile("cpu").accelerator("cpu"), RAIL, loads(scale=0.0))
    assert (power.j_per_flop, power.base_power_w) == ((), None)
    assert "no more energy than idle" in power.refused[0]


def test_a_coefficient_that_is_hardly_known_is_refused_by_name() -> None:
    noisy = [
        PowerLoad(x.flops, x.bytes_moved, x.seconds, x.joules * (1 + 0.18 * (-1) ** i)) for i, x in enumerate(loads())
    ]
    power = coefficients(profile("cpu").accelerator("cpu"), RAIL, noisy)
    kept = {p for p, _ in power.j_per_flop}
    assert power.refused
    assert all(f": {p} " not in line for p in kept for line in power.refused)


def test_leakage_is_taken_off_the_watts_of_being_on() -> None:
    leak = {"power_w": quantity(0.5), "reference_c": 45.0, "activation_energy_ev": quantity(0.3)}
    unit = profile("cpu").accelerators[0].model_dump()
    board = DeviceProfile.model_validate({**profile("cpu").model_dump(), "accelerators": [{**unit, "leakage": leak}]})
    power = coefficients(board.accelerator("cpu"), RAIL, loads())
    assert power.base_power_w is not None
    assert power.base_power_w.value == pytest.approx(1.0, rel=1e-3)


def test_what_came_out_as_nothing_is_not_written_as_a_coefficient() -> None:
    nothing = MeasuredPower(base_power_w=FittedPower("seconds", 0.0, 0.1))
    assert from_power("cpu", Runtime(backend="onnx", provider="P"), nothing, "s") == []
