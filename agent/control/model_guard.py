"""Model guard: whether a model file may be given to a runtime. Judges facts that were read without running anything."""

from __future__ import annotations

from collections.abc import Iterator

from agent.control.verdict import Finding, GuardVerdict, weigh
from agent.records import record
from agent.schema.guard import ModelGuard

STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training"})
BUILT_IN = STANDARD | {"com.microsoft", "com.microsoft.nchwc", "com.microsoft.internal.nhwc", "com.ms.internal.nhwc"}
"""Operator domains that runtimes implement themselves; everything else needs a library of somebody's code."""
MAX_NAMED = 5


@record(frozen=True)
class ModelFacts:
    """Of one file. operators: (domain, type); outside: places of weights that leave the model's folder.

    beside: files of weights in the model's folder, with the bytes that each must have at least.
    """

    digest: str
    size_bytes: int
    opset: int | None
    operators: frozenset[tuple[str, str]]
    outside: tuple[str, ...] = ()
    beside: tuple[tuple[str, int], ...] = ()


def judge(facts: ModelFacts, limits: ModelGuard) -> GuardVerdict:
    """Every reason against the file; one is enough."""
    return weigh(list(_findings(facts, limits)))


def _findings(facts: ModelFacts, limits: ModelGuard) -> Iterator[Finding]:
    if facts.outside:
        yield Finding("outside", "reject", f"weights should be in {_some(facts.outside)}, outside the model's folder")
    if facts.size_bytes > limits.max_bytes:
        sentence = f"{facts.size_bytes} bytes, guard.models.max_bytes allows {limits.max_bytes}"
        yield Finding("size", "reject", sentence, float(facts.size_bytes))
    if limits.digests and facts.digest not in limits.digests:
        yield Finding("digest", "reject", f"sha256 {facts.digest} is not among guard.models.digests")
    if facts.opset is not None and facts.opset > limits.max_opset:
        sentence = f"operator set {facts.opset}, guard.models.max_opset allows {limits.max_opset}"
        yield Finding("opset", "reject", sentence, float(facts.opset))
    custom = sorted(f"{domain}:{name}" for domain, name in facts.operators if domain not in BUILT_IN)
    if custom:
        sentence = f"operators that need a library of their own: {_some(custom)}"
        yield Finding("custom", limits.custom_operators, sentence, float(len(custom)))
    names = {name for _, name in facts.operators}
    forbidden = sorted(names & set(limits.forbidden_operators))
    if forbidden:
        yield Finding("forbidden", "reject", f"guard.models.forbidden_operators names {_some(forbidden)}")
    if limits.allowed_operators:
        others = sorted(names - set(limits.allowed_operators))
        if others:
            yield Finding("unlisted", "reject", f"guard.models.allowed_operators does not name {_some(others)}")


def _some(names: list[str] | tuple[str, ...]) -> str:
    shown = ", ".join(repr(n) for n in names[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
