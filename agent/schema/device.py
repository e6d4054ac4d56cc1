"""Device profile: what a board IS. Says nothing about what its owner wants (that is a policy).

Every coefficient is a `Quantity`, so that each joule can be traced to a data sheet, a paper or a sensor. A number
nobody has published is left out (`None`) and everything that depends on it is reported as unknown.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, model_validator
from pydantic_core import PydanticCustomError

from agent.runtimes import registry
from agent.schema.base import FileModel, Name, Quantity
from agent.schema.references import known, unique
from agent.schema.workload import Family, Precision, Routine

AcceleratorKind = Literal["cpu", "gpu", "npu", "tpu", "dla"]
NVPMODEL_TABLE = "etc/nvpmodel.conf"


class Match(FileModel):
    """How detection recognises the board; any given pattern must match (shell-style wildcards)."""

    machine: str | None = Field(default=None, description="uname -m, e.g. aarch64")
    device_tree_model: str | None = Field(default=None, description="/proc/device-tree/model")
    cpu_model: str | None = Field(default=None, description="model name in /proc/cpuinfo")
    dmi_product: str | None = Field(default=None, description="/sys/class/dmi/id/product_name")


class MemoryDomain(FileModel):
    """One pool of memory with one bandwidth; accelerators that name the same domain share both."""

    name: Name
    capacity_bytes: Quantity
    reserved_bytes: Quantity = Field(description="held by the operating system and firmware, never planned with")
    bandwidth_bytes_per_s: Quantity = Field(description="theoretical peak; efficiencies belong to the runtimes")
    energy_j_per_byte: Quantity
    backing_bytes_per_s: Quantity | None = Field(default=None, description="speed of swap or paging once it is full")


class Efficiency(FileModel):
    """Share of a peak that one operator family reaches through one runtime (0, 1]."""

    family: Family
    precision: Precision
    share: Quantity


Amount = Literal[
    "operation", "weight_byte", "shared_weight_byte", "cold_weight_byte", "moved_byte", "cold_moved_byte", "far_byte",
    "shared_byte", "io_byte", "io_tensor", "fused_arithmetic", "fused_scaling", "far_scaling", "shared_scaling",
    "fused_function", "fused_error_function", "fused_node", "heavy_kernel", "kernel", "view", "open_byte",
    "open_kernel",
]  # fmt: skip
"""What a kernel's time is made of: operations; weights from a core's own cache, from the one that cores share, or from
memory; activations, likewise; tensors that enter and leave the runtime, by size and by number; what is fused into a
kernel; launches of a product, of anything else, of a change of shape; what activations and kernels take more where
the graph leaves a size of its inputs open: OpenVINO then plans and lays out less beforehand."""


class KernelTerm(FileModel):
    """Seconds per unit of one kind of work. routine and precision: of operations and bytes that differ by them."""

    amount: Amount
    routine: Routine | None = None
    precision: Precision | None = None
    seconds: float = Field(ge=0)


class KernelTimes(FileModel):
    """Times of a runtime's kernels, fitted to measured models; only for models whose graph is known."""

    terms: tuple[KernelTerm, ...]
    cache_bytes: float = Field(ge=0, description="weights up to this size are not read from memory every time")
    near_bytes: float = Field(default=0.0, ge=0, description="what a kernel finds where the one before left it; 0: all")
    core_bytes: float = Field(
        default=0.0, ge=0, description="a core's own cache; beyond it a shared one serves; 0: all"
    )
    tile_columns: int = Field(default=1, ge=1, description="columns that a product computes at a time, needed or not")
    tile_channels: int = Field(default=1, ge=1, description="input channels of a convolution computed at a time")
    tile_inner: int = Field(default=1, ge=1, description="4-bit weights along a sum computed at a time, needed or not")
    rel_uncertainty: float = Field(ge=0, description="of a predicted time: the fit's error on its own measurements")
    source: str


def _known_backend(name: str) -> str:
    if name not in registry.names():
        *most, last = map(repr, registry.names())
        raise PydanticCustomError("literal_error", "unknown", {"expected": f"{', '.join(most)} or {last}"})
    return name


class Runtime(FileModel):
    """One way to run models on an accelerator: a backend and its provider or delegate, with what it achieves."""

    backend: Annotated[str, AfterValidator(_known_backend)] = Field(
        description="onnx, litert or one that was added; native: a vendor's own runtime, which the agent plans and "
        "simulates with but does not serve from"
    )
    provider: str = Field(
        description="ONNX Runtime execution provider; for litert: none, XNNPACK, external, compiled-cpu, compiled-gpu, "
        "compiled-npu; for native: its name"
    )
    plugin: str | None = Field(
        default=None, description="Python package or .so that registers the provider, or the external delegate's .so"
    )
    options: dict[str, str] = Field(default_factory=dict, description="provider or delegate options, passed as is")
    threads: int | None = Field(default=None, ge=1, description="None: the accelerator's threads")
    compute_efficiency: tuple[Efficiency, ...] = ()
    bandwidth_efficiency: Quantity | None = Field(default=None, description="share of the domain's bandwidth achieved")
    cache_bytes_per_s: Quantity | None = Field(default=None, description="bandwidth while the working set is in cache")
    dispatch_overhead_s: Quantity | None = Field(default=None, description="launch cost per inference")
    node_overhead_s: Quantity | None = Field(default=None, description="cost of each graph node on top of its work")
    kernel_times: KernelTimes | None = Field(default=None, description="measured; used before efficiencies where known")
    unsupported_operators: tuple[str, ...] = ()

    @property
    def format(self) -> str | None:
        """Of the model files that it reads; None for a vendor's own runtime."""
        backend = registry.find(self.backend)
        return None if backend is None else backend.format


class Leakage(FileModel):
    """Temperature-dependent static power."""

    power_w: Quantity = Field(description="leakage at the reference temperature")
    reference_c: float = 25.0
    activation_energy_ev: Quantity = Field(description="effective; 0.1–0.4 eV is a doubling per 20–75 °C")


class OperatingPoint(FileModel):
    """A power mode or clock setting; shares are relative to the accelerator's peak."""

    name: Name
    active_units_share: float = Field(default=1.0, gt=0, le=1)
    clock_share: float = Field(default=1.0, gt=0, le=1)
    memory_clock_share: float = Field(default=1.0, gt=0, le=1)
    power_cap_w: Quantity | None = None


class Actuator(FileModel):
    """Where the agent may set an accelerator's operating point; used only where the policy allows it."""

    kind: Literal["cpufreq", "power_cap", "nvpmodel"] = Field(
        description="cpufreq: highest clock, the point's clock_share of the fastest; power_cap: the point's "
        "power_cap_w; nvpmodel: the Jetson's power mode that bears the point's name, which holds for the whole module"
    )
    path: str = Field(
        description="below /: for cpufreq folders with a scaling_max_freq, for power_cap files in microwatts; "
        "a * stands for any part of one name; for nvpmodel its table, etc/nvpmodel.conf"
    )

    @model_validator(mode="after")
    def _inside(self) -> Actuator:
        if self.kind == "nvpmodel":
            if self.path != NVPMODEL_TABLE:
                raise ValueError(f"path must be {NVPMODEL_TABLE} for nvpmodel")
        elif not self.path.startswith("sys/") or ".." in self.path.split("/"):
            raise ValueError("path must lie below sys/, without a leading slash")
        return self


class Accelerator(FileModel):
    """One compute unit that stages can be placed on."""

    name: Name
    kind: AcceleratorKind
    silicon: Name | None = Field(
        default=None, description="same value on two accelerators = the same physical unit, which they contend for"
    )
    memory_domain: Name
    thermal_node: Name | None = None
    threads: int | None = Field(default=None, ge=1, description="CPU threads of a lane; None: all cores but one")
    runtimes: tuple[Runtime, ...] = Field(description="first one that understands the model's format is used")
    peak_flops_per_s: dict[Precision, Quantity]
    energy_j_per_flop: dict[Precision, Quantity]
    base_power_w: Quantity = Field(description="power of being switched on and clocked, without leakage, while running")
    leakage: Leakage | None = None
    power_cap_w: Quantity | None = None
    cache_bytes: Quantity | None = Field(default=None, description="last-level cache in front of its memory domain")
    sram_bytes: Quantity | None = Field(
        default=None,
        description="memory on the chip of an accelerator behind a link: activations stay there, and weights up to "
        "this size; the rest of the weights crosses the link (its memory domain's bandwidth) in every inference",
    )
    cpq_knee: float = Field(default=0.85, gt=0, lt=1)
    cpq_kappa: float = Field(default=0.5, ge=0)
    voltage_floor_clock_share: float | None = Field(default=None, gt=0, le=1)
    operating_points: tuple[OperatingPoint, ...] = ()
    actuator: Actuator | None = Field(default=None, description="absent: its operating point is never changed")


class Link(FileModel):
    """Path a tensor takes between two memory domains (or USB/PCIe to an accelerator)."""

    between: tuple[Name, Name]
    bandwidth_bytes_per_s: Quantity
    overhead_s: Quantity
    energy_j_per_byte: Quantity


class Trip(FileModel):
    """Temperature at which the firmware or kernel acts."""

    kind: Literal["active", "passive", "hot", "critical"]
    temperature_c: Quantity


class Zone(FileModel):
    """A temperature sensor, found by its type or label and never by its number."""

    name: Name
    source: Literal["thermal_zone", "hwmon", "nvml"]
    type: str = Field(description="content of thermal_zone*/type, hwmon 'name/label', or the GPU index for nvml")
    critical: bool = Field(default=False, description="absent or stale counts as hot")
    trips: tuple[Trip, ...] = ()


class Rail(FileModel):
    """A power sensor and what it covers."""

    name: Name
    source: Literal["hwmon", "rapl", "nvml", "battery"]
    type: str = Field(description="hwmon 'name/label' (INA3221, INA238…), RAPL domain name, GPU index or battery name")
    covers: tuple[Name, ...] = Field(description="accelerators on this rail")
    scope: Literal["rail", "module", "package", "board", "wall"]


class ThermalNode(FileModel):
    """One lump of the RC network."""

    name: Name
    heat_capacity_j_per_k: Quantity
    to_ambient_w_per_k: Quantity | None = None


class Conductance(FileModel):
    """Heat path between two lumps."""

    between: tuple[Name, Name]
    w_per_k: Quantity


class ThermalNetwork(FileModel):
    """Lumped RC model of board and cooling, until the board's own sensors have taught a better one."""

    nodes: tuple[ThermalNode, ...]
    conductances: tuple[Conductance, ...] = ()


class DeviceProfile(FileModel):
    """A board."""

    version: Literal[1]
    name: Name
    title: str
    match: Match = Match()
    price_usd: Quantity | None = None
    idle_power_w: Quantity | None = Field(default=None, description="whole board at the wall, nothing running")
    memory_domains: tuple[MemoryDomain, ...] = Field(min_length=1)
    accelerators: tuple[Accelerator, ...] = Field(min_length=1)
    links: tuple[Link, ...] = ()
    zones: tuple[Zone, ...] = ()
    rails: tuple[Rail, ...] = ()
    thermal: ThermalNetwork | None = None

    def accelerator(self, name: str) -> Accelerator:
        """The accelerator of that name; KeyError if there is none."""
        for accelerator in self.accelerators:
            if accelerator.name == name:
                return accelerator
        raise KeyError(name)

    def memory_domain(self, name: str) -> MemoryDomain:
        """The memory domain of that name; KeyError if there is none."""
        for domain in self.memory_domains:
            if domain.name == name:
                return domain
        raise KeyError(name)

    @model_validator(mode="after")
    def _references_resolve(self) -> DeviceProfile:
        domains = unique("memory_domains", [d.name for d in self.memory_domains])
        accelerators = unique("accelerators", [a.name for a in self.accelerators])
        unique("zones", [z.name for z in self.zones])
        unique("rails", [r.name for r in self.rails])
        nodes = unique("thermal.nodes", [n.name for n in self.thermal.nodes] if self.thermal else [])
        for index, accelerator in enumerate(self.accelerators):
            known(f"accelerators.{index}.memory_domain", accelerator.memory_domain, domains)
            if accelerator.thermal_node is not None:
                known(f"accelerators.{index}.thermal_node", accelerator.thermal_node, nodes)
        for index, rail in enumerate(self.rails):
            for covered in rail.covers:
                known(f"rails.{index}.covers", covered, accelerators)
        for index, link in enumerate(self.links):
            for end in link.between:
                known(f"links.{index}.between", end, domains | accelerators)
        for domain in self.memory_domains:
            if domain.reserved_bytes.value >= domain.capacity_bytes.value:
                raise ValueError(f"memory_domains: {domain.name}: reserved_bytes must be below capacity_bytes")
        return self
