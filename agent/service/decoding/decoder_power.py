"""Decoder power: modelled watts of an accelerator while it computes prompts and while it writes.

Joules of a text are these times the seconds that its process measured: modelled, because no reading is behind the
watts; unknown until they are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.backends.decoder_lane import LaneUsage
from agent.errors import PlacementError
from agent.placement.candidates import candidates
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.workload.inspect import inspect_in_child

INSPECT_TIMEOUT_S = 120.0
TYPICAL_CONTEXT = 512
"""Positions in the cache of the decode step whose power is asked for; it changes the watts little."""


@dataclass(frozen=True)
class DecoderPower:
    """Static and switching power together, in watts."""

    prefill_w: float
    decode_w: float

    def energy_j(self, usage: LaneUsage) -> float:
        """Joules of a job: its own time, and its share of the steps it took with others."""
        return self.prefill_w * usage.prefill_s + self.decode_w * usage.decode_s


def modelled_power(graph: Path, profile: DeviceProfile, policy: Policy, accelerator: str) -> DecoderPower:
    """Power of both phases on one accelerator. The graph is read in a process of its own.

    Raises ModelLoadFailed where the graph cannot be read, PlacementError where a coefficient is unknown.
    """
    watts: dict[str, float] = {}
    for workload in inspect_in_child(graph, "onnx", {"past": TYPICAL_CONTEXT}, INSPECT_TIMEOUT_S):
        found, _ = candidates(workload, profile, policy)
        cost = next((c.cost for c in found if c.accelerator.name == accelerator), None)
        if cost is not None and cost.switching_j is not None and cost.static_w is not None and cost.time_s > 0:
            watts[workload.phase] = cost.static_w + cost.switching_j / cost.time_s
    if "prefill" not in watts or "decode" not in watts:
        raise PlacementError(f"the profile knows no power of {accelerator} for both phases of {graph.parent.name}")
    return DecoderPower(watts["prefill"], watts["decode"])
