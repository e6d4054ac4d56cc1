"""Sample placement: which served model writes the samples of a question, and which one verifies what is undecided.

Both are places of a chain of two steps, so the front of joules, seconds and how much a verification leaves open is the
planner's own (`placement.solve`); of what the deadline allows the most telling verifier is taken, and of those the pair
that takes the fewest joules. Samples may only be those of the model that was asked for: another process of it, or a
precision of it whose measured distance is small enough. A larger model may verify.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from agent.errors import PlacementError
from agent.placement.choice import mark
from agent.placement.limits import Constraints
from agent.placement.problem import Problem
from agent.placement.solve import solve
from agent.records import record
from agent.schema.policy import Objective, RepeatedSampling
from agent.schema.text import SampledWith, SamplePlaces, TextModel, TextRequest

EVALUATIONS = 200
"""Of the search: there are at most MAX_LANES² pairs."""
MAX_LANES = 16
VERIFIED = 2
"""Texts that a verification writes, as it is planned with."""
USUAL_TOKENS = 64
"""Of a text, where neither the request nor a text before says how long it gets."""
CHEAPEST_SURE = Objective(method="lexicographic", order=("underutilisation", "energy", "latency"), tolerance=0.0)


@record(frozen=True)
class Asking:
    """What is to be placed: texts at most, tokens of each (None: as before), seconds, whether one may verify."""

    texts: int
    tokens: int | None
    deadline_s: float
    verify: bool


def places(request: TextRequest, models: Sequence[TextModel], wanted: RepeatedSampling, asking: Asking) -> SamplePlaces:
    """The places for a question put to `request.model`, which must be one of `models`."""
    own = next(model for model in models if model.name == request.model)
    samplers = [m for m in models if m.ready and _writes_for(m, own, wanted.coarser_nats)] or [own]
    verifiers = [m for m in models if m.ready and _verifies_for(m, own, request)] or [own]
    samplers, sampler_note = _overridden(wanted.samples_on, "samples_on", samplers, models, own)
    verifiers, verifier_note = _overridden(wanted.verifier, "verifier", verifiers, models, own)
    if not asking.verify:
        verifiers, verifier_note = [], None
    notes = tuple(note for note in (sampler_note, verifier_note) if note)
    unpriced = next((m for m in (*samplers, *verifiers) if m.token_j is None or m.token_s is None), None)
    if max(len(samplers), len(verifiers)) == 1 or unpriced is not None:
        sampler = own if own in samplers else samplers[0]
        verifier = None if not verifiers else own if own in verifiers else verifiers[0]
        why = "nothing else is served that may write its samples or verify them"
        if len(samplers) + len(verifiers) > 2 and unpriced is not None:
            why = f"as asked: joules and seconds of {unpriced.name} are unknown"
        elif wanted.samples_on != "auto" or wanted.verifier != "auto":
            why = "as the policy's samples_on and verifier say"
        return SamplePlaces(_with(sampler), None if verifier is None else _with(verifier), why, notes)
    return _from_front(samplers[:MAX_LANES], verifiers[:MAX_LANES], own, asking, notes)


def _writes_for(model: TextModel, own: TextModel, coarser_nats: float) -> bool:
    """Whether its texts may stand for those of the model asked for."""
    if model is own:
        return True
    if not own.family or model.family != own.family or model.context_tokens < own.context_tokens:
        return False
    if model.precision == own.precision:
        return True
    return model.nats is not None and model.nats <= (own.nats or 0.0) + coarser_nats


def _verifies_for(model: TextModel, own: TextModel, request: TextRequest) -> bool:
    """Whether it can be asked the same question, and knows as much."""
    if model is own or (own.family and model.family == own.family):
        return True
    readable = request.messages is not None or isinstance(request.prompt, str)
    return readable and model.weight_bytes > own.weight_bytes > 0


def _overridden(
    wanted: str, key: str, found: list[TextModel], models: Sequence[TextModel], own: TextModel
) -> tuple[list[TextModel], str | None]:
    """What the owner fixed instead of what was found."""
    if wanted == "auto":
        return found, None
    if wanted == "asked":
        return [own], None
    named = [model for model in models if model.name == wanted and model.ready]
    if named:
        return named, None
    return [own], f"sampling.{key}: {wanted!r} is not served or not ready; {own.name} did it"


def _from_front(
    samplers: list[TextModel], verifiers: list[TextModel], own: TextModel, asking: Asking, notes: tuple[str, ...]
) -> SamplePlaces:
    lanes = list({m.name: m for m in (own, *samplers, *verifiers)}.values())
    problem = _problem(lanes, samplers, verifiers, asking)
    found = solve(problem, evaluations=EVALUATIONS)
    points, rows = found.points(), found.assignments()
    try:
        marked = mark(problem, rows, CHEAPEST_SURE, Constraints(deadline_s=asking.deadline_s))
        chosen, why = marked.assignment, "the most telling verifier, then the fewest joules"
        why = f"{why if verifiers else 'the fewest joules'} of what {asking.deadline_s:.3g} s allow"
    except PlacementError:
        chosen = tuple(rows[int(np.argmin(points[:, 1]))].tolist())
        why = f"the quickest: nothing is expected to be done in {asking.deadline_s:.3g} s"
    front = tuple(
        (lanes[row[0]].name, lanes[row[-1]].name if verifiers else None, float(point[0]), float(point[1]))
        for point, row in zip(points.tolist(), rows.tolist(), strict=True)
    )
    sampler, verifier = lanes[chosen[0]], lanes[chosen[-1]] if verifiers else None
    return SamplePlaces(_with(sampler), None if verifier is None else _with(verifier), why, notes, front)


def _problem(lanes: list[TextModel], samplers: list[TextModel], verifiers: list[TextModel], asking: Asking) -> Problem:
    """Two steps, or one, on the lanes; what a verifier tells stands where a unit's utilisation does."""
    steps = [(asking.texts, samplers), *([(VERIFIED, verifiers)] if verifiers else [])]
    energy = [[count * _tokens(m, asking) * (m.token_j or 0.0) for m in lanes] for count, _ in steps]
    latency = [[count * _tokens(m, asking) * (m.token_s or 0.0) for m in lanes] for count, _ in steps]
    tells = _telling(lanes, verifiers)
    zero, one, count = [0.0] * len(lanes), [1.0] * len(lanes), len(lanes)
    links = np.zeros((len(steps) - 1, count, count))
    return Problem(
        latency=np.array(latency), energy=np.array(energy),
        busy_util_num=np.array([zero, tells][-len(steps):] if verifiers else [one]),
        busy_den=np.array([zero, one] if verifiers else [one]),
        transfer_latency=links, transfer_energy=links, memory=np.zeros((len(steps), count)),
        capacity=np.full(count, np.inf),
        allowed=np.array([[any(m is lane for m in allowed) for lane in lanes] for _, allowed in steps]),
        accelerators=tuple(m.name for m in lanes), stages=("samples", "verification")[: len(steps)],
    )  # fmt: skip


def _telling(lanes: Sequence[TextModel], verifiers: Sequence[TextModel]) -> list[float]:
    """Of each lane in (0, 1]: more weights know more, and a precision that is far from exact knows less."""
    most = max((m.weight_bytes for m in verifiers), default=0) or 1
    return [max(1e-3, min(1.0, m.weight_bytes / most)) * math.exp(-(m.nats or 0.0)) for m in lanes]


def _tokens(model: TextModel, asking: Asking) -> float:
    usual = model.text_tokens or USUAL_TOKENS
    return float(usual if asking.tokens is None else min(usual, asking.tokens))


def _with(model: TextModel) -> SampledWith:
    return SampledWith(model.name, model.placement, model.token_j, model.token_s, model.cost_from)


class StandingPlaces:
    """Where a usual question to each model would go, for whoever looks; searched anew where a figure has changed."""

    def __init__(self) -> None:
        self._key: object = None
        self._sentences: dict[str, str] = {}

    def sentences(self, models: Sequence[TextModel], wanted: RepeatedSampling, deadline_s: float) -> dict[str, str]:
        """By model; empty where there is but one."""
        key = (wanted, deadline_s, *map(_about, models))
        if len(models) < 2 or key == self._key:
            return self._sentences if len(models) > 1 else {}
        asking = Asking(wanted.max_samples, None, deadline_s, True)
        self._key, self._sentences = key, {
            m.name: _sentence(places(TextRequest(m.name, prompt=""), models, wanted, asking)) for m in models if m.ready
        }  # fmt: skip
        return self._sentences


def _about(model: TextModel) -> tuple[object, ...]:
    """What the places depend on, costs in one digit."""
    costs = tuple(None if c is None else f"{c:.1g}" for c in (model.token_j, model.token_s, model.text_tokens))
    return model.name, model.ready, model.placement, model.family, model.precision, model.nats, *costs


def _sentence(found: SamplePlaces) -> str:
    done = f"samples by {_told(found.samples)}"
    if found.verifier is not None:
        done += f", verified by {_told(found.verifier)}"
    return f"{done}: {found.why}"


def _told(where: SampledWith) -> str:
    costs = "" if where.token_j is None else f", {where.token_j:.3g} J a token"
    return f"{where.model} ({where.accelerator or 'not placed'}{costs})"
