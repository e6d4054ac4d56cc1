"""Cases: a scenario's workloads as stages and bytes, phase by phase."""

from __future__ import annotations

from agent.errors import BadInput, ConfigError
from agent.records import record
from agent.schema.scenario import ScenarioWorkload
from agent.schema.workload import Phase, Workload
from agent.workload.naming import entry_of


@record(frozen=True)
class Case:
    """One workload of a scenario: the passes that make up a request."""

    label: str
    asked: ScenarioWorkload
    passes: tuple[Workload, ...]

    def repeats(self, phase: Phase) -> int:
        """How often a request runs the phase: decode once for each generated token, the others once."""
        return (self.asked.generated_tokens or 1) if phase == "decode" else 1


def make_case(asked: ScenarioWorkload) -> Case:
    """The case of one workload. Raises ConfigError for a model or phase that the catalogue does not have.

    Decode is taken at the middle of the generated tokens: its cost is affine in the context as long as one ceiling
    binds, and then the middle is the mean.
    """
    try:
        entry = entry_of(asked.model)
    except BadInput as error:
        raise ConfigError(error.message) from error
    context = (asked.prompt_tokens or 0) + (asked.generated_tokens or 0) // 2
    try:
        passes = tuple(
            entry.workload(
                phase=phase, precision=asked.precision, batch=asked.batch, tokens=asked.prompt_tokens,
                context=context if phase == "decode" else None,
            )
            for phase in asked.phases
        )  # fmt: skip
    except BadInput as error:
        raise ConfigError(error.message) from error
    return Case(asked.label, asked, passes)
