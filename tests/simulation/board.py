"""A board small enough to reason about: GPU with its own memory, CPU and NPU on another, and a link."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from agent.schema.device import DeviceProfile
from agent.storage import share, yaml_files

POLICY = yaml_files.load_policy(share.find_policy("balanced"))


def quantity(value: float, rel_uncertainty: float | None = None) -> dict[str, Any]:
    return {"value": value, "provenance": "assumed", "source": "test", "rel_uncertainty": rel_uncertainty}


def accelerator(name: str, kind: str, domain: str, flops_per_s: float, j_per_flop: float) -> dict[str, Any]:
    return {
        "name": name, "kind": kind, "memory_domain": domain,
        "runtimes": [{"backend": "onnx", "provider": "CPUExecutionProvider"}],
        "peak_flops_per_s": {"fp16": quantity(flops_per_s)},
        "energy_j_per_flop": {"fp16": quantity(j_per_flop, 0.5)},
        "base_power_w": quantity(20.0 if kind == "gpu" else 2.0, 0.5),
    }  # fmt: skip


def data(dram_bytes: float = 16e9, vram_bytes: float = 8e9) -> dict[str, Any]:
    def domain(name: str, capacity_bytes: float, bytes_per_s: float) -> dict[str, Any]:
        return {
            "name": name, "capacity_bytes": quantity(capacity_bytes), "reserved_bytes": quantity(1e6),
            "bandwidth_bytes_per_s": quantity(bytes_per_s), "energy_j_per_byte": quantity(5e-11, 0.2),
        }  # fmt: skip

    return {
        "version": 1, "name": "bench", "title": "Bench",
        "memory_domains": [domain("dram", dram_bytes, 5e10), domain("vram", vram_bytes, 1e11)],
        "accelerators": [
            accelerator("gpu", "gpu", "vram", 5e13, 2e-12),
            accelerator("cpu", "cpu", "dram", 1e12, 2e-11),
            accelerator("npu", "npu", "dram", 4e13, 2e-13),
        ],
        "links": [{
            "between": ["dram", "vram"], "bandwidth_bytes_per_s": quantity(1e10), "overhead_s": quantity(1e-5),
            "energy_j_per_byte": quantity(1e-10, 0.5),
        }],
    }  # fmt: skip


def board(**sizes: float) -> DeviceProfile:
    return DeviceProfile.model_validate(data(**sizes))


def scenario_data(**changes: Any) -> dict[str, Any]:
    """A scenario over `bench.yaml`; a key set to None is left out."""
    content: dict[str, Any] = {
        "version": 1, "name": "small", "title": "Small", "kind": "placement-comparison", "profiles": ["./bench.yaml"],
        "policy": "balanced",
        "workloads": [{"model": "gpt2-125m", "prompt_tokens": 32, "generated_tokens": 8}],
        "placements": ["single:gpu", "single:npu", "greedy", "pgsam"], "baseline": "single:gpu", "seed": 1,
        "search_evaluations": 500,
    }  # fmt: skip
    return {key: value for key, value in (content | changes).items() if value is not None}


def write(folder: Path, content: dict[str, Any] | None = None, profile: dict[str, Any] | None = None) -> Path:
    """The scenario and its board as files; the scenario's path."""
    (folder / "bench.yaml").write_text(yaml.safe_dump(profile or data(), sort_keys=False))
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content or scenario_data(), sort_keys=False))
    return path


CLAIMS = [
    {"quantity": q, "change": c, "placement": "pgsam", "relative_to": "single:gpu", "source": "a paper",
     "caveats": ["theirs was another day"]}
    for q, c in (("energy", -0.999), ("latency", 50.0), ("energy", -0.0001))
]  # fmt: skip
SENSITIVITY = {
    "placement": "pgsam",
    "assumptions": [
        {"vary": vary, "low": 0.5, "high": 2.0, "why": "a range"}
        for vary in (
            "link_bandwidth_factor", "npu_efficiency_factor", "base_power_factor", "memory_energy_factor",
            "compute_energy_factor", "generated_tokens_factor",
        )
    ] + [{"vary": "temperature_c", "low": 20, "high": 90, "why": "cold to hot"}],
}  # fmt: skip
