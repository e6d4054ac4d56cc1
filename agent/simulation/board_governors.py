"""Board governors: who decides in a board scenario – the agent's own code, or what it is compared with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from typing import Protocol

import numpy as np

from agent.control import predictive_governor, thermal_choice
from agent.control.predictive_governor import USUAL_MEMORY_S, Look, PredictiveState, Source
from agent.control.thermal_choice import Ceiling, Move, Point, Setting, Unit
from agent.control.thermal_governor import Level, ThermalVerdict, ZoneInput
from agent.physics.arguments import Array
from agent.physics.impedance import Forecast, ImpedancePrior
from agent.records import record
from agent.schema.board_scenario import Knowledge
from agent.schema.policy import Policy, ThermalForecast, ThermalLimits
from agent.schema.simulated_board import SimulatedBoard
from agent.simulation.board_truth import BoardTruth, resistances

POLES_S = (4.0, 40.0, 400.0)
"""Time constants of the learnt network: a die, a package, a heat sink."""
ORACLE_DWELL_S = 10.0
"""Points and moves are thought over as often as the agent does."""
STEPPING_PERIOD_S = 4.0
STEPPING_BELOW_TRIP_C = 5.0
"""thermald's habit: polls every few seconds and steps one state up or down around a set point below the trip."""


@record(frozen=True)
class Seen:
    """What a governor is given at one moment."""

    zones: tuple[ZoneInput, ...]
    busy: Mapping[str, float]
    power_w: Mapping[str, float]
    fan: float
    ambient_c: float
    demand: Mapping[str, float]
    """For the oracle alone, as are the air and the truth."""
    now_s: float


class BoardGovernor(Protocol):
    """Decides every step."""

    def decide(self, seen: Seen) -> Mapping[str, ThermalVerdict]:
        """Verdict by accelerator."""
        ...


def points_of(board: SimulatedBoard) -> dict[str, tuple[Point, ...]]:
    """Operating points by accelerator, the fastest first."""
    found = {}
    for unit in board.accelerators:
        lower = sorted(unit.points, key=lambda p: -p.speed_share)
        named = [Point(p.name, p.speed_share, p.power_share * unit.power_w) for p in lower]
        found[unit.name] = (Point("full", 1.0, unit.power_w), *named)
    return found


def moves_of(board: SimulatedBoard) -> dict[str, tuple[Move, ...]]:
    """Every accelerator may take the others' requests, at its own speed."""
    return {
        a.name: tuple(Move(b.name, a.requests_per_s / b.requests_per_s) for b in board.accelerators if b.name != a.name)
        for a in board.accelerators
    }


def priors_of(board: SimulatedBoard, knowledge: Knowledge) -> dict[str, ImpedancePrior]:
    """What is believed of each zone before data: the settled resistances, wrong by the scenario's error."""
    index = {n.name: i for i, n in enumerate(board.nodes)}
    settled = resistances(board, index) * (1.0 + knowledge.resistance_error)
    taus = np.array(POLES_S) * (1.0 + knowledge.time_constant_error)
    found = {}
    for column, zone in enumerate(board.zones):
        shares = np.array([
            [0.3, 0.2, 0.5] if unit.node == zone.node else [0.02, 0.28, 0.7] for unit in board.accelerators
        ])  # fmt: skip
        found[zone.name] = ImpedancePrior(taus, np.maximum(1e-4, settled[:, column, None] * shares))
    return found


@record
class Predictive:
    """The agent's governor, the same code as in the service."""

    board: SimulatedBoard
    limits: ThermalLimits
    no_sensor: str
    knowledge: Knowledge
    state: PredictiveState = field(default_factory=PredictiveState)

    def __post_init__(self) -> None:
        self._points = points_of(self.board)
        self._moves = moves_of(self.board)
        self._priors = priors_of(self.board, self.knowledge)
        self.zones: tuple[predictive_governor.ZoneView, ...] = ()

    def decide(self, seen: Seen) -> Mapping[str, ThermalVerdict]:
        """One step of the governor."""
        sources = tuple(
            Source(name, points, seen.busy[name], seen.power_w[name], self._moves[name])
            for name, points in self._points.items()
        )
        look = Look(seen.zones, sources, self._priors, seen.fan)
        self.state, decision = predictive_governor.step(self.state, look, self.limits, seen.now_s)
        self.zones = decision.zones
        return decision.verdicts


@record
class Stepping:
    """A step down whenever a zone is above its set point, a step up when it is below, as thermald does."""

    board: SimulatedBoard
    hard_c: float
    """The owner's own limit, where that is below the trip."""
    level: int = 0
    polled_s: float = float("-inf")

    def __post_init__(self) -> None:
        self._points = points_of(self.board)
        self._last = max(len(p) for p in self._points.values()) + 4

    def decide(self, seen: Seen) -> Mapping[str, ThermalVerdict]:
        """Poll, step, apply: lower operating points first, then a pace in steps of a quarter."""
        if seen.now_s - self.polled_s >= STEPPING_PERIOD_S:
            self.polled_s = seen.now_s
            over = [
                z.temperature_c - (min(self.hard_c, z.trip_c) - STEPPING_BELOW_TRIP_C)
                for z in seen.zones
                if z.temperature_c is not None and z.trip_c is not None
            ]
            self.level += 1 if max(over, default=0.0) >= 0 else -1
            self.level = min(self._last, max(0, self.level))
        found = {}
        for name, points in self._points.items():
            lower = min(self.level, len(points) - 1)
            pace = max(0.1, 1.0 - 0.25 * (self.level - lower))
            point = points[lower].name if lower else ""
            level = Level.DERATE if self.level else Level.NOMINAL
            found[name] = ThermalVerdict(True, 1.0, level, "stepping", pace, point)
        return found


@record
class Ungoverned:
    """Runs whatever comes; only the firmware is left."""

    board: SimulatedBoard

    def decide(self, seen: Seen) -> Mapping[str, ThermalVerdict]:  # noqa: ARG002  (it looks at nothing)
        """Everything, always."""
        return {a.name: ThermalVerdict(True, 1.0, Level.NOMINAL, "") for a in self.board.accelerators}


@record
class Oracle:
    """Knows the true network, temperatures, air and demand, and needs no reserve: what could be done at best.

    Every step it uses the heat that the next step can take, and that its usual work leaves over `horizon_s`. Where even
    no work would leave a zone above its limit nothing runs, as under every governor that keeps the policy.
    """

    board: SimulatedBoard
    truth: BoardTruth
    hard_c: float
    """The owner's own limit binds it too."""
    horizon_s: float

    def __post_init__(self) -> None:
        self._points = points_of(self.board)
        self._moves = moves_of(self.board)
        self._rule = ThermalForecast(operating_points=True, min_pace=0.001, horizon_s=max(self.truth.step_s, 5.0))
        nodes = [n.name for n in self.board.nodes]
        self._unit_node = [nodes.index(a.node) for a in self.board.accelerators]
        self._zone_node = [nodes.index(z.node) for z in self.board.zones]
        self._times_s = sorted({self.truth.step_s, self.horizon_s})
        self._tables: dict[float, list[tuple[Array, Array]]] = {}
        self._settings: Mapping[str, Setting] = {}
        self._usual: dict[str, float] = {}
        self._thought_s = float("-inf")
        self._passed = False

    def decide(self, seen: Seen) -> Mapping[str, ThermalVerdict]:
        """The same chooser, with the truth for a forecast."""
        demand = {name: max(0.05, share) for name, share in seen.demand.items()}
        kept = math.exp(-self.truth.step_s / USUAL_MEMORY_S)
        self._usual = {n: kept * self._usual.get(n, d) + (1.0 - kept) * d for n, d in demand.items()}
        usual = {n: min(1.0, self._usual[n] / demand[n]) for n in demand}
        units = [Unit(n, p, demand[n], self._moves[n], usual[n]) for n, p in self._points.items()]
        held = seen.now_s - self._thought_s < ORACLE_DWELL_S
        self._thought_s = self._thought_s if held else seen.now_s
        ceilings = self._ceilings(seen)
        chosen = thermal_choice.choose(units, ceilings, self._rule, self._settings, held=held)
        self._settings = chosen.settings
        if self._passed:
            nothing = ThermalVerdict(False, 0.0, Level.HALT, "too hot without any work", 0.0)
            return dict.fromkeys(self._points, nothing)
        found = {}
        for name, setting in self._settings.items():
            point = self._points[name][setting.point].name if setting.point else ""
            share = 1.0 - setting.moved_share
            found[name] = ThermalVerdict(True, max(0.01, share), Level.NOMINAL, "", setting.pace, point)
        return found

    def _ceilings(self, seen: Seen) -> list[Ceiling]:
        duty = self.truth.fan
        if duty not in self._tables:
            self._tables[duty] = [self.truth.propagator(duty, t) for t in self._times_s]
        above, idle_w = self.truth.at_c - seen.ambient_c, self.truth.idle_w()
        base = [seen.ambient_c + decay @ above + response @ idle_w for decay, response in self._tables[duty]]
        full_w = np.array([points[0].power_w for points in self._points.values()])
        found = []
        self._passed = False
        for node, zone in zip(self._zone_node, self.board.zones, strict=True):
            base_c = np.array([b[node] for b in base])
            gain = np.array([r[node, self._unit_node] for _, r in self._tables[duty]])
            # What the chooser does not count against anyone warms all the same, by hundredths that can be a trip.
            most_k = gain * full_w
            limit_c = min(self.hard_c, zone.trip_c - 0.02)
            self._passed |= bool(base_c[0] > limit_c)
            base_c += np.where(most_k < thermal_choice.NEGLIGIBLE_K, most_k, 0.0).sum(axis=1)
            found.append(Ceiling(zone.name, _exact(np.array(self._times_s), base_c, gain), limit_c, limit_c))
        return found


def _exact(times_s: Array, base_c: Array, gain_k_per_w: Array) -> Forecast:
    """A forecast without doubt."""
    count, sources = gain_k_per_w.shape
    rows, gains = np.zeros((count, 1)), np.zeros((sources, count, 1))
    return Forecast(times_s, base_c, gain_k_per_w, rows, gains, np.zeros((1, 1)), np.zeros(count))


def make_governor(
    kind: str, board: SimulatedBoard, truth: BoardTruth, policy: Policy, knowledge: Knowledge, horizon_s: float = 30.0
) -> BoardGovernor:
    """The governor of that kind; horizon_s: how far the oracle looks."""
    if kind == "predictive":
        rule = policy.thermal.forecast or ThermalForecast()
        return Predictive(board, policy.thermal.model_copy(update={"forecast": rule}), "run", knowledge)
    if kind == "thresholds":
        return Predictive(board, policy.thermal.model_copy(update={"forecast": None}), "run", knowledge)
    if kind == "stepping":
        return Stepping(board, policy.thermal.hard_c)
    return Ungoverned(board) if kind == "none" else Oracle(board, truth, policy.thermal.hard_c, horizon_s)
