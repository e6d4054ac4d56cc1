"""Coefficients: a profile with some of its numbers changed, to see what follows from them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import Any

from agent.placement.costing import ASSUMED_BANDWIDTH_SHARE
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.scenario import Lever

SHARES = frozenset({"share", "bandwidth_efficiency"})
"""Coefficients that cannot exceed 1."""
_NOT_COSTS = frozenset({"capacity_bytes", "reserved_bytes", "backing_bytes_per_s", "cache_bytes", "sram_bytes"})
"""Sizes decide what fits and where, they are no coefficients of a cost."""

Change = Callable[[str, float], float]
"""(key, value) → new value."""


@record(frozen=True)
class Coefficient:
    """Numbers of a profile that are wrong together, such as the energies of one accelerator's precisions.

    rel_uncertainty: one standard deviation as a share, the largest of them; None where none is stated.
    """

    owner: str
    key: str
    rel_uncertainty: float | None
    provenance: str

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.owner} {self.key}"


def coefficients(profile: DeviceProfile, accelerators: Collection[str]) -> tuple[Coefficient, ...]:
    """What the cost of work on these accelerators rests on: their own, their memories' and the links'."""
    found: dict[tuple[str, str], Coefficient] = {}
    for owner, key, quantity in _walk(_relevant(profile.model_dump(), accelerators)):
        old = found.get((owner, key))
        stated = [u for u in (quantity["rel_uncertainty"], old.rel_uncertainty if old else None) if u is not None]
        found[owner, key] = Coefficient(owner, key, max(stated, default=None), quantity["provenance"])
    return tuple(found.values())


def shifted(profile: DeviceProfile, coefficient: Coefficient, factor: float) -> DeviceProfile:
    """The profile with one coefficient (all numbers of it) multiplied."""
    return _changed(profile, lambda owner, key: factor if (owner, key) == (coefficient.owner, coefficient.key) else 1.0)


def without_others(profile: DeviceProfile, accelerators: Collection[str]) -> DeviceProfile:
    """The board with these accelerators alone, in their order, for work that touches no other."""
    data = profile.model_dump()
    data["accelerators"] = [a for a in data["accelerators"] if a["name"] in accelerators]
    ends = {d["name"] for d in data["memory_domains"]} | {a["name"] for a in data["accelerators"]}
    data["links"] = [link for link in data["links"] if set(link["between"]) <= ends]
    data["rails"] = ()
    return DeviceProfile.model_validate(data)


def pulled(profile: DeviceProfile, lever: Lever, value: float) -> tuple[DeviceProfile, str | None]:
    """The profile under an assumption of a sensitivity, and why it changes nothing, where that is so.

    temperature_c and generated_tokens_factor leave the profile as it is: they are the caller's to apply.
    """
    if lever == "generated_tokens_factor":
        return profile, None
    if lever == "temperature_c":
        leaks = any(a.leakage is not None for a in profile.accelerators)
        return profile, None if leaks else "the profile has no leakage coefficients"
    if lever == "link_bandwidth_factor":
        ends = {link_name(link.between) for link in profile.links}
        why = None if ends else "the profile has no links"
        return _changed(profile, lambda o, k: value if o in ends and k == "bandwidth_bytes_per_s" else 1.0), why
    if lever == "npu_efficiency_factor":
        return _npu(profile, value)
    keys = {
        "base_power_factor": {"base_power_w"},
        "memory_energy_factor": {"energy_j_per_byte"},
        "compute_energy_factor": {"energy_j_per_flop"},
    }[lever]
    return _changed(profile, lambda _, key: value if key in keys else 1.0), None


def link_name(between: tuple[str, str]) -> str:
    """A link as the owner of coefficients."""
    return "–".join(between)


def _npu(profile: DeviceProfile, factor: float) -> tuple[DeviceProfile, str | None]:
    """NPUs and TPUs reach so much more or less of their peak and bandwidth; at most all of the bandwidth."""
    names = {a.name for a in profile.accelerators if a.kind in {"npu", "tpu", "dla"}}
    if not names:
        return profile, "the board has no NPU or TPU"
    data = profile.model_dump()
    for accelerator in (a for a in data["accelerators"] if a["name"] in names):
        for peak in accelerator["peak_flops_per_s"].values():
            peak["value"] *= factor
        for runtime in accelerator["runtimes"]:
            known = runtime["bandwidth_efficiency"]
            share = known["value"] if known else 1.0 if accelerator["sram_bytes"] else ASSUMED_BANDWIDTH_SHARE
            runtime["bandwidth_efficiency"] = {
                "value": min(1.0, share * factor), "provenance": "assumed", "source": "varied by a sensitivity"
            }  # fmt: skip
    return DeviceProfile.model_validate(data), None


def _changed(profile: DeviceProfile, factor: Callable[[str, str], float]) -> DeviceProfile:
    data = profile.model_dump()
    for owner, key, quantity in _walk(data):
        value = quantity["value"] * factor(owner, key)
        quantity["value"] = min(1.0, value) if key in SHARES else value
    return DeviceProfile.model_validate(data)


def _relevant(data: dict[str, Any], accelerators: Collection[str]) -> dict[str, Any]:
    mine = [a for a in data["accelerators"] if a["name"] in accelerators]
    homes = {a["memory_domain"] for a in mine}
    domains = [d for d in data["memory_domains"] if d["name"] in homes]
    ends = homes | set(accelerators)
    links = [link for link in data["links"] if set(link["between"]) <= ends]
    return {"accelerators": mine, "memory_domains": domains, "links": links}


def _walk(data: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(owner, key, quantity) of every number that a cost is made of."""
    for group in ("memory_domains", "accelerators"):
        for item in data[group]:
            for key, quantity in _quantities(item, ""):
                if key not in _NOT_COSTS:
                    yield item["name"], key, quantity
    for link in data["links"]:
        for key, quantity in _quantities(link, ""):
            yield link_name(link["between"]), key, quantity


def _quantities(node: Any, key: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Quantities below a node by their key; those of a table (precisions, families) share the table's key."""
    if isinstance(node, dict):
        if "provenance" in node:
            yield key, node
            return
        for name, value in node.items():
            if name != "operating_points":
                yield from _quantities(value, key if key in {"peak_flops_per_s", "energy_j_per_flop"} else name)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _quantities(value, key)
