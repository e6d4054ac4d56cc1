"""Knobs: the coefficients that a cost rests on, where each one stands in the profile, and the profile with one changed.

Also what the profile does not have and the model had to assume: an assumption can be turned like any other number.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from agent.placement import costing
from agent.records import record
from agent.schema.base import FileModel, Quantity
from agent.schema.device import Accelerator, DeviceProfile, Efficiency, Runtime
from agent.schema.workload import Family, Precision, Workload

KeyPath = tuple[str | int, ...]


@record(frozen=True)
class Knob:
    """One coefficient.

    place: its key in the profile, or where it would stand (`stands` false: the model assumes it); an assumed efficiency
    would be an `entry` more in the table there. touches: accelerators whose cost depends on it. most: the largest value
    that makes sense, such as 1 for a share. beside: the other assumptions of the same table, which must stand there
    too, as one alone would count as their relative.
    """

    name: str
    unit: str
    quantity: Quantity
    place: KeyPath
    touches: tuple[str, ...]
    most: float | None = None
    stands: bool = True
    entry: Efficiency | None = None
    beside: tuple[Efficiency, ...] = ()

    def scaled(self, profile: DeviceProfile, factor: float) -> DeviceProfile:
        """The profile with this coefficient multiplied, whether it had it or not."""
        quantity = self.quantity.model_copy(update={"value": self.quantity.value * factor})
        stands: Any = quantity
        if self.entry is not None:
            entry = self.entry.model_copy(update={"share": quantity})
            stands = (*value_at(profile, self.place), *self.beside, entry)
        changed: DeviceProfile = with_value(profile, self.place, stands)
        return changed


def value_at(model: Any, path: KeyPath) -> Any:
    """What stands under a key path of a schema."""
    for key in path:
        model = getattr(model, str(key)) if isinstance(model, FileModel) else model[key]
    return model


def with_value(model: Any, path: KeyPath, value: Any) -> Any:
    """A copy of a schema, tuple or mapping with one leaf replaced, unchecked."""
    if not path:
        return value
    key, rest = path[0], path[1:]
    if isinstance(model, FileModel):
        return model.model_copy(update={str(key): with_value(getattr(model, str(key)), rest, value)})
    if isinstance(model, tuple):
        at = int(key)
        return (*model[:at], with_value(model[at], rest, value), *model[at + 1 :])
    return {**model, key: with_value(model[key], rest, value)}


def knobs(workload: Workload, profile: DeviceProfile, accelerator: Accelerator, runtime: Runtime) -> tuple[Knob, ...]:
    """Every coefficient that the cost of the workload on that accelerator uses, in the order of the physics."""
    at = [a.name for a in profile.accelerators].index(accelerator.name)
    own = ("accelerators", at)
    through: KeyPath = (*own, "runtimes", accelerator.runtimes.index(runtime))
    domain_at = [d.name for d in profile.memory_domains].index(accelerator.memory_domain)
    domain, place = profile.memory_domains[domain_at], ("memory_domains", domain_at)
    sharing = tuple(a.name for a in profile.accelerators if a.memory_domain == domain.name)
    used = _used(workload, accelerator)
    precisions = sorted({p for _, p in used})
    alone = (accelerator.name,)
    found = [
        Knob(f"peak in {p}", "operations/s", accelerator.peak_flops_per_s[p], (*own, "peak_flops_per_s", p), alone)
        for p in precisions
    ]
    found += _shares(used, runtime, through, alone)
    found.append(
        Knob(f"bandwidth of {domain.name}", "bytes/s", domain.bandwidth_bytes_per_s, (*place, "bandwidth_bytes_per_s"),
             sharing)
    )  # fmt: skip
    found.append(_bandwidth_share(accelerator, runtime, through, alone))
    for name, unit, key, quantity in (
        ("bandwidth in cache", "bytes/s", "cache_bytes_per_s", runtime.cache_bytes_per_s),
        ("dispatch", "s per inference", "dispatch_overhead_s", costing.dispatch_of(runtime)),
        ("node", "s per graph node", "node_overhead_s", runtime.node_overhead_s),
    ):
        if quantity is not None:
            stands = getattr(runtime, key) is not None
            found.append(Knob(name, unit, quantity, (*through, key), alone, stands=stands))
    per_flop = accelerator.energy_j_per_flop
    found += [
        Knob(f"energy per operation in {p}", "J", per_flop[p], (*own, "energy_j_per_flop", p), alone)
        for p in dict.fromkeys(costing.priced_as(p, accelerator) for p in precisions)
        if p is not None
    ]
    found.append(
        Knob(f"energy per byte of {domain.name}", "J", domain.energy_j_per_byte, (*place, "energy_j_per_byte"), sharing)
    )
    found.append(Knob("power of being on", "W", accelerator.base_power_w, (*own, "base_power_w"), alone))
    if accelerator.leakage is not None:
        name = f"leakage at {accelerator.leakage.reference_c:g} °C"
        found.append(Knob(name, "W", accelerator.leakage.power_w, (*own, "leakage", "power_w"), alone))
    cap = accelerator.power_cap_w
    if cap is not None:
        found.append(Knob("power cap of the part", "W", cap, (*own, "power_cap_w"), alone))
    return tuple(found)


def _used(workload: Workload, accelerator: Accelerator) -> list[tuple[Family, Precision]]:
    """Families and the precision that each is really computed in, which may be wider than the model's own."""
    pairs: set[tuple[Family, Precision]] = {
        (work.family, costing.computed_in(work.precision, accelerator))
        for stage in workload.stages
        for work in stage.work
        if work.flops > 0
    }
    return sorted(pairs)


def _shares(
    used: list[tuple[Family, Precision]], runtime: Runtime, through: KeyPath, alone: tuple[str, ...]
) -> Iterator[Knob]:
    """Efficiencies, each once, although it may stand for several families."""
    stands_for: dict[int, list[str]] = {}
    assumed = [_assumed(f, p) for f, p in used if costing.efficiency_of(f, p, runtime) is None]
    for entry in assumed:
        name = f"share of the peak by {entry.family} in {entry.precision}"
        beside = tuple(other for other in assumed if other is not entry)
        place = (*through, "compute_efficiency")
        yield Knob(name, "of peak", entry.share, place, alone, 1.0, stands=False, entry=entry, beside=beside)
    for family, precision in used:
        known = costing.efficiency_of(family, precision, runtime)
        if known is None:
            continue
        stands_for.setdefault(runtime.compute_efficiency.index(known), []).append(f"{family} in {precision}")
    for index, names in sorted(stands_for.items()):
        entry = runtime.compute_efficiency[index]
        own = f"{entry.family} in {entry.precision}"
        name = f"share of the peak by {own}" + ("" if names == [own] else f" (stands for {', '.join(names)})")
        yield Knob(name, "of peak", entry.share, (*through, "compute_efficiency", index, "share"), alone, 1.0)


def _assumed(family: Family, precision: Precision) -> Efficiency:
    why = "nobody has measured this family on this runtime, nor a relative of it"
    share = Quantity(value=costing.ASSUMED_SHARE, provenance="assumed", source=why)
    return Efficiency(family=family, precision=precision, share=share)


def _bandwidth_share(accelerator: Accelerator, runtime: Runtime, through: KeyPath, alone: tuple[str, ...]) -> Knob:
    name, place = "share of the bandwidth achieved", (*through, "bandwidth_efficiency")
    known = runtime.bandwidth_efficiency
    if known is not None:
        return Knob(name, "of peak", known, place, alone, 1.0)
    if accelerator.sram_bytes is not None:
        assumed = Quantity(value=1.0, provenance="assumed", source="the published rate of the link")
    else:
        why = "nobody has measured this runtime's bandwidth"
        assumed = Quantity(value=costing.ASSUMED_BANDWIDTH_SHARE, provenance="assumed", source=why)
    return Knob(name, "of peak", assumed, place, alone, 1.0, stands=False)
