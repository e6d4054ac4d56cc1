"""Decoder choice: whether a second accelerator is to share a language model, where its owner left that open.

Prefill and decode are planned separately: each accelerator's cost of a typical prompt and of a written token, as the
planner prices them, then every way to divide the work with its hand-over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from agent.errors import BadInput, PlacementError, QeilError
from agent.llm.sizes import DecoderSizes
from agent.placement.candidates import candidates
from agent.placement.decoder_pairs import Cost, PhaseCosts, Pick, Request, pick, ways
from agent.placement.tables import transfer
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import DecoderOptions, DecoderSecond
from agent.schema.snapshot import PlacementStatus
from agent.schema.workload import Workload
from agent.service.board import Board
from agent.service.decoding.decoder_second import check_second
from agent.workload.inspect import inspect_in_child

PROVIDER = "CPUExecutionProvider"
INSPECT_TIMEOUT_S = 30.0
PROMPT_TOKENS, WRITTEN_TOKENS = 512, 128
"""The request that is priced, as nothing is known of the coming ones."""
Fits = Callable[[DecoderSecond], str | None]
"""Why the second process has no room beside as many texts as one accelerator would serve; None: it has."""


@record(frozen=True)
class DecoderChoice:
    """Where a model is served, why, and the ways that were compared, the chosen one first."""

    first: str
    second: DecoderSecond | None
    why: str
    considered: tuple[PlacementStatus, ...] = ()

    @property
    def shown(self) -> tuple[PlacementStatus, ...]:
        """The ways as status shows them; where nothing was priced, the one that serves with the reason."""
        alone = PlacementStatus(self.first, "chosen", PROVIDER, "", None, None, None, None, self.why)
        return self.considered or (alone,)


def as_settings_say(first: str, options: DecoderOptions) -> DecoderChoice:
    """Where the owner decided and nothing is compared."""
    second = options.second
    if second is None:
        return DecoderChoice(first, None, f"{first} alone: decoder.sharing is never")
    name, way = f"{second.accelerator}+{first}", _divided(second.layers, second.accelerator)
    return DecoderChoice(name, None, f"{name}: decoder.second asks for it ({way})")


def decoder_hosts(board: Board, wanted: str | None) -> list[str]:
    """Accelerators that run decoders, the preferred one first. Raises PlacementError."""
    units = [a for a in board.profile.accelerators if a.name not in board.simulated]
    hosts = [a.name for a in units if a.kind == "cpu" and any(r.provider == PROVIDER for r in a.runtimes)]
    if wanted is not None and wanted not in hosts:
        raise PlacementError(f"decoder.accelerator {wanted!r} runs no decoder (these do: {', '.join(hosts) or 'none'})")
    if not hosts:
        raise PlacementError(f"no accelerator of this board runs a decoder: the profile names no {PROVIDER}")
    return hosts if wanted is None else [wanted, *(name for name in hosts if name != wanted)]


def choose(
    sizes: DecoderSizes, graph: Path, profile: DeviceProfile, policy: Policy, hosts: Sequence[str], fits: Fits,
    *, fixed: bool,
) -> DecoderChoice:  # fmt: skip
    """Among the accelerators `hosts` that run decoders, the preferred one first; `fixed`: that one writes.

    Never raises: what cannot be priced is served by the preferred one alone, and `why` says so.
    """
    first = hosts[0]
    if len(hosts) < 2:
        return DecoderChoice(first, None, f"{first} alone: no other accelerator of this board runs decoders")
    if not sizes.shared_cache:
        return DecoderChoice(first, None, f"{first} alone: the graph gives its cache back, so no other can share it")
    try:
        given = {"past": PROMPT_TOKENS, "sequence": PROMPT_TOKENS}
        costs, crossing_bytes = priced(
            inspect_in_child(graph, "onnx", given, INSPECT_TIMEOUT_S), profile, policy, hosts
        )
        kv_bytes = float(PROMPT_TOKENS * sizes.cache_bytes(None))
        request = Request(PROMPT_TOKENS, WRITTEN_TOKENS, sizes.layers, kv_bytes, crossing_bytes)
        notes: list[str] = []
        found = ways(
            costs, request, lambda a, b: transfer(profile, profile.accelerator(a), profile.accelerator(b), notes)
        )
        chosen = pick(found, first, policy.objective, policy.power_cap_w, fixed=fixed)
        guessed = [name for name in hosts if assumed(profile, name)]
        if chosen.way.second is not None and guessed:
            why = (
                f"{chosen.way.name} might pay, but what {guessed[0]} takes is assumed; calibrate or set decoder.second"
            )
            chosen = _alone(chosen, first, why)
    except QeilError as error:
        return DecoderChoice(first, None, f"{first} alone: the phases cannot be priced ({error.message})")
    return _decided(chosen, sizes, first, fits)


def _decided(chosen: Pick, sizes: DecoderSizes, first: str, fits: Fits) -> DecoderChoice:
    """What is chosen as settings, unless the second process does not fit."""
    way = chosen.way
    if way.second is None:
        return DecoderChoice(first, None, chosen.why, considered(chosen))
    second = DecoderSecond(accelerator=way.second, layers=way.layers)
    try:
        check_second(sizes, second, way.first)
        short = fits(second)
    except (BadInput, PlacementError) as error:
        short = error.message
    if short is not None:
        chosen = _alone(chosen, first, f"{way.name} would pay, but {short}")
        return DecoderChoice(first, None, chosen.why, considered(chosen))
    return DecoderChoice(way.first, second, chosen.why, considered(chosen))


def _alone(chosen: Pick, first: str, why: str) -> Pick:
    """The preferred accelerator alone after all."""
    alone = next(way for way in chosen.ways if way.name == first)
    return Pick(alone, f"{first} alone: {why}", (alone, *(way for way in chosen.ways if way is not alone)))


def assumed(profile: DeviceProfile, name: str) -> bool:
    """Whether speed or joules of an accelerator are but assumed; nothing pays for certain then."""
    unit = profile.accelerator(name)
    known = [*unit.peak_flops_per_s.values(), *unit.energy_j_per_flop.values()]
    return any(figure.provenance == "assumed" for figure in known)


def priced(
    workloads: Sequence[Workload], profile: DeviceProfile, policy: Policy, hosts: Sequence[str]
) -> tuple[dict[str, PhaseCosts], float]:
    """Costs of both phases by accelerator, and the bytes of one position between two layers.

    Raises PlacementError where a phase is missing.
    """
    costs: dict[tuple[str, str], Cost] = {}
    crossing_bytes = 0.0
    for workload in workloads:
        if workload.phase == "decode":
            crossing_bytes = max((stage.output_bytes for stage in workload.stages[:-1]), default=0.0)
        for candidate in reversed(candidates(workload, profile, policy)[0]):
            energy_j = candidate.cost.energy_j
            if energy_j is not None and candidate.cost.over_cap is None:
                costs[candidate.accelerator.name, workload.phase] = Cost(candidate.cost.time_s, energy_j)
    both = [name for name in hosts if (name, "prefill") in costs and (name, "decode") in costs]
    if hosts[0] not in both:
        raise PlacementError(f"the profile knows no time or energy of {hosts[0]} for both phases")
    return {name: PhaseCosts(costs[name, "prefill"], costs[name, "decode"]) for name in both}, crossing_bytes


def considered(chosen: Pick) -> tuple[PlacementStatus, ...]:
    """The ways as status shows them: predicted seconds and joules of a whole request, why in the first one."""
    return tuple(
        PlacementStatus(
            way.name, "chosen" if way is chosen.way else "considered", PROVIDER, "", None,
            way.cost.time_s * 1e3, way.cost.energy_j, None,
            chosen.why if way is chosen.way else _divided(way.layers, way.second),
        )
        for way in chosen.ways
    )  # fmt: skip


def _divided(layers: int | None, second: str | None) -> str | None:
    if second is None:
        return None
    return "prompts there, writing here" if layers is None else f"the first {layers} layers there"
