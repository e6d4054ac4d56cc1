"""Sizes of the search PGSAM, and which of its ingredients are on."""

from __future__ import annotations

from agent.records import record


@record(frozen=True)
class Ablation:
    """Ingredients that can be switched off, to see what each is worth.

    seeds: shortest paths for random weights, instead of random assignments. beam: with them, what fits best for those
    weights where memory binds. relaxed: the first bases are seeds that overfill memory a little. macro: strided and
    crossover moves. exchange: two segments change at once. trade: where memory binds, two accelerators swap what they
    have in two segments. annealing: chains that walk by heat bath. guidance: explore around archive members. aim: among
    them, around those that are best for random weights, instead of the least explored. momentum: kinds of move that
    lately brought members are tried more often. soft_memory: chains may overfill memory at a price.
    """

    seeds: bool = True
    beam: bool = True
    relaxed: bool = True
    macro: bool = True
    exchange: bool = True
    trade: bool = True
    annealing: bool = True
    guidance: bool = True
    aim: bool = True
    momentum: bool = True
    soft_memory: bool = True


@record(frozen=True)
class Tuning:
    """Sizes of the search.

    seed_weights: weights with starting points, half as many where memory binds. The last bounds are for large problems:
    seed_effort, sums formed for seeds, and as many again for their beams; archive_cells, members × stages; turn_cells,
    running sums of a turn.
    """

    chains: int = 2
    guided: int = 44
    cuts: int = 26
    exchanged: int = 60
    reach: float = 0.4
    candidates: int = 48
    seed_weights: int = 120
    seed_effort: int = 40_000_000
    archive_limit: int = 16_000
    archive_cells: int = 4_000_000
    turn_cells: int = 500_000
    hottest: float = 0.3
    coldest: float = 0.003
    survivors: int = 8000
