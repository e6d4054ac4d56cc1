"""Nearest limit: where no whole model keeps the policy, the smallest change of one limit that admits one."""

from __future__ import annotations

from collections.abc import Sequence

from agent.placement.candidates import Candidate, room_bytes, violates
from agent.placement.limits import outward
from agent.placement.state import State
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy

_DIGITS = 4


def nearest_limit(
    found: Sequence[Candidate], profile: DeviceProfile, policy: Policy, state: State | None = None
) -> str | None:
    """In words; None where no single limit admits anything. Only for candidates that each break a limit.

    The power cap comes first, because its owner can change it; of caps and of memories the smallest one.
    """
    without_cap = policy.model_copy(update={"power_cap_w": None})
    draws = [
        (outward(c.cost.energy_j / c.cost.time_s, _DIGITS), c.accelerator.name)
        for c in found
        if c.cost.energy_j is not None and c.cost.time_s > 0 and violates(c, without_cap, profile, state) is None
    ]
    if draws:
        cap_w, name = min(draws)
        return f"power_cap_w of {cap_w:g} W would admit {name}"
    short = []
    for c in found:
        domain = c.accelerator.memory_domain
        more = (c.cost.held_bytes - room_bytes(profile, domain, without_cap, state)) / policy.memory.max_cpq
        if more > 0 and c.cost.over_cap is None:
            short.append((more, domain, c.accelerator.name))
    if not short:
        return None
    more, domain, name = min(short)
    return f"{outward(more / 1e9, _DIGITS):g} GB more of {domain} would admit {name}"
