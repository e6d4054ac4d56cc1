"""Explanation: says in sentences why the modelled changes are what they are. Every number in them is computed here."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from agent.schema.device import DeviceProfile
from agent.schema.scenario import SINGLE, Scenario
from agent.schema.workload import Precision
from agent.simulation.claims import Mean, Verdict, mean_change
from agent.simulation.comparison import REQUEST, BoardResult, CaseResult
from agent.simulation.sensitivity import Swing
from agent.simulation.uncertainty import BoardSpread

MEMORY_BOUND = 0.5
"""A pass that uses less than this share of the attainable arithmetic waits for memory."""


_PRECISIONS: tuple[Precision, ...] = ("fp16", "fp32", "int8", "bf16", "int4")


def explain(
    scenario: Scenario, board: BoardResult, verdicts: Sequence[Verdict], spread: BoardSpread, swings: Sequence[Swing]
) -> list[str]:
    """Sentences for one board, in the order they are printed."""
    lines = [sentence for verdict in verdicts for sentence in _claim(verdict)]
    lines += _bounds(board, scenario.baseline)
    for phase in dict.fromkeys(w.phase for case in board.cases for w in case.case.passes):
        lines += _phase(board, phase, scenario)
    lines += _fastest(board, scenario.baseline)
    lines += _swings(swings, scenario, verdicts)
    lines += _counted(board, spread)
    lines += _temperature(board.profile)
    caveats = dict.fromkeys(c for verdict in verdicts for c in verdict.claim.caveats)
    if caveats:
        lines.append(f"What may also differ from the published figures: {'; '.join(caveats)}.")
    return lines


def _temperature(profile: DeviceProfile) -> list[str]:
    cold = [a.name for a in profile.accelerators if a.leakage is None]
    if not cold:
        return []
    return [f"Temperature changes nothing for {', '.join(cold)}: no leakage power is published for this silicon."]


def percent(change: float) -> str:
    """A relative change as people write it; rounding to nothing shows no sign."""
    text = f"{100 * change:+.1f} %"
    return text if text not in {"-0.0 %", "+0.0 %"} else "0.0 %"


def _claim(verdict: Verdict) -> list[str]:
    claim = verdict.claim
    published = f"{claim.source}: {percent(claim.change)} {claim.quantity}"
    if verdict.ours is None:
        return [f"{published}; no model here fits both {claim.placement} and {claim.relative_to}, so nothing compares."]
    ours = f"modelled here: {_span(verdict.ours)} under {claim.placement} against {claim.relative_to}"
    if verdict.met:
        return [f"{published}; {ours}, which goes as far."]
    points = abs(100 * (verdict.ours.mean - claim.change))
    reach = ""
    if verdict.bound is not None:
        known = "also goes as far" if verdict.reachable else "does not go as far either"
        reach = (
            f" The placement with least {claim.quantity} in every pass gives {percent(verdict.bound.mean)}: it {known}."
        )
    return [f"{published}; {ours}, {points:.1f} percentage points short of it.{reach}"]


def _span(mean: Mean) -> str:
    models = "1 model" if mean.count == 1 else f"{mean.count} models, {percent(mean.low)} to {percent(mean.high)}"
    return f"{percent(mean.mean)} (mean of {models})"


def _bounds(board: BoardResult, baseline: str) -> list[str]:
    ends = []
    for placement in ("least-energy", "least-latency"):
        energy = mean_change(board, placement, baseline, "energy")
        latency = mean_change(board, placement, baseline, "latency")
        if energy is None or latency is None:
            return [f"No model runs under {baseline} on this board, so there are no changes to explain."]
        ends.append(f"{placement} {percent(energy.mean)} energy at {percent(latency.mean)} latency")
    proof = "proven" if all(p.exact for c in board.cases for p in c.placed) else "best known, not all proven"
    return [f"The ends of what placement alone can do to a request ({proof}): {'; '.join(ends)}, against {baseline}."]


def _phase(board: BoardResult, phase: str, scenario: Scenario) -> list[str]:
    """Where the baseline's energy and time go, and what the best other single accelerator would do there."""
    baseline = scenario.baseline
    cases = [c for c in board.cases if (phase, baseline) in c.costs and (REQUEST, baseline) in c.costs]
    if not cases:
        return []
    energy = fmean(_share(c, phase, baseline, "energy") for c in cases)
    latency = fmean(_share(c, phase, baseline, "latency") for c in cases)
    used = _arithmetic_used(cases, phase, baseline)
    limit = "memory" if used < MEMORY_BOUND else "arithmetic"
    text = (
        f"{phase.capitalize()} is {100 * energy:.0f} % of the energy and {100 * latency:.0f} % of the time under "
        f"{baseline}, bound by {limit} ({100 * used:.0f} % of the attainable arithmetic used)."
    )
    least = mean_change(board, "least-energy", baseline, "energy", phase)
    slower = mean_change(board, "least-energy", baseline, "latency", phase)
    if least is not None and slower is not None:
        text += f" Least energy there: {percent(least.mean)} at {percent(slower.mean)} latency."
    return [text + _rival(board, phase, scenario, limit)]


def _share(case: CaseResult, phase: str, baseline: str, quantity: str) -> float:
    repeats = next(case.case.repeats(w.phase) for w in case.case.passes if w.phase == phase)
    mine, whole = case.costs[phase, baseline], case.costs[REQUEST, baseline]
    if quantity == "energy":
        return repeats * mine.energy_j / whole.energy_j
    return repeats * mine.latency_s / whole.latency_s


def _arithmetic_used(cases: Sequence[CaseResult], phase: str, baseline: str) -> float:
    """Mean share of the attainable arithmetic that the baseline uses in a phase."""
    idle = []
    for case in cases:
        placed = next(p for p in case.placed if p.workload.phase == phase)
        if placed.tables is not None and baseline in placed.rows:
            idle.append(float(placed.tables.problem.objectives(placed.rows[baseline])[0, 2]))
    return 1.0 - fmean(idle)


def _rival(board: BoardResult, phase: str, scenario: Scenario, limit: str) -> str:
    """The best other single accelerator in energy, and the coefficients of what binds the phase."""
    baseline = scenario.baseline
    others = [p for p in scenario.placements if p.startswith(SINGLE) and p != baseline]
    found = [(m.mean, p) for p in others if (m := mean_change(board, p, baseline, "energy", phase)) is not None]
    if not found:
        return ""
    energy, placement = min(found)
    latency = mean_change(board, placement, baseline, "latency", phase)
    slower = percent(latency.mean) if latency is not None else "unknown"
    text = f" The best other single accelerator in energy is {placement}: {percent(energy)} at {slower} latency"
    if not baseline.startswith(SINGLE):
        return f"{text}."
    reason = (_memories if limit == "memory" else _operations)(
        board.profile, placement.removeprefix(SINGLE), baseline.removeprefix(SINGLE)
    )
    return f"{text}{reason}."


def _memories(profile: DeviceProfile, name: str, baseline: str) -> str:
    mine, other = (profile.memory_domain(profile.accelerator(n).memory_domain) for n in (name, baseline))
    if mine.name == other.name:
        return (
            f", from the same memory, but {profile.accelerator(name).base_power_w.value:g} W of being on against "
            f"{profile.accelerator(baseline).base_power_w.value:g} W"
        )
    return (
        f": a byte of {mine.name} takes {1e12 * mine.energy_j_per_byte.value:.0f} pJ and comes at "
        f"{mine.bandwidth_bytes_per_s.value / 1e9:.0f} GB/s, of {other.name} "
        f"{1e12 * other.energy_j_per_byte.value:.0f} pJ at {other.bandwidth_bytes_per_s.value / 1e9:.0f} GB/s"
    )


def _operations(profile: DeviceProfile, name: str, baseline: str) -> str:
    mine, other = profile.accelerator(name), profile.accelerator(baseline)
    tables = (mine.peak_flops_per_s, mine.energy_j_per_flop, other.peak_flops_per_s, other.energy_j_per_flop)
    shared = [p for p in _PRECISIONS if all(p in table for table in tables)]
    if not shared:
        return ""
    peak, cost, other_peak, other_cost = (table[shared[0]].value * 1e12 for table in tables)
    return (
        f": an operation in {shared[0]} takes {cost:.2g} pJ on {name} with a peak of {peak / 1e24:.3g} T/s, on "
        f"{baseline} {other_cost:.2g} pJ with {other_peak / 1e24:.3g} T/s"
    )


def _fastest(board: BoardResult, baseline: str) -> list[str]:
    """Stages of a request run one after another, so only an accelerator that is faster on a stage can save time."""
    if not baseline.startswith(SINGLE):
        return []
    name = baseline.removeprefix(SINGLE)
    total = best = 0
    for placed in (p for case in board.cases for p in case.placed):
        if placed.tables is None or placed.front is None or name not in placed.tables.problem.accelerators:
            continue
        latency = placed.tables.problem.latency
        mine = latency[:, placed.tables.problem.accelerators.index(name)]
        total += len(mine)
        best += int((mine <= latency.min(axis=1)).sum())
    if total == 0:
        return []
    return [
        f"Stages of one request run one after another, so a placement saves time only where another accelerator is "
        f"faster on a stage: {name} is the fastest on {best} of {total} stages."
    ]


def _swings(swings: Sequence[Swing], scenario: Scenario, verdicts: Sequence[Verdict]) -> list[str]:
    if not swings or scenario.sensitivity is None:
        return []
    first = swings[0]
    text = (
        f"Of the assumptions tried, {first.assumption.vary} moves the mean energy change of "
        f"{scenario.sensitivity.placement} most: {percent(first.energy[0])} at {first.assumption.low:g}, "
        f"{percent(first.energy[1])} at {first.assumption.high:g}."
    )
    for verdict in (v for v in verdicts if v.met is not None):
        values = [x for s in swings for x in (s.energy if verdict.claim.quantity == "energy" else s.latency)]
        turned = sum((x <= verdict.claim.change) != verdict.met for x in values)
        what = f"the verdict on {percent(verdict.claim.change)} {verdict.claim.quantity}"
        text += f" {'None' if turned == 0 else turned} of the {len(values)} values turns {what}."
    return [text]


def _counted(board: BoardResult, spread: BoardSpread) -> list[str]:
    idle = board.profile.idle_power_w
    known = "which nobody published for it" if idle is None else f"{idle.value:g} W"
    return [
        f"Counted is the power of accelerators while they work; the board's idle power ({known}) and accelerators that "
        f"wait are not. {spread.assumed} of the {spread.stated + spread.unstated} groups of coefficients behind these "
        f"numbers are assumed; ± is one standard deviation from the {spread.stated} that state one, the other "
        f"{spread.unstated} count as exact, and a latency has a ± only where every speed has one."
    ]
