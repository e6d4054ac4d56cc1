"""Profile efficiencies: what the fitted coefficients say of a board's runtimes, as efficiencies of its profile.

A profile names peaks; what software achieves of them is measured by `qeil calibrate`. For a board that was not
calibrated the fit over published measurements knows its relatives: same silicon, same software path. Each figure put
in this way is labelled `fitted` with its spread; what the profile states itself stays.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from agent.evaluation import terms
from agent.evaluation.catalogue import Catalogue, find_coefficients, load_catalogue
from agent.evaluation.coefficients_file import load_coefficients
from agent.evaluation.forecast import MAX_REL_UNCERTAINTY, Coefficients
from agent.evaluation.priors import TIME
from agent.evaluation.regression import Term, level
from agent.evaluation.rows import Case, Load, case_of
from agent.evaluation.table import Measurement
from agent.records import record
from agent.schema.base import Quantity
from agent.schema.device import Accelerator, DeviceProfile, Efficiency, Runtime
from agent.schema.workload import Family, Precision

PATHS: Mapping[tuple[str, str], str] = {
    ("onnx", "CPUExecutionProvider"): "onnxruntime",
    ("onnx", "XnnpackExecutionProvider"): "onnxruntime",
    ("onnx", "TensorrtExecutionProvider"): "tensorrt",
    ("onnx", "CUDAExecutionProvider"): "tensorrt",
    ("onnx", "OpenVINOExecutionProvider"): "openvino",
    ("onnx", "QNNExecutionProvider"): "runtime qnn",
    ("litert", "XNNPACK"): "tflite",
    ("litert", "none"): "tflite",
    ("native", "HailoRT"): "hailo",
    ("native", "RKNN"): "rknn",
}
"""Runtime → the words by which tables of measurements name its software path."""

NAMES: Mapping[Precision, str] = {"fp32": "fp32", "fp16": "fp16", "bf16": "fp16", "int8": "int8", "int4": "w4"}
SAME_PEAK = 2.5
"""Largest factor between the peaks of the profile and of the tables for which they are the same accelerator."""
MIN_SHARE = 0.03
"""Smaller shares come from software that was never meant for such a model; the planner's assumption is better then."""

VISION = "image-classification"
DENSE, SEPARABLE, DECODER = "resnet50", "mobilenet_v1", "Llama-3.2-1B"
"""Probes: dense convolutions, depthwise ones beside them, matrix products of a prompt and of one token."""


@record(frozen=True, slots=True)
class _Rates:
    """Achieved rates of one runtime and the overheads around them."""

    by_family: Mapping[Family, Quantity]
    bandwidth: Quantity
    node_s: Quantity
    query_s: Quantity


def with_fitted(profile: DeviceProfile, catalogue: Catalogue, coefficients: Coefficients) -> DeviceProfile:
    """The profile with fitted efficiencies wherever it states none and the tables know the board and the software."""
    accelerators = tuple(_accelerator(profile, a, catalogue, coefficients) for a in profile.accelerators)
    return profile.model_copy(update={"accelerators": accelerators})


def as_planned(profile: DeviceProfile) -> DeviceProfile:
    """`with_fitted` with the installed tables and coefficients: the profile that plans and simulations rest on.

    Raises ConfigError where they are not installed.
    """
    return with_fitted(profile, load_catalogue(), load_coefficients(find_coefficients()))


def _accelerator(
    profile: DeviceProfile, own: Accelerator, catalogue: Catalogue, coefficients: Coefficients
) -> Accelerator:
    bandwidth = profile.memory_domain(own.memory_domain).bandwidth_bytes_per_s.value
    runtimes = tuple(_runtime(profile, own, r, bandwidth, catalogue, coefficients) for r in own.runtimes)
    return own.model_copy(update={"runtimes": runtimes})


def _runtime(
    profile: DeviceProfile,
    own: Accelerator,
    runtime: Runtime,
    bandwidth: float,
    catalogue: Catalogue,
    coefficients: Coefficients,
) -> Runtime:
    known = {(e.family, e.precision) for e in runtime.compute_efficiency}
    entries = list(runtime.compute_efficiency)
    update: dict[str, object] = {}
    for precision, peak in own.peak_flops_per_s.items():
        rates = _rates(profile, own, runtime, precision, catalogue, coefficients)
        if rates is None:
            continue
        for family, rate in rates.by_family.items():
            share = rate.model_copy(update={"value": min(1.0, rate.value / peak.value)})
            if (family, precision) not in known and share.value >= MIN_SHARE:
                entries.append(Efficiency(family=family, precision=precision, share=share))
        share = rates.bandwidth.model_copy(update={"value": min(1.0, rates.bandwidth.value / bandwidth)})
        if runtime.bandwidth_efficiency is None and own.sram_bytes is None and share.value >= MIN_SHARE:
            update.setdefault("bandwidth_efficiency", share)
        if runtime.dispatch_overhead_s is None:
            update.setdefault("dispatch_overhead_s", rates.query_s)
        if runtime.node_overhead_s is None:
            update.setdefault("node_overhead_s", rates.node_s)
    if len(entries) == len(known) and not update:
        return runtime
    return runtime.model_copy(update={**update, "compute_efficiency": tuple(entries)})


def _rates(
    profile: DeviceProfile,
    own: Accelerator,
    runtime: Runtime,
    precision: Precision,
    catalogue: Catalogue,
    coefficients: Coefficients,
) -> _Rates | None:
    path = PATHS.get((runtime.backend, runtime.provider))
    if runtime.provider == "external" and own.kind == "tpu":
        path = "edgetpu"
    board = catalogue.hardware.board_with(profile.title, own.kind)
    if path is None or board is None:
        return None

    def case(model: str, task: str) -> Case | str:
        row = Measurement(
            row_id="profile", board=board, device=own.kind, model=model, task=task, precision=NAMES[precision],
            notes=path, latency_ms=1.0, prompt_tokens=None if task == VISION else 128.0,
        )  # fmt: skip
        return case_of(row, catalogue.hardware, catalogue.architectures)

    cases = [case(DENSE, VISION), case(SEPARABLE, VISION), case(DECODER, "prefill"), case(DECODER, "decode")]
    found = [case for case in cases if isinstance(case, Case) and _same(case, own, precision)]
    if len(found) < len(cases):
        return None
    dense, separable, filled, decoded = (_Probe(case, coefficients) for case in found)
    families: dict[Family, Quantity] = {"conv": dense.rate("compute", 0, dense.load.flops)}
    families["depthwise"] = separable.rate("compute", 1, separable.load.depthwise_flops)
    families["gemm"] = families["attention"] = filled.rate("compute", 0, filled.load.flops)
    bandwidth = decoded.rate("ceiling", 0, decoded.load.bytes_moved)
    return _Rates(families, bandwidth, dense.seconds("k:all", dense.load.kernels), dense.seconds("q:all", 1.0))


def _same(case: Case, own: Accelerator, precision: Precision) -> bool:
    """Whether profile and tables mean the same accelerator: the peaks agree to a factor."""
    ratio = own.peak_flops_per_s[precision].value / case.site.accelerator.peak(NAMES[precision])
    return 1.0 / SAME_PEAK <= ratio <= SAME_PEAK


class _Probe:
    """The terms of one probe and what the coefficients make of them."""

    def __init__(self, case: Case, coefficients: Coefficients) -> None:
        self.load: Load = case.loads[0]
        self._terms = terms.time_terms(case, self.load)
        self._solution = coefficients.time
        self._factor = coefficients.uncertainty_factor
        kind = case.row.device
        # The probe's own deviation from its operation count belongs to the rate: the planner knows only the count.
        self._whole = tuple(key for key in terms.time_keys(case) if level(key) not in ("a.site", "a.release"))
        self._source = (
            f"fit over published measurements (device_profiles/fitted/efficiencies.json), {case.path} on "
            f"{case.site.board}, {kind}"
        )

    def rate(self, role: str, index: int, amount: float) -> Quantity:
        """Amount per second of the given term."""
        term = [t for t in self._terms if t.role == role][index]
        return self._quantity(amount / self._seconds(term), term.keys)

    def seconds(self, first_key: str, count: float) -> Quantity:
        """Seconds of one of `count` in the term that begins with a key."""
        term = next(t for t in self._terms if t.keys[0] == first_key)
        return self._quantity(self._seconds(term) / count, term.keys)

    def _seconds(self, term: Term) -> float:
        values = self._solution.values
        return term.constant * math.exp(sum(values.get(key, 0.0) for key in (*term.keys, *self._whole)))

    def _quantity(self, value: float, keys: Iterable[str]) -> Quantity:
        variance = self._solution.scale**2
        for key in keys:
            deviation = self._solution.deviations.get(key)
            variance += (TIME.get(level(key), 0.0) if deviation is None else deviation) ** 2
        uncertainty = min(MAX_REL_UNCERTAINTY, self._factor * math.sqrt(variance))
        return Quantity(value=value, provenance="fitted", source=self._source, rel_uncertainty=round(uncertainty, 2))
