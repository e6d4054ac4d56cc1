"""Calibration: what a profile's accelerators really achieve on this board, measured through the real lanes.

A coefficient whose runs scatter too much is refused and said so; the profile's own figure then stays.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, ValidationError

from agent.errors import ConfigError
from agent.records import record
from agent.schema.base import FileModel, Quantity
from agent.schema.device import Accelerator, DeviceProfile, Efficiency, KernelTimes, Runtime
from agent.schema.workload import Family, Precision
from agent.storage import state_file

if TYPE_CHECKING:
    from agent.physics.power_fit import FittedPower
    from agent.service.calibration.power_probe import MeasuredPower
    from agent.workload.micro import MicroModel

FILE = "calibration.json"
_PRODUCTS = frozenset({"conv", "gemm", "attention"})
_DOMAIN_POWER = frozenset({"energy_j_per_byte"})
_POWER = frozenset({"energy_j_per_flop", "base_power_w"}) | _DOMAIN_POWER
MAX_SCATTER = 0.35
"""Interquartile range over median above which a measurement is refused."""


class Coefficient(FileModel):
    """One measured coefficient of one runtime on one accelerator."""

    accelerator: str
    backend: str
    provider: str
    kind: Literal[
        "compute_flops_per_s", "bandwidth_bytes_per_s", "cache_bytes_per_s", "dispatch_overhead_s", "node_overhead_s",
        "energy_j_per_flop", "energy_j_per_byte", "base_power_w",
    ]  # fmt: skip
    family: Family | None = None
    precision: Precision | None = None
    value: float = Field(gt=0)
    rel_uncertainty: float = Field(ge=0)
    source: str


class MeasuredKernels(FileModel):
    """Kernel times of one runtime on one accelerator."""

    accelerator: str
    backend: str
    provider: str
    threads: int = Field(ge=1)
    times: KernelTimes
    reference_s: float | None = Field(
        default=None, gt=0, description="a reference product of fixed size at its fastest while they were measured"
    )


class Calibration(FileModel):
    """Everything measured on this board in one run."""

    version: Literal[1] = 1
    profile: str
    measured_at: str
    coefficients: tuple[Coefficient, ...]
    kernel_times: tuple[MeasuredKernels, ...] = ()
    refused: tuple[str, ...] = ()


@record(frozen=True)
class Timing:
    """Times of one micro model on one runtime, in seconds."""

    micro: MicroModel
    times_s: tuple[float, ...]

    @property
    def median_s(self) -> float:
        """Median run."""
        return statistics.median(self.times_s)

    @property
    def scatter(self) -> float:
        """Interquartile range over median."""
        quartiles = statistics.quantiles(self.times_s, n=4)
        return (quartiles[2] - quartiles[0]) / self.median_s


def fit(
    accelerator: str, runtime: Runtime, timings: Sequence[Timing], source: str
) -> tuple[list[Coefficient], list[str]]:
    """Coefficients of one runtime from its timings, and what had to be refused.

    The dispatch model gives τ, else predictions keep the profile's or the assumed one; the chain of n nodes τ + n·node;
    the rest is work after taking both off.
    """
    from agent.placement import costing  # noqa: PLC0415 - only who measures needs it

    refused = [
        f"{accelerator} {runtime.provider}: {t.micro.name} scatters by {t.scatter:.0%} (limit {MAX_SCATTER:.0%}): "
        f"not used, the profile's figure stays; close what else computes on this machine and calibrate again"
        for t in timings
        if t.scatter > MAX_SCATTER
    ]
    good = [t for t in timings if t.scatter <= MAX_SCATTER]

    def made(kind: Any, value: float, timing: Timing, family: Any = None, precision: Any = None) -> Coefficient:
        return Coefficient(
            accelerator=accelerator, backend=runtime.backend, provider=runtime.provider, kind=kind, family=family,
            precision=precision, value=value, rel_uncertainty=timing.scatter / 1.35, source=source,
        )  # fmt: skip

    found: list[Coefficient] = []
    dispatch = _first(good, "dispatch")
    dispatch_s = dispatch.median_s if dispatch else costing.dispatch_of(runtime).value
    if dispatch:
        found.append(made("dispatch_overhead_s", dispatch_s, dispatch))
    chain = _first(good, "node")
    node_s = max(1e-9, (chain.median_s - dispatch_s) / chain.micro.nodes) if chain else 0.0
    if chain:
        found.append(made("node_overhead_s", node_s, chain))
    best: dict[tuple[str, str], Coefficient] = {}
    for timing in good:
        micro = timing.micro
        work_s = max(0.2 * timing.median_s, timing.median_s - dispatch_s - node_s * micro.nodes)
        if micro.kind == "bandwidth":
            found.append(made("bandwidth_bytes_per_s", micro.bytes_moved / work_s, timing))
        elif micro.kind == "cache":
            found.append(made("cache_bytes_per_s", micro.bytes_moved / work_s, timing))
        elif micro.kind == "compute" and micro.flops > 0:
            new = made("compute_flops_per_s", micro.flops / work_s, timing, micro.family, micro.precision)
            key = (micro.family, micro.precision)
            if key not in best or best[key].value < new.value:
                best[key] = new
    return found + list(best.values()), refused


def _first(timings: Iterable[Timing], kind: str) -> Timing | None:
    return next((t for t in timings if t.micro.kind == kind), None)


def apply(profile: DeviceProfile, calibration: Calibration) -> DeviceProfile:
    """The profile with measured coefficients in place of its own; everything else untouched."""
    domains = {d.name: d for d in profile.memory_domains}
    measured = {(c.accelerator, c.backend, c.provider) for c in calibration.coefficients}
    for accelerator in profile.accelerators:
        rates = [
            c for c in calibration.coefficients
            if c.accelerator == accelerator.name and c.kind == "bandwidth_bytes_per_s"
        ]  # fmt: skip
        domain = domains[accelerator.memory_domain]
        fastest = max(rates, key=lambda c: c.value, default=None)
        if fastest is not None and fastest.value > domain.bandwidth_bytes_per_s.value:
            update = {"bandwidth_bytes_per_s": _quantity(fastest, fastest.value)}
            domains[domain.name] = domain.model_copy(update=update)
        joules = [c for c in calibration.coefficients if c.accelerator == accelerator.name and c.kind in _DOMAIN_POWER]
        for c in joules:
            domain = domains[accelerator.memory_domain]
            domains[domain.name] = domain.model_copy(update={c.kind: _quantity(c, c.value)})
    accelerators = tuple(
        _calibrated(a, calibration.coefficients, domains[a.memory_domain].bandwidth_bytes_per_s.value)
        if any(name == a.name for name, _, _ in measured) else a
        for a in profile.accelerators
    )  # fmt: skip
    accelerators = tuple(_with_kernels(a, calibration.kernel_times) for a in accelerators)
    return profile.model_copy(update={"accelerators": accelerators, "memory_domains": tuple(domains.values())})


def _with_kernels(accelerator: Accelerator, measured: Sequence[MeasuredKernels]) -> Accelerator:
    found = {(m.backend, m.provider): m.times for m in measured if m.accelerator == accelerator.name}
    runtimes = tuple(
        r.model_copy(update={"kernel_times": found.get((r.backend, r.provider), r.kernel_times)})
        for r in accelerator.runtimes
    )
    return accelerator.model_copy(update={"runtimes": runtimes}) if found else accelerator


def _calibrated(accelerator: Accelerator, all_: Sequence[Coefficient], bandwidth: float) -> Accelerator:
    mine = [c for c in all_ if c.accelerator == accelerator.name]
    peaks = dict(accelerator.peak_flops_per_s)
    for precision in {c.precision for c in mine if c.kind == "compute_flops_per_s" and c.precision is not None}:
        rates = [c for c in mine if c.kind == "compute_flops_per_s" and c.precision == precision]
        fastest = max(rates, key=lambda c: c.value)
        old = peaks.get(precision)
        # Elementwise work says nothing of the peak: alone it must not lower an assumed one.
        dense = any(c.family in _PRODUCTS for c in rates)
        if old is None or old.value < fastest.value or (old.provenance == "assumed" and dense):
            peaks[precision] = _quantity(fastest, fastest.value)
    speeds = [c for c in mine if c.kind not in _POWER]
    runtimes = tuple(_runtime(r, [c for c in speeds if _same(c, r)], peaks, bandwidth) for r in accelerator.runtimes)
    update: dict[str, Any] = {"peak_flops_per_s": peaks, "runtimes": runtimes}
    joules = {c.precision: _quantity(c, c.value) for c in mine if c.kind == "energy_j_per_flop"}
    update["energy_j_per_flop"] = {**accelerator.energy_j_per_flop, **joules}
    update |= {c.kind: _quantity(c, c.value) for c in mine if c.kind == "base_power_w"}
    return accelerator.model_copy(update=update)


def from_power(accelerator: str, runtime: Runtime, power: MeasuredPower, source: str) -> list[Coefficient]:
    """The measured joules and watts as coefficients of the accelerator."""

    def made(kind: Any, c: FittedPower, precision: Precision | None = None) -> Coefficient:
        return Coefficient(
            accelerator=accelerator, backend=runtime.backend, provider=runtime.provider, kind=kind,
            precision=precision, value=c.value, rel_uncertainty=c.rel_uncertainty, source=source,
        )  # fmt: skip

    found = [made("energy_j_per_flop", c, p) for p, c in power.j_per_flop if c.value > 0]
    rest: tuple[tuple[str, FittedPower | None], ...]
    rest = (("energy_j_per_byte", power.j_per_byte), ("base_power_w", power.base_power_w))
    return found + [made(kind, c) for kind, c in rest if c is not None and c.value > 0]


def _same(coefficient: Coefficient, runtime: Runtime) -> bool:
    return (coefficient.backend, coefficient.provider) == (runtime.backend, runtime.provider)


def _runtime(
    runtime: Runtime, mine: Sequence[Coefficient], peaks: dict[Precision, Quantity], bandwidth: float
) -> Runtime:
    if not mine:
        return runtime
    update: dict[str, Any] = {}
    table = {(e.family, e.precision): e for e in runtime.compute_efficiency}
    for c in mine:
        if c.kind == "compute_flops_per_s" and c.family is not None and c.precision is not None:
            share = min(1.0, c.value / peaks[c.precision].value)
            key = (c.family, c.precision)
            table[key] = Efficiency(family=c.family, precision=c.precision, share=_quantity(c, share))
        elif c.kind == "bandwidth_bytes_per_s":
            update["bandwidth_efficiency"] = _quantity(c, min(1.0, c.value / bandwidth))
        else:
            update[c.kind] = _quantity(c, c.value)
    update["compute_efficiency"] = tuple(table.values())
    return runtime.model_copy(update=update)


def _quantity(coefficient: Coefficient, value: float) -> Quantity:
    return Quantity(
        value=value, provenance="measured", source=coefficient.source, rel_uncertainty=coefficient.rel_uncertainty
    )


def save(calibration: Calibration, state_dir: Path) -> Path:
    """Write it where the agent looks for it."""
    path = state_dir / FILE
    state_file.write_json(path, calibration.model_dump(mode="json"))
    return path


def apply_saved(profile: DeviceProfile, state_dir: Path) -> DeviceProfile:
    """Apply the saved calibration if it was made for this profile; ConfigError if the file is damaged."""
    path = state_dir / FILE
    data = state_file.read_json(path)
    if data is None:
        return profile
    try:
        calibration = Calibration.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(p) for p in first["loc"])
        raise ConfigError(f"{path}: {where}: {first['msg']}; run qeil calibrate again") from error
    return apply(profile, calibration) if calibration.profile == profile.name else profile


Progress = Callable[[str, int, int], None]
"""(what is being measured, step, steps)."""
