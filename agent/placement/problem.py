"""A placement problem as cost tables: a chain of stages, accelerators, and what each pairing costs.

Owns validation, the exact grid on which all sums are done, and the objectives of an assignment. How tables come
from a workload and a profile is none of its business.

Exact sums. Each quantity is rounded once to a power-of-two grid that is relative to its largest possible sum:
2^-52 of it for energy, latency and memory, 2^-40 for the two busy sums (which the exact search multiplies by 12-bit
bounds). Every partial sum is then a float64 without rounding, in whatever order it is formed, which is what makes
fronts reproducible byte for byte. Tables on the grid 2^-36 whose sums stay below 2^16 (busy sums: 2^4) are unchanged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from agent.records import record

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

MAX_STAGES = 4096
MAX_ACCELERATORS = 64
OBJECTIVES = ("energy_j", "latency_s", "underutilisation")
_STAGE_TABLES = ("latency", "energy", "busy_util_num", "busy_den", "memory")
_TRANSFER_TABLES = ("transfer_latency", "transfer_energy")


@record(frozen=True, eq=False)
class Problem:
    """Cost tables of L stages on D accelerators; arrays are read-only and already on the exact grid.

    Args:
        latency: stage time [L, D] in s.
        energy: stage energy [L, D] in J.
        busy_util_num: stage time × roofline utilisation [L, D] in s, at most `busy_den`.
        busy_den: stage time that counts for utilisation [L, D] in s.
        transfer_latency: time from accelerator a after stage l to b before stage l+1 [L-1, D, D] in s.
        transfer_energy: the same in J.
        memory: what a stage occupies [L, D] in bytes.
        capacity: bytes of each memory domain [M]; infinite is allowed.
        allowed: pairs that may be used [L, D]. Cells of forbidden pairs are never read and become 0.
        memory_domain: domain of each accelerator [D]; absent: each accelerator has its own.
        accelerators: names [D]; absent: "0", "1", …
        stages: names [L]; absent: "0", "1", …

    Raises:
        ValueError: names the array and the index that is wrong.
    """

    latency: Floats
    energy: Floats
    busy_util_num: Floats
    busy_den: Floats
    transfer_latency: Floats
    transfer_energy: Floats
    memory: Floats
    capacity: Floats
    allowed: Bools
    memory_domain: Ints | None = None
    accelerators: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    domain: Ints = field(init=False, repr=False)
    rounding: float = field(init=False, repr=False, default=0.0)
    """How far rounding to the grid of exact sums may move an objective, relative to the least it can be."""

    def __post_init__(self) -> None:
        shape = _shape(self.latency)
        _check_alone(shape, [np.shape(getattr(self, name)) for name in _STAGE_TABLES[1:]])
        stages, accelerators = shape
        allowed = _allowed(self.allowed, shape)
        link = allowed[:-1, :, None] & allowed[1:, None, :]
        tables = {name: _table(name, getattr(self, name), shape, allowed) for name in _STAGE_TABLES}
        links = (stages - 1, accelerators, accelerators)
        tables |= {name: _table(name, getattr(self, name), links, link) for name in _TRANSFER_TABLES}
        domain = _domain(self.memory_domain, accelerators)
        capacity = _capacity(self.capacity, domain)
        _check_busy(tables["busy_util_num"], tables["busy_den"], allowed)
        snapped = _snapped(tables, capacity, allowed)
        object.__setattr__(self, "rounding", _rounding(tables, snapped, allowed))
        for values in (*snapped.items(), ("allowed", allowed), ("domain", domain)):
            values[1].setflags(write=False)
            object.__setattr__(self, *values)
        object.__setattr__(self, "accelerators", _names("accelerators", self.accelerators, accelerators))
        object.__setattr__(self, "stages", _names("stages", self.stages, stages))

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, ArrayLike], **names: tuple[str, ...]) -> Problem:
        """Build from a mapping with the keys of a problem file; ValueError names a missing array."""
        needed = (*_STAGE_TABLES, *_TRANSFER_TABLES, "capacity", "allowed")
        missing = [name for name in needed if name not in arrays]
        if missing:
            raise ValueError(f"array {missing[0]!r} is missing; a problem needs {', '.join(needed)}")
        optional = {"memory_domain": np.asarray(arrays["memory_domain"])} if "memory_domain" in arrays else {}
        return cls(**{name: np.asarray(arrays[name]) for name in needed}, **optional, **names)  # type: ignore[arg-type]

    @property
    def stage_count(self) -> int:
        """Number of stages L."""
        return int(self.latency.shape[0])

    @property
    def accelerator_count(self) -> int:
        """Number of accelerators D."""
        return int(self.latency.shape[1])

    def sums(self, assignments: ArrayLike) -> Floats:
        """Energy [J], latency [s], Σ busy_util_num [s], Σ busy_den [s] of each assignment [n, L], as [4, n]."""
        rows = np.atleast_2d(np.asarray(assignments)).astype(np.intp)
        stage, link = np.arange(self.stage_count), np.arange(self.stage_count - 1)
        source, target = rows[:, :-1], rows[:, 1:]
        return np.stack(
            [
                self.energy[stage, rows].sum(axis=1) + self.transfer_energy[link, source, target].sum(axis=1),
                self.latency[stage, rows].sum(axis=1) + self.transfer_latency[link, source, target].sum(axis=1),
                self.busy_util_num[stage, rows].sum(axis=1),
                self.busy_den[stage, rows].sum(axis=1),
            ]
        )

    def objectives(self, assignments: ArrayLike) -> Floats:
        """Energy [J], latency [s] and under-utilisation [0..1] of each assignment [n, L] (or [L]), as [n, 3].

        E = Σ stage + Σ transfer energy, T = Σ stage + Σ transfer latency (stages do not overlap),
        U = 1 − Σ busy_util_num / Σ busy_den (transfers do not count).
        """
        energy, latency, num, den = self.sums(assignments)
        return np.stack([energy, latency, 1.0 - num / den], axis=1)

    def memory_used(self, assignments: ArrayLike) -> Floats:
        """Bytes in each memory domain for each assignment, [n, M]."""
        rows = np.atleast_2d(np.asarray(assignments)).astype(np.intp)
        occupied = self.memory[np.arange(self.stage_count), rows]
        return np.stack(
            [np.where(self.domain[rows] == d, occupied, 0.0).sum(axis=1) for d in range(len(self.capacity))], axis=1
        )

    def feasible(self, assignments: ArrayLike) -> Bools:
        """Whether each assignment uses allowed pairs only and fits every memory domain, [n]."""
        rows = np.atleast_2d(np.asarray(assignments)).astype(np.intp)
        permitted = np.asarray(self.allowed[np.arange(self.stage_count), rows].all(axis=1))
        fits = np.asarray((self.memory_used(rows) <= self.capacity).all(axis=1))
        result: Bools = permitted & fits
        return result

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The tables by name, as `from_arrays` takes them."""
        names = (*_STAGE_TABLES, *_TRANSFER_TABLES, "capacity", "allowed")
        return {**{name: getattr(self, name) for name in names}, "memory_domain": self.domain}


def _shape(latency: ArrayLike) -> tuple[int, int]:
    shape = np.shape(latency)
    if len(shape) != 2 or 0 in shape:
        raise ValueError(f"latency: shape {shape}, expected (stages, accelerators) with at least one of each")
    if shape[0] > MAX_STAGES or shape[1] > MAX_ACCELERATORS:
        raise ValueError(f"latency: shape {shape} exceeds {MAX_STAGES} stages × {MAX_ACCELERATORS} accelerators")
    return int(shape[0]), int(shape[1])


def _check_alone(latency: tuple[int, int], others: list[tuple[int, ...]]) -> None:
    """Where all other tables of stages agree, it is latency that is wrong, and not whichever is compared first."""
    if others[0] != latency and len(set(others)) == 1:
        raise ValueError(f"latency: shape {latency}, expected {others[0]} like {', '.join(_STAGE_TABLES[1:])}")


def _allowed(value: ArrayLike, shape: tuple[int, int]) -> Bools:
    allowed = np.array(value)
    if allowed.shape != shape:
        raise ValueError(f"allowed: shape {allowed.shape}, expected {shape} like latency")
    if allowed.dtype != np.bool_:
        odd = np.argwhere(~np.isin(allowed, (0, 1)))
        if len(odd):
            raise ValueError(f"allowed{_at(odd[0])} is {allowed[tuple(odd[0])]}, expected true or false")
    allowed = allowed.astype(np.bool_)
    empty = np.flatnonzero(~allowed.any(axis=1))
    if len(empty):
        raise ValueError(f"allowed[{empty[0]}, :] is false everywhere: stage {empty[0]} may run on no accelerator")
    return allowed


def _table(name: str, value: ArrayLike, shape: tuple[int, ...], used: Bools) -> Floats:
    if np.shape(value) != shape:
        raise ValueError(f"{name}: shape {np.shape(value)}, expected {shape}")
    if np.asarray(value).dtype.kind not in "fiub":
        raise ValueError(f"{name}: type {np.asarray(value).dtype}, expected numbers")
    table = np.where(used, np.asarray(value, dtype=np.float64), 0.0)
    with np.errstate(invalid="ignore"):
        wrong = np.argwhere(~((table >= 0.0) & np.isfinite(table)))
    if len(wrong):
        raise ValueError(f"{name}{_at(wrong[0])} is {table[tuple(wrong[0])]:g}, expected a finite number >= 0")
    return table


def _domain(value: ArrayLike | None, accelerators: int) -> Ints:
    if value is None:
        return np.arange(accelerators, dtype=np.int64)
    domain = np.asarray(value)
    if domain.shape != (accelerators,) or domain.dtype.kind not in "iu":
        raise ValueError(f"memory_domain: shape {domain.shape} of {domain.dtype}, expected {accelerators} integers")
    if domain.min() < 0 or domain.max() >= accelerators:
        wrong = int(np.flatnonzero((domain < 0) | (domain >= accelerators))[0])
        raise ValueError(f"memory_domain[{wrong}] is {domain[wrong]}, expected 0..{accelerators - 1}")
    return domain.astype(np.int64)


def _capacity(value: ArrayLike, domain: Ints) -> Floats:
    capacity = np.array(value, dtype=np.float64)
    expected = int(domain.max()) + 1
    if capacity.shape != (expected,):
        raise ValueError(f"capacity: shape {capacity.shape}, expected ({expected},), one per memory domain")
    wrong = np.flatnonzero(~(capacity >= 0.0))
    if len(wrong):
        raise ValueError(f"capacity[{wrong[0]}] is {capacity[wrong[0]]:g}, expected bytes >= 0")
    return capacity


def _check_busy(num: Floats, den: Floats, allowed: Bools) -> None:
    wrong = np.argwhere(num > den)
    if len(wrong):
        at = tuple(wrong[0])
        raise ValueError(f"busy_util_num{_at(wrong[0])} is {num[at]:g}, above busy_den {den[at]:g}")
    if not np.where(allowed, den, np.inf).min(axis=1).any():
        raise ValueError("busy_den[0, :] is 0, and so is every other stage somewhere: utilisation would be 0/0")


def _snapped(tables: dict[str, Floats], capacity: Floats, allowed: Bools) -> dict[str, Floats]:
    result: dict[str, Floats] = {}
    for stage, transfer in (("energy", "transfer_energy"), ("latency", "transfer_latency")):
        unit = _unit(_bound(tables[stage]) + _bound(tables[transfer]), 52)
        result |= {name: np.round(tables[name] / unit) * unit for name in (stage, transfer)}
    unit = _unit(_bound(tables["busy_den"]), 40)
    den = np.round(tables["busy_den"] / unit) * unit
    # A positive busy time must not vanish: utilisation divides by the sum.
    result["busy_den"] = np.where((den == 0.0) & (tables["busy_den"] > 0.0), unit, den)
    result["busy_util_num"] = np.minimum(np.round(tables["busy_util_num"] / unit) * unit, result["busy_den"])
    # A cell beyond all that is there or needed says "does not fit"; it must not make the grid coarse for the others.
    needed = float(np.where(allowed, tables["memory"], np.inf).min(axis=1).sum())
    memory = np.minimum(tables["memory"], 4.0 * (needed + float(capacity.max())))
    total = _bound(memory)
    unit = _unit(total, 52)
    # What fills a capacity to the last digit fits although its sum is rounded: the room is a few parts in 1e13.
    result["memory"] = np.round(memory / unit) * unit
    room = np.round(np.minimum(capacity, 4.0 * total + 1.0) / unit) + np.ceil(0.5 * len(memory))
    result["capacity"] = np.where(capacity > 0.0, room * unit, 0.0)
    return result


def _rounding(tables: dict[str, Floats], snapped: dict[str, Floats], allowed: Bools) -> float:
    found = 0.0
    for name in ("energy", "latency", "busy_den", "busy_util_num"):
        of = "busy_den" if name == "busy_util_num" else name
        least = float(np.where(allowed, tables[of], np.inf).min(axis=1).sum())
        moved = float(np.where(allowed, np.abs(snapped[name] - tables[name]), 0.0).max())
        found = max(found, len(allowed) * moved / least if least > 0.0 else 0.0)
    return found


def _bound(table: Floats) -> float:
    return float(table.reshape(len(table), -1).max(axis=1).sum()) if len(table) else 0.0


def _unit(total: float, bits: int) -> float:
    """Grid spacing of a quantity whose sums stay at or below `total`."""
    if total == 0.0:
        return 1.0
    exponent = math.frexp(total * (1.0 + 2.0**-20))[1]
    return math.ldexp(1.0, max(exponent - bits, -1000))


def _names(what: str, names: tuple[str, ...], count: int) -> tuple[str, ...]:
    if not names:
        return tuple(str(index) for index in range(count))
    if len(names) != count or len(set(names)) != count:
        raise ValueError(f"{what}: {len(names)} names, expected {count} different ones")
    return tuple(names)


def _at(index: NDArray[np.intp]) -> str:
    return f"[{', '.join(str(int(i)) for i in index)}]"
