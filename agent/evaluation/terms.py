"""Terms of a case: which constants and which families of coefficients make up its time and its power.

time  = Σ phases [ max(F/(η_c·P̂) + F_dw/(η_dw·P̂), B/(η_m·β̂), cycles/(units·f)) + KV/(η_v·β̂) + spill/link
                   + elements·cycles/(units·f) + kernels·τ + τ_query ]
power = idle + switched on (units·f·V²) + busy arithmetic + memory traffic, each in the scope it is measured in
"""

from __future__ import annotations

from agent.evaluation.hardware import Accelerator, Site
from agent.evaluation.regression import Term, level
from agent.evaluation.rows import Case, Load
from agent.physics.operating_point import operating_point_scaling
from agent.physics.roofline import issue_time

VOLTAGE_EXPONENT = 0.6
"""s of V ∝ f^s above the voltage floor: the upper end of what one family's rails show (power exponents 1.4–2.2); the
walls of AGX Orin between 0.65 and 1.3 GHz want no less."""

KERNEL_S = 10e-6
IMAGE_BYTES = 224.0 * 224.0 * 3.0
TENSOR_BYTES = {"ssd": 300.0 * 300.0 * 3.0 + 1917.0 * 95.0, "yolo": 640.0 * 640.0 * 3.0 + 8400.0 * 84.0}
"""Input and output of one sample that cross the link of a stick, by task; others take an image."""
GPU_LAUNCH_HZ = 1e9
QUERY_S = 100e-6
CYCLES_PER_ELEMENT = 50.0
CYCLES_PER_WEIGHT = 0.12
HOST_W = 3.0
"""Orders of magnitude from which the coefficients start; the fit corrects every one of them."""

IDLE_SHARE = {"wall": 1.0, "peak-wall": 1.0, "rail": 0.15, "component": 0.1}
"""Share of the board's idle power that a scope sees, before the fit; other scopes 0.3."""
RAILED, BESIDE_RAIL = "nvidia", 0.3
"""A Jetson module draws its compute rail and, beside it, memory, SoC and converters: a third of the board's idle power
(VDD_IN is 1.5–3 W above VDD_CPU_GPU_CV on Orin Nano: smolhub.com, jetson-nano-super benchmarks)."""
WHOLE = ("wall", "peak-wall")
"""Scopes that see everything a board draws: there idle power is what a meter says, up to what software changes."""
MEMORY_J_PER_BYTE = 60e-12


def peak_flops_per_s(case: Case) -> float:
    """Arithmetic peak at the case's operating point, the deep-learning accelerators beside the GPU included."""
    site = case.site
    own = site.accelerator
    share = site.units / own.units * site.clock_hz / own.clock_hz
    peak = own.peak(case.format.arithmetic) * share
    if site.dla is not None:
        peak += 0.6 * site.dla.peak(case.format.arithmetic) * site.dla_clock_hz / site.dla.clock_hz
    return peak


def bandwidth_bytes_per_s(site: Site) -> float:
    """Memory bandwidth at the operating point."""
    return site.accelerator.bandwidth_bytes_per_s * site.memory_hz / site.accelerator.memory_hz


def spilt_bytes(load: Load, accelerator: Accelerator) -> float:
    """Weight bytes that cross the accelerator's link for every query."""
    capacity = accelerator.sram_bytes or 0.0
    excess = load.weight_bytes + accelerator.buffer_share * load.activation_bytes - capacity
    if excess <= 0:
        return 0.0
    return load.weight_bytes if accelerator.streams_all else min(excess, load.weight_bytes)


def _launch_clock_hz(accelerator: Accelerator) -> float:
    """Clock at which a launch takes its reference time.

    One for all GPUs, where a launch waits for a pipeline of so many cycles; each CPU and NPU its own.
    """
    return GPU_LAUNCH_HZ if accelerator.kind == "gpu" else accelerator.clock_hz


def _where(case: Case) -> tuple[str, str, str, str]:
    """Kind, what code is written for, software path there, software path on the silicon.

    A path on GPUs of one maker is other code than on those of another: CUDA's kernels say nothing of OpenCL's.
    """
    kind, own = case.row.device, case.site.accelerator
    code = f"{own.kin}-{kind}" if own.kind == "gpu" else kind
    return kind, code, f"{case.path}/{code}", f"{case.path}/{code}/{own.silicon}"


def time_terms(case: Case, load: Load) -> tuple[Term, ...]:
    """Terms of one pass of a phase [s]."""
    site, own = case.site, case.site.accelerator
    kind, _, path, here = _where(case)
    precision = case.format.name
    bandwidth = bandwidth_bytes_per_s(site)
    peak = peak_flops_per_s(case)
    compute = _compute_keys(case, load)
    memory = _memory_keys(case, load)
    terms = [
        Term("compute", load.flops / peak / 0.3, compute),
        Term("ceiling", load.bytes_moved / bandwidth / 0.6, memory),
        Term("added", load.kernels * KERNEL_S * _launch_clock_hz(own) / site.clock_hz, _launch_keys(case, load)),
        Term("added", QUERY_S, _query_keys(case, load)),
    ]
    if load.depthwise_flops:
        extra = ("d:all", f"d.kind:{kind}", f"d.path:{path}", f"d.prec:{path}/{precision}", f"d.here:{here}")
        shared = tuple(key for key in compute if level(key) in ("c", "c.kind", "c.kin", "c.silicon", "c.here"))
        terms.append(Term("compute", load.depthwise_flops / peak / 0.1, (*extra, *shared)))
    if load.kv_bytes:
        cache = ("v:all", f"v.kind:{kind}", f"v.path:{path}", f"v.here:{here}", *memory[1:3])
        terms.append(Term("added", load.kv_bytes / bandwidth / 0.6, cache))
    if load.elements:
        passes = ("e:all", f"e.kind:{kind}", f"e.path:{path}", f"e.here:{here}")
        terms.append(Term("added", load.elements * CYCLES_PER_ELEMENT / (site.units * site.clock_hz), passes))
    if load.cycles:
        terms += _issue_terms(case, load)
    if own.sram_bytes is not None and own.link_bytes_per_s:
        link = ("l:all", f"l.kin:{own.kin}", f"l.silicon:{own.silicon}", f"l.board:{site.board}")
        spilt_s = spilt_bytes(load, own) / own.link_bytes_per_s
        terms.append(Term("added", spilt_s, (*link, f"l.mode:{own.kin}/{case.mode}")))
        if own.kind == "tpu":
            tensors_s = case.samples * TENSOR_BYTES.get(case.task, IMAGE_BYTES) / own.link_bytes_per_s
            terms.append(Term("added", tensors_s, ("x:all", f"x.kin:{own.kin}", f"x.task:{case.task}")))
    return tuple(terms)


def _compute_keys(case: Case, load: Load) -> tuple[str, ...]:
    own = case.site.accelerator
    kind, code, path, here = _where(case)
    precision = case.format.name
    return (
        "c:all",
        f"c.kind:{kind}",
        f"c.kin:{own.kin}/{kind}",
        f"c.silicon:{own.silicon}/{kind}",
        f"c.phase:{code}/{load.phase}",
        f"c.fam:{case.fam}/{code}",
        f"c.path:{path}",
        f"c.path.phase:{path}/{load.phase}",
        f"c.here:{here}",
        f"c.prec:{path}/{precision}",
        f"c.here.prec:{here}/{precision}",
        f"c.task:{code}/{case.task}",
        f"c.path.task:{path}/{case.task}",
        f"c.mode:{path}/{case.mode}",
    )


def _memory_keys(case: Case, load: Load) -> tuple[str, ...]:
    own = case.site.accelerator
    kind, code, path, here = _where(case)
    return (
        "m:all",
        f"m.kind:{kind}",
        f"m.silicon:{own.silicon}/{kind}",
        f"m.fam:{case.fam}/{code}",
        f"m.path:{path}",
        f"m.here:{here}",
        f"m.phase:{code}/{load.phase}",
        f"m.prec:{path}/{case.format.name}",
    )


def _launch_keys(case: Case, load: Load) -> tuple[str, ...]:
    own = case.site.accelerator
    kind, code, path, here = _where(case)
    return (
        "k:all",
        f"k.kind:{kind}",
        f"k.kin:{own.kin}/{kind}",
        f"k.fam:{case.fam}/{code}",
        f"k.path:{path}",
        f"k.path.phase:{path}/{load.phase}",
        f"k.here:{here}",
        f"k.prec:{path}/{case.format.name}",
        f"k.task:{path}/{case.task}",
    )


def _query_keys(case: Case, load: Load) -> tuple[str, ...]:
    kind, _, path, _ = _where(case)
    return (
        "q:all",
        f"q.kind:{kind}",
        f"q.path:{path}",
        f"q.board:{path}/{case.site.board}",
        f"q.phase:{path}/{load.phase}",
        f"q.host:{case.row.board}",
    )


def _issue_terms(case: Case, load: Load) -> list[Term]:
    """Cycles to unpack and issue weights: a ceiling while decoding on a GPU, an extra before a prompt is multiplied."""
    kind, _, path, _ = _where(case)
    precision = case.format.name
    seconds = float(issue_time(CYCLES_PER_WEIGHT * load.cycles, case.site.units, case.site.clock_hz))
    if load.phase == "prefill":
        return [Term("added", seconds, ("w:all", f"w.kind:{kind}", f"w.path:{path}", f"w.prec:{path}/{precision}"))]
    if kind != "gpu":
        return []
    family = ("i:all", f"i.fam:{case.fam}", f"i.path:{case.path}", f"i.kin:{case.site.accelerator.kin}")
    return [Term("ceiling", seconds, (*family, f"i.prec:{case.path}/{precision}"))]


def time_keys(case: Case) -> tuple[str, ...]:
    """Coefficients on the whole time: how an architecture deviates from its operation counts."""
    kind = case.row.device
    counted = () if case.language else (f"a.model:{case.model}",)
    return (
        *counted,
        f"a.model.path:{case.path}/{kind}/{case.model}",
        f"a.board:{case.site.board}/{kind}",
        f"a.site:{case.installation}/{kind}",
        *((f"a.release:{case.path}/{case.task}/{case.release}",) if case.release else ()),
    )


def tail_keys(case: Case, statistic: str) -> tuple[str, ...]:
    """Coefficients of a latency percentile over the mean."""
    if statistic in ("mean", "p50"):
        return ()
    kind, _, path, here = _where(case)
    return (f"t:{statistic}", f"t.task:{statistic}/{case.task}", f"t.path:{path}", f"t.here:{here}", f"t.host:{kind}")


def power_terms(case: Case, busy: float, bytes_per_s: float) -> tuple[Term, ...]:
    """Terms of mean power [W] while `case` runs; busy: share of the time that arithmetic needs, (0, 1]."""
    site = case.site
    own = site.accelerator
    kind, code, path, here = _where(case)
    scope = case.scope or "wall"
    scaling = operating_point_scaling(
        site.units, site.clock_hz, site.memory_hz,
        reference_units=own.units, reference_clock_hz=own.clock_hz, reference_memory_clock_hz=own.memory_hz,
        floor_clock_hz=own.floor_hz, voltage_exponent=VOLTAGE_EXPONENT,
    )  # fmt: skip
    full = own.power_w * float(scaling.dynamic_power)
    if site.dla is not None:
        full += site.dla.power_w * site.dla_clock_hz / site.dla.clock_hz
    shunted = scope == "module" and own.kin == RAILED
    if shunted:
        scope = "rail"
    idle = IDLE_SHARE.get(scope, 0.3) * site.idle_w
    host = HOST_W * site.host_clock_share if scope == "wall" else 0.1 * HOST_W
    on = (
        f"on:{scope}",
        f"on.kind:{kind}",
        f"on.kin:{own.kin}/{kind}",
        f"on.silicon:{own.silicon}/{kind}",
        f"on.fam:{case.fam}/{code}",
        f"on.path:{path}",
        f"on.here:{here}",
        f"on.prec:{path}/{case.format.name}",
        f"on.here.prec:{here}/{case.format.name}",
        f"on.task:{path}/{case.task}",
        f"on.mode:{code}/{case.mode}",
        f"on.board:{site.board}/{kind}",
        f"on.site:{case.installation}/{kind}",
        f"on.task.mode:{code}/{case.task}/{case.mode}",
    )
    busy_keys = (f"busy:{kind}", f"busy.fam:{case.fam}/{code}", f"busy.silicon:{own.silicon}/{kind}", *on[:2], *on[6:8])
    rest = (Term("added", BESIDE_RAIL * site.idle_w, ("beside:module",)),) if shunted else ()
    return (
        *rest,
        Term(
            "added",
            idle,
            (f"idle:{scope}",) if scope in WHOLE else (f"base:{scope}", f"base.silicon:{scope}/{own.silicon}"),
        ),
        Term("added", 0.3 * full, on),
        Term("added", 0.7 * full * busy, busy_keys),
        Term(
            "added",
            MEMORY_J_PER_BYTE * bytes_per_s,
            (f"dram:{scope}", f"dram.silicon:{own.silicon}", *on[:1]),
        ),
        Term("added", host, (f"host:{scope}/{site.scale}", f"host.path:{path}")),
    )
