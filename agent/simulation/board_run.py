"""Board run: a simulated board goes through a day under one governor, in accelerated time, deterministic by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field

import numpy as np

from agent.control import lane_health
from agent.control.lane_health import Died, LaneHealth, Ready, Tick
from agent.control.thermal_governor import Level, ThermalVerdict, ZoneInput
from agent.ports import Reading
from agent.records import record
from agent.schema.board_scenario import BoardScenario
from agent.schema.policy import Policy
from agent.schema.simulated_board import SimulatedBoard
from agent.simulation.board_day import HOUR_S, BoardDay
from agent.simulation.board_governors import BoardGovernor, Seen, make_governor, points_of
from agent.simulation.board_truth import BoardTruth

STARTUP_S = 2.0
"""A lane that starts answers after this."""
TRACE_POINTS = 720
OVER_C = 0.1
"""A limit counts as passed from here on: less is rounding and what a source that hardly counts adds."""


@record(frozen=True)
class Moment:
    """One point of the trace that is drawn."""

    at_h: float
    ambient_c: float
    zones_c: tuple[float, ...]
    pace: tuple[float, ...]
    fan: float
    asked: float
    done: float


@record
class Tally:
    """What came of a run. Work is in seconds of the whole board at full speed."""

    asked: float = 0.0
    done: float = 0.0
    shed: float = 0.0
    energy_j: float = 0.0
    peak_c: float = -273.0
    over_c: float = 0.0
    """Most that a zone has been above its limit: the policy's hard_c, or its trip where that is lower."""
    over_s: float = 0.0
    """Time that any was, by more than `OVER_C`."""
    halted_s: float = 0.0
    derated_s: float = 0.0
    lane_deaths: int = 0
    battery_empty_h: float | None = None
    causes: dict[str, int] = field(default_factory=dict)


@record(frozen=True)
class Result:
    """A finished run."""

    board: str
    governor: str
    tally: Tally
    trips: int
    throttled_s: float
    shutdowns: int
    trace: tuple[Moment, ...]


class BoardRun:
    """One board, one day, one governor."""

    def __init__(
        self, scenario: BoardScenario, board: SimulatedBoard, policy: Policy, kind: str, oracle_horizon_s: float = 30.0
    ) -> None:
        self._scenario, self._board, self._policy, self._kind = scenario, board, policy, kind
        self._day = BoardDay(scenario, np.random.default_rng(scenario.seed))
        start_c = self._day.ambient_c(scenario.from_h * HOUR_S) + 5.0
        self._truth = BoardTruth(board, scenario.step_s, np.full(len(board.nodes), start_c))
        self._governor: BoardGovernor = make_governor(
            kind, board, self._truth, policy, scenario.knowledge, oracle_horizon_s
        )
        self._points = {n: {p.name: p for p in points} for n, points in points_of(board).items()}
        total = sum(a.requests_per_s for a in board.accelerators)
        self._weight = {a.name: a.requests_per_s / total for a in board.accelerators}
        names = list(self._weight)
        self._limits_c = np.array([min(policy.thermal.hard_c, z.trip_c) for z in board.zones])
        self._queue = 0.0
        self._health = {n: LaneHealth(phase="ready") for n in names}
        self._busy = dict.fromkeys(names, 0.0)
        self._power_w = dict.fromkeys(names, 0.0)
        self._demand = dict.fromkeys(names, 0.0)
        self._seen: dict[str, Reading] = {}
        self.tally = Tally()
        self.trace: list[Moment] = []

    def run(self) -> Result:
        """All steps."""
        step_s = self._scenario.step_s
        steps = round(self._scenario.hours * HOUR_S / step_s)
        every = max(1, steps // TRACE_POINTS)
        for index in range(steps):
            now_s = self._scenario.from_h * HOUR_S + index * step_s
            moment = self._step(now_s, draw=index % every == 0)
            if moment is not None:
                self.trace.append(moment)
        firmware = self._truth.firmware
        return Result(
            self._board.name, self._kind, self.tally, firmware.trips, firmware.throttled_s, firmware.shutdowns,
            tuple(self.trace),
        )  # fmt: skip

    def _step(self, now_s: float, draw: bool) -> Moment | None:
        ambient_c = self._day.ambient_c(now_s)
        verdicts = self._governor.decide(self._look(now_s, ambient_c))
        self._lanes(now_s)
        step_s = self._scenario.step_s
        asked = self._arrive(now_s)
        done = self._serve(verdicts, now_s)
        powers = np.array([self._power_w[a.name] for a in self._board.accelerators])
        watts = self._truth.advance(powers, ambient_c, self._day.fan_stuck(now_s), now_s)
        self._count(verdicts, asked, done, watts, now_s)
        if not draw:
            return None
        pace = tuple(v.pace * v.permit for v in verdicts.values())
        zones_c = tuple(self._truth.zones_c.tolist())
        return Moment(now_s / HOUR_S, ambient_c, zones_c, pace, self._truth.fan, asked / step_s, done / step_s)

    def _look(self, now_s: float, ambient_c: float) -> Seen:
        names = [z.name for z in self._board.zones]
        for reading in self._day.readings(names, self._truth.zones_c.tolist(), now_s):
            self._seen[reading.name] = reading
        zones = []
        for zone in self._board.zones:
            reading = self._seen[zone.name]
            zones.append(ZoneInput(
                zone.name, reading.value, reading.fault, now_s - reading.t_s, zone.critical, (), zone.trip_c,
            ))  # fmt: skip
        fan = self._truth.fan
        if self._board.fan is not None and self._day.fan_lies(now_s):
            fan = self._truth.duty()
        known = self._board.fan is not None and self._board.fan.reported
        return Seen(
            tuple(zones), dict(self._busy), dict(self._power_w), fan if known else 0.0, ambient_c, dict(self._demand),
            now_s,
        )  # fmt: skip

    def _lanes(self, now_s: float) -> None:
        limits = self._policy.recovery
        for order, (name, health) in enumerate(self._health.items(), 1):
            now = health
            if self._day.broken(order, now_s) and now.phase in {"ready", "starting", "probing"}:
                now, _ = lane_health.step(now, Died("driver reset"), limits, now_s)
                self.tally.lane_deaths += 1
            elif now.phase in {"starting", "probing"} and now_s - now.since_s >= STARTUP_S:
                now, _ = lane_health.step(now, Ready(), limits, now_s)
            now, _ = lane_health.step(now, Tick(), limits, now_s)
            self._health[name] = now

    def _arrive(self, now_s: float) -> float:
        step_s = self._scenario.step_s
        mean = self._day.load_share(now_s) * step_s
        # Poisson of requests of a tenth of a second each.
        asked = float(self._day.random.poisson(mean * 10.0)) / 10.0
        room = self._scenario.queue_s - self._queue
        taken = min(asked, max(0.0, room))
        self.tally.shed += asked - taken
        self._queue += taken
        return asked

    def _serve(self, verdicts: Mapping[str, ThermalVerdict], now_s: float) -> float:
        """Each accelerator in order takes its share of what waits, then what is left over goes round once more."""
        step_s, firmware = self._scenario.step_s, self._truth.speed_share(now_s)
        limits = self._policy.recovery
        best = max((v.capacity_share for v in verdicts.values()), default=1.0) or 1.0
        room, done, left = {}, 0.0, self._queue
        shares = {}
        for name, weight in self._weight.items():
            verdict = verdicts[name]
            point = self._points[name][verdict.operating_point or "full"]
            ramp = lane_health.capacity_share(self._health[name], limits, now_s)
            pace = verdict.pace if verdict.permit and ramp > 0 else 0.0
            # Thresholds derate by admitting less; here that is a pace.
            if self._kind == "thresholds":
                pace *= verdict.capacity_share
            room[name] = weight * point.speed_share * pace * firmware * step_s
            shares[name] = min(1.0, verdict.capacity_share / best) * (ramp if pace else 0.0)
        used = dict.fromkeys(self._weight, 0.0)
        usable = sum(self._weight[n] for n in shares if shares[n] > 0) or 1.0
        for name in self._weight:
            mine = min(room[name], self._queue * self._weight[name] / usable * shares[name])
            used[name] += mine
            left -= mine
        for name in sorted(self._weight, key=lambda n: -shares[n]):
            more = min(room[name] - used[name], left)
            if shares[name] > 0.05 and more > 0:
                used[name] += more
                left -= more
        for name, weight in self._weight.items():
            point = self._points[name][verdicts[name].operating_point or "full"]
            capacity = weight * point.speed_share * firmware * step_s
            self._busy[name] = used[name] / capacity if capacity > 0 else 0.0
            self._power_w[name] = point.power_w * self._busy[name] * (firmware if firmware else 0.0)
            waiting = min(1.0, (self._queue + 1e-9) / step_s)
            self._demand[name] = waiting if self._health[name].phase == "ready" else 0.05
            done += used[name]
        self._queue = max(0.0, left)
        return done

    def _count(
        self, verdicts: Mapping[str, ThermalVerdict], asked: float, done: float, watts: float, now_s: float
    ) -> None:
        tally, step_s = self.tally, self._scenario.step_s
        tally.asked += asked
        tally.done += done
        tally.energy_j += watts * step_s
        zones_c = self._truth.zones_c
        tally.peak_c = max(tally.peak_c, float(zones_c.max()))
        over_c = float((zones_c - self._limits_c).max())
        tally.over_c = max(tally.over_c, over_c)
        tally.over_s += step_s * (over_c > OVER_C)
        levels = [v.level for v in verdicts.values()]
        tally.halted_s += step_s * (Level.HALT in levels)
        tally.derated_s += step_s * (Level.DERATE in levels)
        for verdict in verdicts.values():
            if verdict.level:
                kind = "forecast" if verdict.cause.startswith("forecast") else "limit"
                tally.causes[kind] = tally.causes.get(kind, 0) + 1
        held_j = (self._scenario.battery_wh or float("inf")) * HOUR_S
        if tally.energy_j >= held_j and tally.battery_empty_h is None:
            tally.battery_empty_h = now_s / HOUR_S - self._scenario.from_h


def run_board(scenario: BoardScenario, board: SimulatedBoard, policy: Policy, kind: str) -> Result:
    """One run; the oracle's is the better of two horizons."""
    if kind != "oracle":
        return BoardRun(scenario, board, policy, kind).run()
    tried: Sequence[float] = (scenario.step_s, 300.0)
    runs: list[Result] = []
    for horizon_s in tried:
        runs.append(BoardRun(scenario, board, policy, kind, horizon_s).run())
        if runs[-1].trips == 0 and runs[-1].tally.shed == 0.0:
            break  # Nothing was refused: no other horizon does more.
    clean = [r for r in runs if r.trips == 0] or runs
    return max(clean, key=lambda r: r.tally.done)
