"""Wishes: what of the owner's wishes would have to differ for another choice – weights, tolerance, price, limits.

Knows nothing of what is chosen among: a choice is a function, made again for every value tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from agent.placement.flips import Flip, Kind, Named, Turn, flip, nearest
from agent.placement.preference import weight_vector
from agent.placement.ranking import Option
from agent.records import record
from agent.schema.policy import Objective, Weights

Pair = tuple[Named | None, Named | None]
"""Who is chosen with a number changed, and what the present choice would cost with it."""
Same = Callable[[Pair], bool]

_LOOSE = 1e4


@record(frozen=True)
class Setting:
    """A limit with a size. now: None where it is not set; loosest: binds nothing; tightest: one still keeps it."""

    kind: Kind
    name: str
    unit: str
    now: float | None
    loosest: float
    tightest: float
    choose: Callable[[float], Pair]


@record(frozen=True)
class Binding:
    """A limit without which somebody else would be chosen, and its smallest relaxation that has an effect.

    energy_j, latency_s: what lifting it altogether would change. least is None for a rule, which has no size.
    """

    limit: str
    unit: str
    now: float | None
    then: str
    energy_j: float | None
    latency_s: float | None
    least: Flip | None


def stated(
    kind: Kind, what: str, unit: str, now: float | None, turn: Turn[Pair] | None, certain: bool = True
) -> Iterator[Flip]:
    """The flip of a turn, if there is one."""
    if turn is not None:
        yield flip(kind, what, unit, now, turn, certain)


def weights(objective: Objective, choose: Callable[[Objective], Pair], same: Same) -> Iterator[Flip]:
    """Each weight up and down, the others as they are."""
    if objective.method != "weights":
        return
    now = dict(zip(Weights.model_fields, weight_vector(objective).tolist(), strict=True))
    total = sum(now.values())
    for name, value in now.items():

        def again(changed: float, name: str = name) -> Pair:
            made = Weights.model_construct(**(now | {name: changed}))
            return choose(objective.model_copy(update={"weights": made}))

        for limit in (0.0, 100.0 * total):
            if value < total and limit != value:
                turn = nearest(again, same, value, limit)
                yield from stated("weight", f"objective.weights.{name}", "", value, turn)


def tolerance(objective: Objective, choose: Callable[[Objective], Pair], same: Same) -> Iterator[Flip]:
    """The tolerance of a lexicographic order, up and down."""
    if objective.method != "lexicographic" or len(objective.order) < 2:
        return
    now = objective.tolerance
    for limit in sorted({0.0, 1.0} - {now}):
        turn = nearest(lambda value: choose(objective.model_copy(update={"tolerance": value})), same, now, limit)
        yield from stated("tolerance", "objective.tolerance", "", now, turn)


def price(objective: Objective, chosen: Option, admitted: Sequence[Option], same: Same) -> Iterator[Flip]:
    """Seconds given for a joule, from the exchange rate of the weights at the chosen placement, up and down.

    Only where the choice is also the one of least latency + price · energy, as one on a dent of the front is not.
    """
    share = weight_vector(objective)
    if objective.method != "weights" or not chosen.energy_j or not share[0] or not share[1] or not chosen.latency_s:
        return
    known = [(o.energy_j, o.latency_s, o) for o in admitted if o.energy_j is not None]
    rate = float(share[0] / chosen.energy_j / (share[1] / chosen.latency_s))

    def choose(s_per_j: float) -> Pair:
        return min(known, key=lambda row: row[0] * s_per_j + row[1])[2], chosen

    if same(choose(rate)):
        for limit in (0.0, _LOOSE * rate):
            turn = nearest(choose, same, rate, limit)
            yield from stated("price", "price of a joule", "s/J", rate, turn)


def tightened(setting: Setting, same: Same) -> Iterator[Flip]:
    """The limit at which the choice breaks it and somebody else does not."""
    now = setting.loosest if setting.now is None else setting.now
    if now <= setting.tightest:
        return
    turn = nearest(setting.choose, same, now, setting.tightest)
    if turn is not None and turn.then[0] is not None:
        yield flip(setting.kind, setting.name, setting.unit, setting.now, turn)


def binds(setting: Setting, same: Same) -> Iterator[Binding]:
    """The limit as one that binds, if it does: it is lifted and the choice made again."""
    if setting.now is None or setting.loosest <= setting.now:
        return
    lifted = setting.choose(setting.loosest)
    if lifted[0] is not None and not same(lifted):
        turn = nearest(setting.choose, same, setting.now, setting.loosest)
        least = next(stated(setting.kind, setting.name, setting.unit, setting.now, turn), None)
        yield bound(setting.name, setting.unit, setting.now, lifted, least)


def bound(limit: str, unit: str, now: float | None, lifted: Pair, least: Flip | None) -> Binding:
    """A binding limit, from the pair without it. Both must be there."""
    then, stays = lifted
    if then is None or stays is None:
        raise ValueError(f"{limit}: nobody to compare")
    energy_j = None
    if then.energy_j is not None and stays.energy_j is not None:
        energy_j = then.energy_j - stays.energy_j
    return Binding(limit, unit, now, then.name, energy_j, then.latency_s - stays.latency_s, least)
