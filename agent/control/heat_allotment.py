"""Heat allotment: which accelerator does how much of whose work, at which operating point, under the zones' limits.

One linear program over the shares of time that each accelerator spends at each point on each one's work. Owns no
forecast and no memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import field
from itertools import islice, product

import numpy as np

from agent.control.linear_program import maximise
from agent.physics.arguments import Array
from agent.records import record

_MOVE_COST, _POINT_COST = 0.01, 0.005
"""Share of a piece of work that a move, or each lower operating point, has to win to be worth it."""
_MIXED = 0.02
"""Shares of time below this at a point are no mixture of points."""
_MOST_TRIALS = 16


@record(frozen=True)
class Point:
    """One way to run: speed as a share of the fastest, watts above idle while busy."""

    name: str
    speed_share: float
    power_w: float


@record(frozen=True)
class Move:
    """Another accelerator that has the same models loaded; `slowdown`: its seconds per second of work here."""

    to: str
    slowdown: float


@record(frozen=True)
class Unit:
    """One accelerator: what it can do, fastest point first, and the work that waits for it (1: more than it can)."""

    name: str
    points: tuple[Point, ...]
    demand_share: float
    moves: tuple[Move, ...] = ()
    usual_share: float = 1.0
    """Mean of the work that waits, as a share of `demand_share`."""

    @property
    def weight(self) -> float:
        """A second of its work counts as the seconds that it takes where it is done fastest."""
        return min([1.0, *(move.slowdown for move in self.moves)])


@record(frozen=True)
class Allotment:
    """Who does what. `busy`: share of time of each accelerator; `served`: share of each one's work that is done."""

    points: tuple[int, ...]
    busy: Array
    served: Array
    moved: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Share of an accelerator's work that is done on each other one."""
    worth: float = 0.0


@record(frozen=True)
class _Piece:
    """A variable: time of `host` at one of its points for the work of `home` (indices of units)."""

    home: int
    host: int
    point: int
    work: float
    """Share of the home's full speed that a full share of time does."""
    worth: float


def split_of(units: Sequence[Unit], moved: Mapping[str, tuple[str, float]]) -> dict[tuple[str, str], float]:
    """Most work from each home to each host where moves stay as they are: {(home, host): share of full speed}."""
    found = {}
    for unit in units:
        to, share = moved.get(unit.name, ("", 0.0))
        found[unit.name, unit.name] = unit.demand_share * (1.0 - share)
        if share:
            found[unit.name, to] = unit.demand_share * share
    return found


def allot(
    units: Sequence[Unit], points: Sequence[Sequence[int]], gain_k_per_w: Array, room_k: Array, above: float = 0.0
) -> Allotment | None:
    """The most work with one point for each accelerator, of those whose indices it may run at, and any move.

    gain_k_per_w: (limits, units); room_k: (limits,), >= 0; above: worth that another plan has; None where not even a
    mixture of points, which bounds every single one, is worth more.
    """
    pieces, times = _solved(units, points, gain_k_per_w, room_k, None)
    if sum(piece.worth * time_share for piece, time_share in zip(pieces, times, strict=True)) <= above:
        return None
    trials = islice(product(*_mixtures(units, points, pieces, times)), _MOST_TRIALS)
    best = max((allot_at(units, trial, gain_k_per_w, room_k) for trial in trials), key=lambda found: found.worth)
    return best if best.worth > above else None


def allot_at(
    units: Sequence[Unit],
    points: tuple[int, ...],
    gain_k_per_w: Array,
    room_k: Array,
    split: Mapping[tuple[str, str], float] | None = None,
) -> Allotment:
    """The same at given points; split: moves that stay as they are, None: any move of the units."""
    return _made(units, points, *_solved(units, [(p,) for p in points], gain_k_per_w, room_k, split))


def _solved(
    units: Sequence[Unit],
    points: Sequence[Sequence[int]],
    gain_k_per_w: Array,
    room_k: Array,
    split: Mapping[tuple[str, str], float] | None,
) -> tuple[list[_Piece], list[float]]:
    pieces = _pieces(units, points, split)
    hosts = [[float(piece.host == at) for piece in pieces] for at in range(len(units))]
    if split is None:
        demand = [unit.demand_share for unit in units]
        work = [[piece.work * (piece.home == at) for piece in pieces] for at in range(len(units))]
    else:
        demand = list(split.values())
        pairs = [(units[piece.home].name, units[piece.host].name) for piece in pieces]
        work = [[piece.work * (pair == mine) for piece, pair in zip(pieces, pairs, strict=True)] for mine in split]
    at_hosts = [(piece.host, units[piece.host].points[piece.point].power_w) for piece in pieces]
    heat = [[gain[host] * watts for host, watts in at_hosts] for gain in gain_k_per_w.tolist()]
    bounds = [*([1.0] * len(units)), *demand, *room_k.tolist()]
    return pieces, maximise([piece.worth for piece in pieces], [*hosts, *work, *heat], bounds)


def _pieces(
    units: Sequence[Unit],
    points: Sequence[Sequence[int]],
    split: Mapping[tuple[str, str], float] | None,
) -> list[_Piece]:
    index = {unit.name: at for at, unit in enumerate(units)}
    found = []
    for home, unit in enumerate(units):
        slowdowns = {unit.name: 1.0, **{m.to: m.slowdown for m in unit.moves if m.to in index}}
        weight = unit.weight
        for name, slowdown in slowdowns.items():
            if split is not None and (unit.name, name) not in split:
                continue
            host = index[name]
            for point in points[host]:
                work = units[host].points[point].speed_share / slowdown
                cost = _MOVE_COST * (host != home) + _POINT_COST * point
                found.append(_Piece(home, host, point, work, weight * work * (1.0 - cost)))
    return found


def _mixtures(
    units: Sequence[Unit], points: Sequence[Sequence[int]], pieces: Sequence[_Piece], times: Sequence[float]
) -> list[list[int]]:
    """Points worth trying for each accelerator: those the program mixes, the first allowed one where it idles."""
    shares = [[0.0] * len(unit.points) for unit in units]
    for piece, time_share in zip(pieces, times, strict=True):
        shares[piece.host][piece.point] += time_share
    found = []
    for mine, allowed in zip(shares, points, strict=True):
        used = [point for point in allowed if mine[point] > _MIXED]
        found.append(used or [max(allowed, key=lambda point: (mine[point], -point))])
    return found


def _made(
    units: Sequence[Unit], points: tuple[int, ...], pieces: Sequence[_Piece], times: Sequence[float]
) -> Allotment:
    busy, served = [0.0] * len(units), [0.0] * len(units)
    moved: dict[str, dict[str, float]] = {}
    worth = 0.0
    for piece, time_share in zip(pieces, times, strict=True):
        home, host = units[piece.home], units[piece.host]
        share = time_share * piece.work / home.demand_share
        busy[piece.host] += time_share
        served[piece.home] += share
        worth += time_share * piece.worth
        if host is not home and share > 0:
            there = moved.setdefault(home.name, {})
            there[host.name] = there.get(host.name, 0.0) + share
    return Allotment(points, np.minimum(1.0, busy), np.minimum(1.0, served), moved, worth)
