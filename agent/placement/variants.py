"""Variants: files of one model in other precisions, as alternatives among which a placement is chosen.

Quality is a figure of the owner's own task measure, higher is better, the same measure for all files of a model. The
policy's floor is a share of the best one's, so that one number serves models with different measures.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.placement.candidates import Candidate
from agent.placement.ranking import Option, rank
from agent.schema.policy import Policy

Chosen = tuple[str, Candidate]
"""Variant (empty for the model file itself) and its placement."""


def below_floor(qualities: Mapping[str, float | None], floor: float) -> dict[str, str]:
    """Why each of these variants may not serve; those that may are not in it.

    qualities: by variant, the model file under the empty name. The model file always may: it is what the owner named.
    """
    best = max((q for q in qualities.values() if q is not None), default=None)
    refused = {}
    for name, quality in qualities.items():
        if not name or floor == 0:
            continue
        if quality is None or best is None or qualities.get("") is None:
            refused[name] = "how good it is beside the model file is not known: give both their `quality`"
        elif quality < floor * best:
            share = quality / best if best else 0.0
            refused[name] = f"has {share:.2%} of the best variant's quality (quality_floor asks for {floor:.2%})"
    return refused


def best_per_accelerator(
    found: Mapping[str, Sequence[Candidate]], policy: Policy, before: Mapping[str, str] | None = None
) -> list[Chosen]:
    """The best variant on each accelerator, best accelerator first, by the policy's objective. Ties keep their order.

    before: the variant that each accelerator holds now, which stays where it is no worse than `objective.tolerance`
    in every objective: another one would have to be loaded.
    """
    pairs = [(name, candidate) for name, candidates in found.items() for candidate in candidates]
    options = [
        Option(str(at), c.cost.energy_j, c.cost.time_s, c.cost.underutilisation) for at, (_, c) in enumerate(pairs)
    ]
    order = [pairs[int(o.name)] for o in rank(options, policy.objective, policy.admission.default_deadline_s)]
    chosen: dict[str, Chosen] = {}
    for name, candidate in order:
        at = candidate.accelerator.name
        if at not in chosen or (
            (before or {}).get(at) == name and _close(candidate, chosen[at][1], policy.objective.tolerance)
        ):
            chosen[at] = (name, candidate)
    return list(chosen.values())


def _close(kept: Candidate, best: Candidate, tolerance: float) -> bool:
    pairs = [(kept.cost.time_s, best.cost.time_s)]
    if kept.cost.energy_j is not None and best.cost.energy_j is not None:
        pairs.append((kept.cost.energy_j, best.cost.energy_j))
    return all(own <= (1.0 + tolerance) * other for own, other in pairs)
