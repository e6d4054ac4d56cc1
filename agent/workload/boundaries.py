"""Boundaries: which places of a graph a stage may end at, and which of them to take for so many equal stages. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agent.records import record
from agent.workload.graph import Graph
from agent.workload.kernels import Kernel, group
from agent.workload.stages import MAX_STAGES, MAX_TENSORS, Cut, choose, cut_loads, cuts_of, side_tensors


@record(frozen=True)
class Crossing:
    """A boundary before kernel `position`."""

    position: int
    tensors: tuple[str, ...]


class Places:
    """Candidate boundaries of one graph."""

    def __init__(self, graph: Graph) -> None:
        self._kernels = group(graph)
        self._side = side_tensors(self._kernels)
        self._loads = cut_loads(self._kernels)

    def planned(self, after: Sequence[int]) -> tuple[int, ...]:
        """Positions behind those stages of the graph's workload (`stages.split`), counted from 0."""
        chosen = cuts_of(self._kernels, MAX_STAGES)
        return tuple(chosen[index].position for index in after)

    def even(self, stages: int) -> tuple[int, ...]:
        """Positions that make `stages` stages of about the same cost; fewer where there are not enough places."""
        for most in (1, MAX_TENSORS):
            places = [Cut(c.position, "") for c in self.all(most)]
            found = tuple(c.position for c in choose(places, self._loads, stages)) if places else ()
            if len(found) == stages - 1:
                break
        return found[: stages - 1]

    def all(self, most: int = MAX_TENSORS) -> tuple[Crossing, ...]:
        """Every place where at most `most` tensors are alive, besides those that are computed again."""
        return crossings(self._kernels, self._side, most)

    def nearest(self, targets: Sequence[int], refused: Collection[Crossing]) -> tuple[Crossing, ...] | None:
        """For each target position, in order, the nearest place left; None where they run out.

        Fewer tensors are worth a detour: a second one is like a thirtieth of the graph's cost.
        """
        at = [0.0]
        for load in self._loads:
            at.append(at[-1] + load)
        places = [c for c in self.all() if c not in refused]
        found: list[Crossing] = []
        begin = 0
        for index, target in enumerate(targets):
            end = len(places) - (len(targets) - index - 1)
            if begin >= end:
                return None
            best = min(
                range(begin, end),
                key=lambda i: (
                    places[i].position != target
                    and abs(at[places[i].position] - at[target]) / at[-1] + (len(places[i].tensors) - 1) / 30
                ),
            )
            found.append(places[best])
            begin = best + 1
        return tuple(found)


def crossings(kernels: Sequence[Kernel], side: frozenset[str], most: int) -> tuple[Crossing, ...]:
    """Every boundary where 1 to `most` tensors outside `side` are alive, in order."""
    last: dict[str, int] = {}
    for index, kernel in enumerate(kernels):
        last.update(dict.fromkeys(kernel.reads, index))
    found: list[Crossing] = []
    alive: dict[str, None] = {}
    for index, kernel in enumerate(kernels[:-1]):
        alive.update(dict.fromkeys(n for n in kernel.writes if n not in side))
        alive = {n: None for n in alive if last.get(n, -1) > index}
        tensors = tuple(alive)
        if 1 <= len(tensors) <= most and (not found or found[-1].tensors != tensors):
            found.append(Crossing(index + 1, tensors))
    return tuple(found)
