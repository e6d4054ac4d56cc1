"""Memory: what the domains of a board may hold of a model, and the smallest relaxation where they cannot hold it.

A relaxation is stated in what its owner can grant: bytes that others leave free, the policy's `max_cpq`, or a larger
memory. More room in a domain also changes which pairs may be used there and which arena is set aside, so the need is
sought from one such step to the next, and every figure is checked by building the tables anew with it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise
from typing import Literal

import numpy as np

from agent.errors import PlacementError
from agent.placement.infeasible import found_fit, least_used
from agent.placement.problem import Bools, Floats, Ints, Problem
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy

Kind = Literal["free", "max_cpq", "capacity"]

_SHARE_DIGITS = 6
_MOST_TIMES = 2.0**20
"""A board is not asked for more than this many times its memory."""


@record(frozen=True, eq=False)
class Held:
    """Memory tables: bytes a stage keeps [L, D], bytes of each domain [M], pairs that may be used [L, D], the domain
    of each choice [D], and the domains' names [M]."""

    memory: Floats
    capacity: Floats
    allowed: Bools
    domain: Ints
    names: tuple[str, ...]


@record(frozen=True)
class Relaxation:
    """What would do. kind free: `values` are bytes free by domain; max_cpq: the share; capacity: bytes by domain.

    extra_bytes: how much more that is in one domain, None for a share. proven: false where less may do.
    """

    kind: Kind
    values: dict[str, float]
    extra_bytes: float | None
    proven: bool


@record(frozen=True, eq=False)
class Memory:
    """What placing a model asks of memory.

    domains: names [M]; total: bytes that the profile does not reserve [M]; free: of these, what others leave free [M];
    max_cpq: share of the total that may be filled; held: the tables for given rooms [M]; steps: rooms of a domain at
    which pairs or arenas change.
    """

    domains: tuple[str, ...]
    total: Floats
    free: Floats
    max_cpq: float
    held: Callable[[Floats], Held]
    steps: Floats

    def room(self, total: Floats | None = None, free: Floats | None = None, max_cpq: float | None = None) -> Floats:
        """Bytes that a placement may hold in each domain [M], below 0 where others hold more than the policy allows."""
        total = self.total if total is None else total
        free = self.free if free is None else free
        room: Floats = total * (self.max_cpq if max_cpq is None else max_cpq) - np.maximum(0.0, total - free)
        return room

    def error(self, permitted: Bools | None = None) -> PlacementError:
        """Why nothing fits, with the smallest relaxation, for a user. permitted: pairs not ruled out otherwise."""
        names = " and ".join(self.domains)
        found = self.relaxation(permitted)
        if found is None:
            return PlacementError(
                f"no placement fits: no amount of memory in {names} would do; allow more accelerators"
            )
        known = "" if found.proven else " (or less: the search was cut short)"
        binding = " and ".join(d for d in self.domains if d in found.values) or names
        return PlacementError(
            f"no placement fits: memory {binding} bind{'' if ' and ' in binding else 's'}; "
            f"{self._sentence(found)} would do{known}",
            constraint="memory", relaxation=found.values, kind=found.kind, relaxation_bytes=found.extra_bytes,
            proven=found.proven,
        )  # fmt: skip

    def _sentence(self, found: Relaxation) -> str:
        if found.kind == "max_cpq":
            share = found.values["max_cpq"]
            return f"memory.max_cpq {share:g} in the policy (now {self.max_cpq:g})"
        each = " in each" if len(found.values) > 1 else ""
        more = f"{found.extra_bytes or 0.0:.0f} bytes more{each}"
        if found.kind == "free":
            return f"{more} left free by others ({', '.join(f'--free {d}={v:.0f}' for d, v in found.values.items())})"
        sizes = ", ".join(f"{d} of {v:.0f} unreserved bytes" for d, v in found.values.items())
        return f"a larger memory with nothing else in it ({sizes}, {more}, memory.max_cpq still {self.max_cpq:g})"

    def relaxation(self, permitted: Bools | None = None) -> Relaxation | None:
        """The smallest one: of one domain's free bytes, else of the share, else of the memory; None: nothing helps."""
        case = _Case(self, permitted)
        return case.freed() or case.shared() or case.enlarged()


class _Case:
    """The search for a relaxation; `proven` is false once a fit was sought with less than all partial placements."""

    def __init__(self, memory: Memory, permitted: Bools | None) -> None:
        self._memory = memory
        self._permitted = permitted
        self._proven = True

    def freed(self) -> Relaxation | None:
        """More bytes left free in one domain, where it has them; the least."""
        memory = self._memory
        found: list[tuple[float, str, float]] = []
        for at, name in enumerate(memory.domains):
            short = self._short(at)
            for free in _rounded_up(memory.free[at] + short):
                changed = memory.free.copy()
                changed[at] = free
                if free <= memory.total[at] and self._fits(memory.room(free=changed)):
                    found.append((free - memory.free[at], name, free))
                    break
        if not found:
            return None
        extra, name, free = min(found)
        return Relaxation("free", {name: free}, extra, self._proven)

    def shared(self) -> Relaxation | None:
        """A larger share of every domain; the least to six digits."""
        memory = self._memory
        scale = 10**_SHARE_DIGITS
        low, high = math.floor(memory.max_cpq * scale), scale - 1

        def enough(units: float) -> bool:
            return self._fits(memory.room(max_cpq=units / scale))

        if high <= low or not enough(high):
            return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if enough(middle) else (middle, high)
        return Relaxation("max_cpq", {"max_cpq": high / scale}, None, self._proven)

    def enlarged(self) -> Relaxation | None:
        """A larger memory: one domain, else all by the same factor. What others hold is given back first."""
        memory = self._memory
        found: list[tuple[float, str, float]] = []
        for at, name in enumerate(memory.domains):
            free = memory.free.copy()
            free[at] = memory.total[at]
            short = self._short(at, memory.room(free=free))
            for total in _rounded_up(memory.total[at] + short / memory.max_cpq):
                sizes = memory.total.copy()
                sizes[at] = free[at] = total
                if math.isfinite(total) and self._fits(memory.room(sizes, free)):
                    found.append((total - memory.total[at], name, total))
                    break
        if found:
            extra, name, total = min(found)
            return Relaxation("capacity", {name: total}, extra, self._proven)
        return self._all_enlarged()

    def _all_enlarged(self) -> Relaxation | None:
        memory = self._memory

        def sizes(more: float) -> Floats:
            total: Floats = np.ceil(memory.total + more)
            return total

        def enough(more: float) -> bool:
            return self._fits(memory.room(sizes(more), sizes(more)))

        low, high = 0.0, float(memory.total.max()) * _MOST_TIMES
        if not enough(high):
            return None
        while high - low > 1.0:
            middle = math.floor(0.5 * (low + high))
            low, high = (low, middle) if enough(middle) else (middle, high)
        values = dict(zip(memory.domains, sizes(high).tolist(), strict=True))
        return Relaxation("capacity", values, high, self._proven)

    def _short(self, at: int, room: Floats | None = None) -> float:
        """Bytes by which a domain's room is short; infinite where no room there would do."""
        start = self._memory.room() if room is None else room
        name = self._memory.domains[at]
        later = np.unique(self._memory.steps[self._memory.steps > start[at]])
        for low, high in pairwise([float(start[at]), *later.tolist(), math.inf]):
            rooms = start.copy()
            rooms[at] = low
            held = self._held(rooms)
            # Where nothing is counted there, it holds the whole model, and so what is short is another domain.
            if name not in held.names or not held.allowed.any(axis=1).all():
                continue
            index = held.names.index(name)
            used, sure = least_used(_costless(held), index)
            self._proven &= sure
            if used is not None:
                need = max(low, low + used - float(held.capacity[index]))
                if need < high:
                    return float(need - start[at])
        return math.inf

    def _held(self, room: Floats) -> Held:
        held = self._memory.held(room)
        if self._permitted is None:
            return held
        return Held(held.memory, held.capacity, held.allowed & self._permitted, held.domain, held.names)

    def _fits(self, room: Floats) -> bool:
        held = self._held(room)
        if not held.allowed.any(axis=1).all():
            return False
        found, sure = found_fit(_costless(held))
        self._proven &= sure
        return found


def _costless(held: Held) -> Problem:
    """The memory side of a problem alone."""
    none = np.zeros(held.memory.shape)
    choices = len(held.domain)
    links = np.zeros((len(none) - 1, choices, choices))
    return Problem(
        latency=none, energy=none, busy_util_num=none, busy_den=none + 1.0, transfer_latency=links,
        transfer_energy=links, memory=held.memory, capacity=held.capacity, allowed=held.allowed,
        memory_domain=held.domain,
    )  # fmt: skip


def _rounded_up(value: float) -> Iterator[float]:
    """Whole bytes, so that what is printed is what was tried; one less and one more than sums in floats may say."""
    if math.isfinite(value):
        yield from (float(math.floor(value) + more) for more in range(3))


def memory_of(
    profile: DeviceProfile, policy: Policy, free_bytes: Mapping[str, float], domains: tuple[str, ...],
    held: Callable[[Floats], Held], steps: Floats,
) -> Memory:  # fmt: skip
    """Memory of the named domains as the profile and the policy have it; free_bytes: as of a state."""
    total = np.array([_unreserved(profile, name) for name in domains])
    free = np.array([free_bytes.get(name, math.inf) for name in domains])
    return Memory(domains, total, np.minimum(total, free), policy.memory.max_cpq, held, steps)


def _unreserved(profile: DeviceProfile, name: str) -> float:
    memory = profile.memory_domain(name)
    return float(memory.capacity_bytes.value - memory.reserved_bytes.value)
