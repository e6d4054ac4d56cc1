"""Doctor's look at models through the policy: which the guard refuses, and which its rules leave no accelerator for."""

from __future__ import annotations

import os

from agent.control import model_guard
from agent.errors import BadInput, ModelLoadFailed
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy, Rule
from agent.schema.settings import ModelEntry, Settings
from agent.service.check_result import CheckResult, fail
from agent.service.serving import model_store
from agent.service.serving.artifacts import facts_of, open_artifact
from agent.storage import share


def refused(settings: Settings, policy: Policy | None) -> list[CheckResult]:
    """Models that the policy's guard would not let a runtime open; what cannot be read is told by another check."""
    if policy is None:
        return []
    results = []
    for model in model_store.tensor_models(settings):
        why = _verdict(model, policy)
        if why is not None:
            mend = f"correct guard.models in {share.find_policy(settings.policy)}, or name another file"
            results.append(fail(f"model {model.name}", f"refused by the policy {policy.name}: {why}", mend))
    return results


def _verdict(model: ModelEntry, policy: Policy) -> str | None:
    if not os.path.isfile(model.path) or not os.access(model.path, os.R_OK):  # noqa: PTH113  (never raises)
        return None
    try:
        verdict = model_guard.judge(facts_of(open_artifact(model.path), None), policy.guard.models)
    except (BadInput, ModelLoadFailed):
        return None
    return verdict.sentence if verdict.action in {"reject", "quarantine"} else None


def nowhere(settings: Settings, policy: Policy, board: DeviceProfile) -> list[CheckResult]:
    """Models for which the policy's rules leave no accelerator of this board."""
    file, here = share.find_policy(settings.policy), {a.name for a in board.accelerators}
    results = []
    for name in [m.name for m in model_store.configured(settings)] or ["*"]:
        pins, bars = _of(policy.pinned, name), _of(policy.forbidden, name)
        wanted = pins & here if pins else here
        if not wanted or wanted - bars:  # pins to what is not here are told rule by rule
            continue
        said = f"pins it to {', '.join(sorted(pins))} and " if pins else ""
        said += f"forbids it on {', '.join(sorted(bars & here))}"
        which = "every model" if name == "*" else name
        message = f"{policy.name} {said}: {which} can run nowhere"
        results.append(fail("policy", message, f"take a rule out of {file}; qeil check {file}"))
    return results


def _of(rules: tuple[Rule, ...], name: str) -> set[str]:
    return {rule.accelerator for rule in rules if rule.model in ("*", name)}
