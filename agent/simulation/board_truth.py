"""Board truth: the heat of a simulated board as it really is, with its fan, leakage and firmware trips.

Stepped exactly for powers that hold over a step (matrix exponential by `physics.thermal`). The firmware halves the
clocks of everything on a zone at its trip and turns the board off at its shutdown: both are counted, neither is wanted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field

import numpy as np

from agent.physics.arguments import Array
from agent.physics.thermal import ThermalNetwork, step
from agent.records import record
from agent.schema.simulated_board import SimulatedBoard

THROTTLED_SHARE = 0.5
"""What the firmware leaves of clocks and of the power above idle."""
RELEASE_C = 3.0
"""The firmware gives the clocks back this far below its trip."""
REBOOT_S = 120.0
FAN_STEPS = 8
"""Duties are quantised, as fans' are, which keeps the number of propagators small."""


@record
class Firmware:
    """What the firmware has done so far."""

    throttled: bool = False
    off_until_s: float = 0.0
    trips: int = 0
    throttled_s: float = 0.0
    shutdowns: int = 0


@record
class BoardTruth:
    """See module. `at_c` is the temperature of every node."""

    board: SimulatedBoard
    step_s: float
    at_c: Array
    firmware: Firmware = field(default_factory=Firmware)
    fan: float = 0.0

    def __post_init__(self) -> None:
        nodes = [n.name for n in self.board.nodes]
        self._index = {name: i for i, name in enumerate(nodes)}
        self._node_of = np.array([self._index[a.node] for a in self.board.accelerators])
        self._zone_node = np.array([self._index[z.node] for z in self.board.zones])
        self._trips_c = np.array([z.trip_c for z in self.board.zones])
        self._shutdowns_c = np.array([z.shutdown_c for z in self.board.zones])
        self._idle_w = np.array([n.idle_power_w for n in self.board.nodes])
        self._leakage_w = np.array([n.leakage_w for n in self.board.nodes])
        self._doubling_c = np.array([n.leakage_doubling_c for n in self.board.nodes])
        self._propagators: dict[int, tuple[Array, Array]] = {}

    @property
    def zones_c(self) -> Array:
        """(zones,): what an ideal sensor would read."""
        found: Array = self.at_c[self._zone_node]
        return found

    def speed_share(self, now_s: float) -> float:
        """What the firmware leaves of the clocks now."""
        if now_s < self.firmware.off_until_s:
            return 0.0
        return THROTTLED_SHARE if self.firmware.throttled else 1.0

    def network(self, duty: float) -> ThermalNetwork:
        """Heat paths at a duty of the fan."""
        nodes = self.board.nodes
        link = np.zeros((len(nodes), len(nodes)))
        for path in self.board.links:
            a, b = (self._index[end] for end in path.between)
            link[a, b] += path.w_per_k
            link[b, a] += path.w_per_k
        ambient = np.array([n.to_ambient_w_per_k + duty * n.fan_w_per_k for n in nodes])
        return ThermalNetwork(np.array([n.heat_capacity_j_per_k for n in nodes]), link, ambient)

    def propagator(self, duty: float, over_s: float | None = None) -> tuple[Array, Array]:
        """(decay, response): temperatures above the air after a step = decay·before + response·power."""
        key = round(duty * FAN_STEPS)
        found = self._propagators.get(key) if over_s is None else None
        if found is not None:
            return found
        network = self.network(key / FAN_STEPS)
        count = len(self.board.nodes)
        unit = np.eye(count)
        length_s = self.step_s if over_s is None else over_s
        decay = step(network, unit, np.zeros((count, count)), length_s, ambient_c=0.0).T
        response = step(network, np.zeros((count, count)), unit, length_s, ambient_c=0.0).T
        if over_s is None:
            self._propagators[key] = (decay, response)
        return decay, response

    def idle_w(self) -> Array:
        """(nodes,): what heats them without work, leakage at the present temperatures."""
        found: Array = self._idle_w + self._leakage_w * 2.0 ** ((self.at_c - 25.0) / self._doubling_c)
        return found

    def advance(self, power_w: Array, ambient_c: float, fan_stuck: bool, now_s: float) -> float:
        """Let one step pass with powers of the accelerators above idle; returns the watts of the whole board."""
        off = now_s < self.firmware.off_until_s
        load_w = np.zeros(len(self.board.nodes)) if off else self.idle_w()
        if not off:
            np.add.at(load_w, self._node_of, power_w)
        self.fan = 0.0 if fan_stuck or off else self.duty()
        decay, response = self.propagator(self.fan)
        after = ambient_c + decay @ (self.at_c - ambient_c) + response @ load_w
        self.at_c = np.asarray(after, dtype=np.float64)
        self._firmware(now_s, off)
        return float(load_w.sum())

    def duty(self) -> float:
        """What the firmware asks of the fan."""
        fan = self.board.fan
        if fan is None:
            return 0.0
        names = [z.name for z in self.board.zones]
        here_c = float(self.zones_c[names.index(fan.zone)])
        duty = (here_c - fan.on_c) / (fan.full_c - fan.on_c)
        return round(min(1.0, max(0.0, duty)) * FAN_STEPS) / FAN_STEPS

    def _firmware(self, now_s: float, off: bool) -> None:
        over = self.zones_c - self._trips_c
        if not self.firmware.throttled and bool((over >= 0).any()):
            self.firmware.throttled = True
            self.firmware.trips += 1
        elif self.firmware.throttled and bool((over < -RELEASE_C).all()):
            self.firmware.throttled = False
        if not off and bool((self.zones_c >= self._shutdowns_c).any()):
            self.firmware.shutdowns += 1
            self.firmware.off_until_s = now_s + REBOOT_S
        self.firmware.throttled_s += self.step_s * (self.firmware.throttled or off)


def resistances(board: SimulatedBoard, names: Mapping[str, int]) -> Array:
    """(accelerators, zones): settled kelvin per watt without fan, as a data sheet of the board would say."""
    truth = BoardTruth(board, 1.0, np.full(len(board.nodes), 25.0))
    inverse = np.linalg.inv(truth.network(0.0).laplacian_w_per_k)
    rows = [names[a.node] for a in board.accelerators]
    columns = [names[z.node] for z in board.zones]
    return np.asarray(inverse[np.ix_(rows, columns)], dtype=np.float64)
