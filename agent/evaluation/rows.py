"""From a row of a table to what the model predicts: loads of each phase, and the quantities that can be compared."""

from __future__ import annotations

import re
from dataclasses import replace

from agent.evaluation.architectures import Architectures, Language, Vision
from agent.evaluation.fallback import architecture_of, suggestion
from agent.evaluation.hardware import Hardware, Site
from agent.evaluation.precision import Format, storage_format
from agent.evaluation.software import relatives, software_path
from agent.evaluation.table import Measurement
from agent.records import record

DEFAULT_CONTEXT = 256.0
"""Tokens in the cache while decoding, where a row does not say."""

DEFAULT_PROMPT = 512.0
OFFLINE_BATCH = 256.0
"""Samples in flight in an offline run on an accelerator: enough that launches and weights no longer count."""

_PHASES: tuple[tuple[str, str], ...] = (
    ("decode", r"^decode|(?<!prefill\+)\bdecod|\btg ?\d*\b|token.?generation|\btpot\b|inter.token|eval rate"),
    ("prefill", r"^prefill|prefill(?!\+)|\bpp ?\d*\b|\bttft\b|first.token|prompt.(eval|process)"),
)

SUMMARY = (800.0, 70.0)
"""Mean prompt and answer of the news summarisation that MLPerf runs without stating lengths [tokens]."""


@record(frozen=True, slots=True)
class Load:
    """One phase, `times` over: what one pass asks of the accelerator."""

    phase: str
    times: float
    flops: float
    depthwise_flops: float
    bytes_moved: float
    """Weights and activations; the KV cache apart."""
    kv_bytes: float
    cycles: float
    """Weights handled per pass and sample: unit-cycles up to a fitted factor; 0 where issue does not bind."""
    kernels: float
    weight_bytes: float
    activation_bytes: float
    """Of one sample: what on-chip memories hold beside the weights."""
    elements: float = 0.0
    """Elements of the residual stream times layers of a prompt: what normalisations and rotations go through."""


@record(frozen=True, slots=True)
class Case:
    """A row that can be predicted."""

    row: Measurement
    site: Site
    path: str
    format: Format
    task: str
    model: str
    mode: str
    """single, multi (8 samples per query), offline (large batches), batch."""
    samples: float
    loads: tuple[Load, ...]
    """Together one query: a sample, eight of them, a prompt, a token, or a batch."""
    unit: float
    """Units of throughput (samples or tokens) in one query."""
    statistic: str
    scope: str

    @property
    def installation(self) -> str:
        """What shares one set-up: the submitted system of a benchmark round, else board and power mode of a source."""
        found = re.search(r"results_(v[\d.]+)/.*/results/([^/-]+)", self.row.source)
        system = "/".join(found.groups()) if found else re.sub(r"[^a-z]", "", self.row.source.lower())[8:28]
        return f"{self.site.board}/{system}/{self.row.power_mode}"

    @property
    def language(self) -> bool:
        """Whether the model is a decoder, whose operations are exact by its sizes."""
        return self.task in ("decode", "prefill", "generate")

    @property
    def release(self) -> str:
        """Release of the software as far as the row tells: the benchmark round."""
        found = re.search(r"results_(v[\d.]+)/", self.row.source)
        return found.group(1) if found else ""

    @property
    def fam(self) -> str:
        """Family of software paths."""
        return relatives(self.path)


def excluded(row: Measurement) -> str | None:
    """Why a row must not be used for validation, or None."""
    if row.tier == "D":
        return "tier D: a claim, kept out of validation"
    if "INFERRED" in row.notes:
        return "the notes say INFERRED: not a measurement"
    if "identical to singlestream" in row.notes.lower():
        return "the notes say identical to SingleStream: a copy of another row"
    return None


def case_of(row: Measurement, hardware: Hardware, architectures: Architectures) -> Case | str:
    """The row as a case, or one sentence why it cannot be predicted."""
    why = excluded(row) or _unpredictable(row)
    if why:
        return why
    architecture = architectures.find(row.model) or architecture_of(row.model)
    if architecture is None:
        return f"model {row.model!r} is in no catalogue{suggestion(row.model)}"
    site = hardware.site(row)
    if isinstance(site, str):
        return site
    row = replace(row, device=site.device)
    path = software_path(row)
    stored = storage_format(row, path, language=isinstance(architecture, Language))
    if isinstance(architecture, Vision):
        return _vision_case(row, site, path, stored, architecture)
    return _language_case(row, site, path, stored, architecture)


def _unpredictable(row: Measurement) -> str | None:
    timed = any((row.latency_ms, row.mean_latency_ms, row.tokens_per_s, row.throughput_ips))
    if not timed and not any((row.power_w, row.energy_j, row.derived_power_w, row.derived_energy_j)):
        return "no latency, throughput, power or energy to compare"
    if not timed and _scope(row) == "unknown":
        return f"power scope {row.power_scope!r} is none of wall, rail, module, component"
    if row.energy_unit and not re.search(r"(?<![a-zA-Z])J\b|joule", row.energy_unit):
        return f"energy unit {row.energy_unit!r} is not joules"
    if "vlm" in row.task.lower():
        return "a vision-language pipeline: the length of its answers is not stated, so its work is unknown"
    if re.search(r"spec.*decod", row.precision.lower()):
        return "speculative decoding: the share of accepted tokens is not stated"
    return None


def _vision_case(row: Measurement, site: Site, path: str, stored: Format, arch: Vision) -> Case:
    offline = bool(row.throughput_ips) and not row.latency_ms and path not in ("rknn", "hailo", "jetson-archive")
    multi = "8-sample" in row.latency_stat
    batch = row.batch or 1.0
    mode = "offline" if offline else "multi" if multi else "batch" if batch > 1 else "single"
    saturated = 1.0 if row.device == "cpu" else OFFLINE_BATCH
    samples = saturated if offline else 8.0 if multi else batch
    macs = arch.conv_macs + arch.gemm_macs + arch.attention_macs
    weights = arch.params * stored.weight_bytes
    load = Load(
        phase="forward",
        times=arch.passes,
        flops=2.0 * macs * samples / arch.passes,
        depthwise_flops=2.0 * arch.depthwise_macs * samples / arch.passes,
        bytes_moved=weights + 2.0 * arch.activations * stored.activation_bytes * samples / arch.passes,
        kv_bytes=0.0,
        cycles=0.0,
        kernels=arch.kernels / arch.passes,
        weight_bytes=weights,
        activation_bytes=arch.activations * stored.activation_bytes / arch.passes,
    )
    stat = _statistic(row)
    return Case(row, site, path, stored, arch.task, arch.name, mode, samples, (load,), samples, stat, _scope(row))


def _language_case(row: Measurement, site: Site, path: str, stored: Format, arch: Language) -> Case | str:
    task = _phase(row)
    if task is None:
        return f"task {row.task!r} of a language model is none of decode, prefill, generation, summarisation"
    batch = row.batch or 1.0
    prompt, generated = row.prompt_tokens, row.gen_tokens
    if "batch" in row.notes.lower() and "not recorded" in row.notes.lower():
        return "the batch size is not recorded"
    if task == "decode":
        context = (prompt or DEFAULT_CONTEXT) + (generated or 0.0) / 2.0
        loads: tuple[Load, ...] = (_decode(arch, stored, batch, context, 1.0),)
        unit, mode = batch, "single" if batch == 1 else "batch"
    elif task == "prefill":
        tokens = prompt or _bucket(row)
        loads = (_prefill(arch, stored, batch, tokens),)
        unit, mode = tokens * batch, "single"
    else:
        if "summar" in task:
            prompt, generated = SUMMARY if prompt is None else (prompt, generated or SUMMARY[1])
            batch = 4.0 if "beam" in task or "gpt" in row.model.lower() else 1.0
        prompt, generated = prompt or 128.0, generated or 128.0
        loads = (
            _prefill(arch, stored, 1.0 if "summar" in task else batch, prompt),
            _decode(arch, stored, batch, prompt + generated / 2.0, generated),
        )
        unit = generated * (1.0 if "summar" in task else batch)
        mode = "single" if batch == 1 else "batch"
        if "summar" in task and not row.latency_ms:
            loads = tuple(_scaled(load, 16.0) for load in loads)
            unit *= 16.0
            mode = "offline"
    label = task if task in ("decode", "prefill") else "generate"
    return Case(row, site, path, stored, label, arch.name, mode, batch, loads, unit, _statistic(row), _scope(row))


def _phase(row: Measurement) -> str | None:
    """What a language model's row measured: decode, prefill, or the text of a task that has both; None for neither.

    A rate in tokens per second without a task that says more is one of generation.
    """
    task = row.task.lower()
    for phase, pattern in _PHASES:
        if re.search(pattern, task):
            return phase
    known = re.search(r"generat|end-to-end|summar|chat|\bllm\b|completion|inference|throughput", task)
    return task if known or (not task and row.tokens_per_s) else None


def _decode(arch: Language, stored: Format, batch: float, context: float, times: float) -> Load:
    read = min(arch.params, arch.active_params * (1 + 0.6 * (batch - 1)))
    weights = read * stored.weight_bytes
    if stored.file_bytes:
        weights = stored.file_bytes * read / arch.params
    kv = batch * context * arch.attention_layers * arch.kv_elements * 2.0
    flops = batch * (2.0 * arch.active_params + 4.0 * context * arch.hidden * arch.attention_layers)
    return Load("decode", times, flops, 0.0, weights, kv, read, arch.layers, weights, 0.0)


def _prefill(arch: Language, stored: Format, batch: float, tokens: float) -> Load:
    weights = arch.params * stored.weight_bytes
    if stored.file_bytes:
        weights = stored.file_bytes
    attention = 2.0 * tokens * tokens * arch.hidden * arch.attention_layers
    flops = batch * (2.0 * tokens * arch.active_body_params + attention)
    stream = 2.0 * batch * tokens * arch.layers * arch.hidden * 8.0
    elements = batch * tokens * arch.layers * arch.hidden
    return Load("prefill", 1.0, flops, 0.0, weights + stream, 0.0, arch.params, arch.layers, weights, 0.0, elements)


def _scaled(load: Load, batch: float) -> Load:
    return Load(
        load.phase,
        load.times,
        load.flops * batch,
        0.0,
        load.bytes_moved + (batch - 1) * (load.bytes_moved - load.weight_bytes),
        load.kv_bytes * batch,
        load.cycles,
        load.kernels,
        load.weight_bytes,
        load.activation_bytes,
        load.elements * batch,
    )


def _bucket(row: Measurement) -> float:
    """Prompt length of vendor rows that give a range of times to first token over fixed buckets of 128 tokens."""
    found = re.search(r"range ([\d.]+)-([\d.]+) ms; max = full (\d+)-token", row.notes)
    if not found:
        return DEFAULT_PROMPT
    low, high, full = (float(x) for x in found.groups())
    return full if high < 1.01 * low else 128.0


def _statistic(row: Measurement) -> str:
    text = row.latency_stat.lower()
    for name in ("p99", "p90", "p50"):
        if name in text:
            return name
    if "hw latency" in text:
        return "hw"
    return "pipeline" if "pipeline" in row.task.lower() else "mean"


def _scope(row: Measurement) -> str:
    text = row.power_scope.lower()
    if not text and (row.power_w or row.energy_j or row.derived_power_w):
        return "rail" if "VDD" in row.energy_unit else "wall"
    for name, pattern in (
        ("rail", r"vdd_cpu_gpu_cv|vdd_gpu_soc|rail"),
        ("peak-wall", r"(wall|ac|plug|meter).*peak|peak.*(wall|plug|meter)"),
        ("component", r"component|nvml|nvidia-smi|rapl|package|\bsoc\b|powermetrics"),
        ("module", r"module|vdd_in|tegrastats|jtop|pom_5v_in|\bsom\b"),
        ("wall", r"wall|\bac\b|plug|meter|usb|poe|\bdc\b|board|system|outlet|mains|kill"),
    ):
        if re.search(pattern, text):
            return name
    return "unknown" if text else ""
