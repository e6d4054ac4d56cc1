"""Plausibility: figures of a device profile that no memory, silicon or disk known has – mostly a slip of a unit.

Compares with the generic priors of `physics.coefficients`, with room around them. Says, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator

from agent.physics import coefficients, leakage
from agent.records import record
from agent.schema.device import Accelerator, DeviceProfile, Leakage, MemoryDomain
from agent.schema.workload import Precision

ROOM = 3.0
"""Factor around the published and textbook ranges within which a figure is not remarked on."""
GENERAL_CORE = 20.0
"""What a general core spends over a datapath with its memory: fetching and scheduling instructions (Horowitz, ISSCC
2014: tens of pJ an instruction at 45 nm, an operation about one)."""
_OLDEST_NM, _NEWEST_NM = 28.0, 3.0
_ON_CHIP = "sram"
_HOT_C = 85.0

Place = tuple[str | int, ...]


@record(frozen=True)
class Remark:
    """One figure that is out of every known range."""

    place: Place
    text: str


def remarks(profile: DeviceProfile) -> tuple[Remark, ...]:
    """All figures of a profile that are out of range, in its order."""
    found: list[Remark] = []
    for index, domain in enumerate(profile.memory_domains):
        found += _of_memory(("memory_domains", index), domain)
    for index, accelerator in enumerate(profile.accelerators):
        found += _of_operations(("accelerators", index), accelerator)
        found += _of_bandwidth(("accelerators", index, "runtimes"), accelerator)
        if accelerator.leakage is not None:
            cap = accelerator.power_cap_w
            found += _of_leakage(("accelerators", index, "leakage"), accelerator.leakage, cap.value if cap else None)
    return tuple(found)


def _of_memory(place: Place, domain: MemoryDomain) -> Iterator[Remark]:
    chips = [entry for name, entry in coefficients.MEMORY.items() if name != _ON_CHIP]
    yield from _outside(
        (*place, "energy_j_per_byte"), domain.energy_j_per_byte.value, min(c.low for c in chips),
        max(c.high for c in chips), "J/byte", "memory chips take", "1 pJ/bit is 8e-12 J/byte",
    )  # fmt: skip
    if domain.backing_bytes_per_s is not None:
        stores = coefficients.BACKING_STORE.values()
        yield from _outside(
            (*place, "backing_bytes_per_s"), domain.backing_bytes_per_s.value, min(s.low for s in stores),
            max(s.high for s in stores), "byte/s", "cards and drives give", "1 MB/s is 1e6 byte/s",
        )  # fmt: skip


def _of_operations(place: Place, accelerator: Accelerator) -> Iterator[Remark]:
    for precision, cost in accelerator.energy_j_per_flop.items():
        low, high = operation_range_j(precision)
        high *= GENERAL_CORE if accelerator.kind == "cpu" else 1.0
        yield from _outside(
            (*place, "energy_j_per_flop", precision), cost.value, low, high, "J/flop",
            f"operations in {precision} take", "1 pJ is 1e-12 J; a multiply-accumulate is two operations",
        )  # fmt: skip


def operation_range_j(precision: Precision) -> tuple[float, float]:
    """Joules of an operation from the newest datapath alone to the oldest whole accelerator, DRAM excluded."""
    narrow = "fp16" if precision == "bf16" else "int8" if precision == "int4" else precision
    newest = coefficients.arithmetic_energy(7.0, narrow).value * _NEWEST_NM / 7.0
    return newest, coefficients.system_energy(_OLDEST_NM, precision).high


def _of_bandwidth(place: Place, accelerator: Accelerator) -> Iterator[Remark]:
    """Shares of the data sheet's bandwidth below what any software path reaches at its slowest."""
    worst = min(c.low for c in coefficients.DECODE_BANDWIDTH_SHARE.values())
    for index, runtime in enumerate(accelerator.runtimes):
        share = runtime.bandwidth_efficiency
        if share is not None and share.value < worst / ROOM:
            text = f"reaches {share.value:.1%} of the bandwidth; the slowest software path known reaches {worst:.0%}"
            yield Remark((*place, index, "bandwidth_efficiency"), text)


def _of_leakage(place: Place, leak: Leakage, cap_w: float | None) -> Iterator[Remark]:
    most = max(c.high for c in coefficients.LEAKAGE_SHARE_85C.values())
    law = (leak.power_w.value, leak.activation_energy_ev.value, leak.reference_c)
    hot_w = float(leakage.leakage_power(_HOT_C, *law))
    if cap_w is not None and hot_w > most * cap_w:
        text = f"is {hot_w:.3g} W at {_HOT_C:g} °C, above {most:.0%} of the cap of {cap_w:g} W, the most silicon leaks"
        yield Remark((*place, "power_w"), text)
    doubling_c = float(leakage.doubling_from_activation(leak.activation_energy_ev.value, leak.reference_c))
    known = coefficients.LEAKAGE_DOUBLING_C.values()
    low, high = min(k.low for k in known), max(k.high for k in known)
    if not low / 1.5 <= doubling_c <= high * 1.5:
        yield Remark(
            (*place, "activation_energy_ev"),
            f"doubles leakage every {doubling_c:.0f} °C; silicon does every {low:g} to {high:g} °C",
        )


def _outside(place: Place, value: float, low: float, high: float, unit: str, which: str, slip: str) -> Iterator[Remark]:
    if value and not low / ROOM <= value <= high * ROOM:
        yield Remark(place, f"{value:.3g} {unit}, where {which} {low:.2g} to {high:.2g}; a slip of a unit? {slip}")
