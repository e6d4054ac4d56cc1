"""Decoder pairs: a language model on one accelerator or on two, priced as whole requests, and which of them pays.

Two share a model in one of two ways: the second computes the prompts, or the first layers of every step. Keys and
values that one leaves for the other are handed over; what crosses a cut of layers goes over once for each step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from agent.errors import PlacementError
from agent.placement.selection import Constraints, Incumbent, select
from agent.records import record
from agent.schema.policy import Objective

Link = tuple[float, float, float]
"""Seconds per byte, seconds at least, joules per byte."""
LEAST_GAIN = 0.05
"""A second process costs memory and a start; it must improve the policy's score by so much over one accelerator."""
CUTS = (0.25, 0.5, 0.75)
"""Shares of the layers that are tried on the second accelerator; cost is linear in them."""


@record(frozen=True)
class Cost:
    """Seconds and joules."""

    time_s: float
    energy_j: float

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.time_s + other.time_s, self.energy_j + other.energy_j)

    def times(self, factor: float) -> Cost:
        """So many of it."""
        return Cost(self.time_s * factor, self.energy_j * factor)


@record(frozen=True)
class PhaseCosts:
    """Of one accelerator: a typical prompt, and one written token."""

    prefill: Cost
    decode: Cost


@record(frozen=True)
class Request:
    """A typical one. kv_bytes: what its prompt leaves in the cache; crossing_bytes: one position at a cut of layers."""

    prompt_tokens: int
    written_tokens: int
    layers: int
    kv_bytes: float
    crossing_bytes: float


@record(frozen=True)
class Way:
    """One way to serve: `first` writes, `second` computes the prompts, or the first `layers` where they are named."""

    first: str
    second: str | None
    layers: int | None
    cost: Cost
    """Of a whole request, hand-over included."""
    handed: Cost
    """Of it, the hand-over."""

    @property
    def name(self) -> str:
        """As status and plan show it."""
        if self.second is None:
            return self.first
        return f"{self.second}>{self.first}" if self.layers is None else f"{self.second}:{self.layers}+{self.first}"


@record(frozen=True)
class Pick:
    """The way that is chosen, one sentence why, and every way, the chosen one first."""

    way: Way
    why: str
    ways: tuple[Way, ...]


def ways(costs: Mapping[str, PhaseCosts], request: Request, link: Callable[[str, str], Link]) -> tuple[Way, ...]:
    """Every way over these accelerators: each alone, each pair for prompts, and each pair with layers divided."""
    found = [Way(name, None, None, _whole(cost, cost, request), Cost(0.0, 0.0)) for name, cost in costs.items()]
    cuts = sorted({max(1, min(request.layers - 1, round(share * request.layers))) for share in CUTS})
    for first, own in costs.items():
        for second, others in costs.items():
            if first == second:
                continue
            handed = _over(link(second, first), request.kv_bytes, 1)
            found.append(Way(first, second, None, _whole(others, own, request) + handed, handed))
            if request.layers < 2:
                continue
            steps = 1 + request.written_tokens
            positions = request.prompt_tokens + request.written_tokens
            crossed = _over(link(second, first), positions * request.crossing_bytes, steps)
            for layers in cuts:
                share = layers / request.layers
                cost = _whole(others, others, request).times(share) + _whole(own, own, request).times(1.0 - share)
                found.append(Way(first, second, layers, cost + crossed, crossed))
    return tuple(found)


def _whole(prefill: PhaseCosts, decode: PhaseCosts, request: Request) -> Cost:
    return prefill.prefill + decode.decode.times(request.written_tokens)


def _over(link: Link, bytes_: float, times: int) -> Cost:
    per_byte_s, fixed_s, per_byte_j = link
    return Cost(bytes_ * per_byte_s + times * fixed_s, bytes_ * per_byte_j)


def pick(
    found: Sequence[Way], first: str, objective: Objective, power_cap_w: float | None = None, *, fixed: bool = False
) -> Pick:
    """`first` alone, unless a pair is better by LEAST_GAIN than every accelerator alone; `fixed`: one it writes in.

    Raises PlacementError where `first` is not among those that can serve alone.
    """
    alone = [way for way in found if way.second is None]
    own = next((way for way in alone if way.first == first), None)
    if own is None:
        raise PlacementError(f"nothing is known of what {first} takes for this model")
    pairs = [way for way in found if way.second is not None and (way.first == first or not fixed)]
    limits = Constraints(power_cap_w=power_cap_w)
    every = [*alone, *pairs]
    try:
        best = every[select([_row(way) for way in every], objective, limits).index or 0]
    except PlacementError:
        return Pick(own, f"{first} alone: no way to divide it keeps the policy's power cap", _ordered(own, found))
    if best.second is None:
        than = "it" if best is own else f"{best.first} alone"
        return Pick(own, f"{first} alone: no pair of accelerators is better than {than}", _ordered(own, found))
    for way in alone:
        if _keeps(way, power_cap_w) and not _pays(best, way, objective):
            why = (
                f"{first} alone: {best.name}, the best pair, takes {_against(best, way)} of {way.first} alone for a "
                f"request; less than {LEAST_GAIN:.0%} better does not pay"
            )
            return Pick(own, why, _ordered(own, found))
    work = "the prompts" if best.layers is None else f"the first {best.layers} layers"
    why = (
        f"{best.second} computes {work}, {best.first} writes: {_against(best, own)} of {first} alone for a request, "
        f"hand-over of {best.handed.time_s * 1e3:.2g} ms included"
    )
    return Pick(best, why, _ordered(best, found))


def _keeps(way: Way, power_cap_w: float | None) -> bool:
    return power_cap_w is None or way.cost.energy_j <= power_cap_w * way.cost.time_s


def _pays(pair: Way, alone: Way, objective: Objective) -> bool:
    """Whether a pair beats one accelerator by enough."""
    incumbent = Incumbent(_row(alone), hysteresis=LEAST_GAIN)
    return select([_row(pair)], objective, None, incumbent).index is not None


def _row(way: Way) -> tuple[float, float, float]:
    return way.cost.energy_j, way.cost.time_s, 0.0


def _against(way: Way, other: Way) -> str:
    return (
        f"{way.cost.energy_j / other.cost.energy_j:.2f} of the joules and {way.cost.time_s / other.cost.time_s:.2f} "
        "of the time"
    )


def _ordered(chosen: Way, found: Sequence[Way]) -> tuple[Way, ...]:
    return (chosen, *(way for way in found if way is not chosen))
