"""Flips: by how much one number must change before somebody else is chosen, found by choosing again.

Nothing here is derived by formula: a flip is stated only after the choice at it was made anew and differed, and after
the choice a tenth short of it was made anew and did not.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Generic, Literal, Protocol, TypeVar

from agent.records import record

Kind = Literal["weight", "tolerance", "price", "constraint", "memory", "rule", "coefficient", "temperature"]
T = TypeVar("T")

SHORT = 0.9
"""Share of a stated change that must not flip the choice; a flip that is known less sharply is not stated."""
_SHARP = 0.02
_FIRST = 1e-4
"""Smallest share of the allowed range that is looked at; a nearer flip is stated as that."""
_EXACT = 1e-3
"""How sharply the value itself is found, as a share of it."""
_STEPS = 60
_TRIES = 8
"""Choices that come and go on the way are followed towards the present value so often, then nothing is stated."""


class Named(Protocol):
    """What is chosen: who, and at which cost; energy is None where it cannot be modelled."""

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def energy_j(self) -> float | None: ...  # noqa: D102
    @property
    def latency_s(self) -> float: ...  # noqa: D102
    @property
    def underutilisation(self) -> float: ...  # noqa: D102


@record(frozen=True)
class Turn(Generic[T]):
    """`at`: the value from which the choice is `then`; `holds`: a value at 90 % of the way that changes nothing."""

    at: float
    holds: float
    then: T


@record(frozen=True)
class Flip:
    """One number, and the value of it that changes the choice.

    now is None for a limit that is not set. then is None where nobody would be left. energy_j and latency_s are what
    the change of choice brings: new minus present, each at the changed number. certain: false where a search that is no
    proof stands behind `holds`.
    """

    kind: Kind
    what: str
    unit: str
    now: float | None
    at: float
    holds: float
    then: str | None
    energy_j: float | None
    latency_s: float | None
    certain: bool = True
    place: tuple[str | int, ...] = ()
    """Key of the number in the profile, for a coefficient."""

    @property
    def relative(self) -> float | None:
        """The change as a share of the present value; None where there is none, or it is 0."""
        return None if not self.now else self.at / self.now - 1.0


def nearest(choose: Callable[[float], T], same: Callable[[T], bool], now: float, limit: float) -> Turn[T] | None:
    """The value nearest to `now`, in the direction of `limit`, at which `choose` gives something else.

    None where nothing changes up to and including `limit`, as far as a geometric walk of the range shows. The value is
    rounded away from `now`, so that what is printed is what was tried. ValueError where it already differs at `now`.
    """
    if not same(choose(now)):
        raise ValueError("the present value already gives another choice")
    turn = _walk(choose, same, now, limit)
    for _ in range(_TRIES):
        if turn is None:
            return None
        found = _settle(choose, same, now, limit, *turn)
        if isinstance(found, Turn):
            return found
        turn = (0.0, found)
    return None


def _walk(
    choose: Callable[[float], T], same: Callable[[T], bool], now: float, limit: float
) -> tuple[float, float] | None:
    """Shares of the range between which the choice changes first."""
    before, share = 0.0, _FIRST
    while True:
        if not same(choose(_value(now, limit, share))):
            return before, share
        if share >= 1.0:
            return None
        before, share = share, min(1.0, share * 4.0)


def _settle(
    choose: Callable[[float], T], same: Callable[[T], bool], now: float, limit: float, low: float, high: float
) -> Turn[T] | float:
    """Bisect; a share at which the choice differs although it should not have yet, where one shows."""
    span = abs(limit - now)
    for _ in range(_STEPS):
        if high - low <= _SHARP * high and (high - low) * span <= _EXACT * abs(now + high * (limit - now)):
            break
        middle = math.sqrt(low * high) if low > 0.0 else 0.5 * high
        if same(choose(_value(now, limit, middle))):
            low = middle
        else:
            high = middle
    at = _readable(now, _value(now, limit, high), limit)
    then = choose(at)
    if same(then):
        at = _value(now, limit, high)
        then = choose(at)
    holds = now + SHORT * (at - now)
    if not same(choose(holds)):
        return (holds - now) / (limit - now)
    return Turn(at, holds, then)


def _value(now: float, limit: float, share: float) -> float:
    """The value at a share of the way; the limit itself at its end, where rounding must not step over it."""
    return limit if share == 1.0 else now + share * (limit - now)


def _readable(now: float, at: float, limit: float) -> float:
    """The value rounded away from `now`, to as few digits as neither it nor the change is noticeably larger for."""
    for digits in range(3, 12):
        unit = 10.0 ** (math.floor(math.log10(abs(at))) + 1 - digits) if at else 1.0
        rounded = unit * (math.floor(at / unit) if at < now else math.ceil(at / unit))
        within = min(now, limit) <= rounded <= max(now, limit)
        if within and abs(rounded - at) <= min(_SHARP * abs(at - now), 5.0 * _EXACT * abs(at)):
            return rounded
    return at


def flip(
    kind: Kind, what: str, unit: str, now: float | None, turn: Turn[tuple[Named | None, Named | None]],
    certain: bool = True,
) -> Flip:  # fmt: skip
    """A statement from a turn whose choice is (who is chosen then, what the present choice would cost then)."""
    then, stays = turn.then
    energy_j = latency_s = None
    if then is not None and stays is not None:
        latency_s = then.latency_s - stays.latency_s
        if then.energy_j is not None and stays.energy_j is not None:
            energy_j = then.energy_j - stays.energy_j
    return Flip(
        kind, what, unit, now, turn.at, turn.holds, None if then is None else then.name, energy_j, latency_s, certain
    )
