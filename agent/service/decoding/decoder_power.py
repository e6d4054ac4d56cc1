"""Decoder power: modelled watts of an accelerator while it computes prompts and while it writes.

Joules of a text are these times the seconds that its process measured: modelled, because no reading is behind the
watts; unknown until they are known.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from agent.backends.decoder_lane import LaneUsage
from agent.errors import PlacementError
from agent.placement.candidates import candidates
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import DecoderSecond
from agent.workload.inspect import inspect_in_child

INSPECT_TIMEOUT_S = 120.0
TYPICAL_CONTEXT = 512
"""Positions in the cache of the decode step whose power is asked for; it changes the watts little."""


@record(frozen=True)
class DecoderPower:
    """Static and switching power together, in watts."""

    prefill_w: float
    decode_w: float
    elsewhere_w: float = 0.0
    """Of the accelerator that computes prompts or layers for this one."""
    step_s: float | None = None
    """Modelled seconds of one decode step; None: unknown."""

    def energy_j(self, usage: LaneUsage) -> float:
        """Joules of a job: its own time, and its share of the steps it took with others."""
        return self.prefill_w * usage.prefill_s + self.decode_w * usage.decode_s + self.elsewhere_w * usage.elsewhere_s


def modelled_power(
    graph: Path, profile: DeviceProfile, policy: Policy, accelerator: str, second: DecoderSecond | None = None
) -> DecoderPower:
    """Power of both phases on one accelerator, and of what a second one does. A process of its own reads the graph.

    Raises ModelLoadFailed where the graph cannot be read, PlacementError where a coefficient is unknown.
    """
    watts: dict[tuple[str, str], float] = {}
    times_s: dict[tuple[str, str], float] = {}
    for workload in inspect_in_child(graph, "onnx", {"past": TYPICAL_CONTEXT}, INSPECT_TIMEOUT_S):
        found, _ = candidates(workload, profile, policy)
        for candidate in reversed(found):
            cost = candidate.cost
            if cost.switching_j is not None and cost.static_w is not None and cost.time_s > 0:
                watts[candidate.accelerator.name, workload.phase] = cost.static_w + cost.switching_j / cost.time_s
                times_s[candidate.accelerator.name, workload.phase] = cost.time_s
    asked = [(accelerator, "prefill"), (accelerator, "decode")]
    if second is not None:
        asked.append((second.accelerator, "decode" if second.layers else "prefill"))
    missing = sorted({name for name, phase in asked if (name, phase) not in watts})
    if missing:
        raise PlacementError(f"the profile knows no power of {missing[0]} for both phases of {graph.parent.name}")
    return replace(DecoderPower(*(watts[key] for key in asked)), step_s=times_s[accelerator, "decode"])
