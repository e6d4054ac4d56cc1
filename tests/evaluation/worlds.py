"""A small world for the fit: boards, architectures and rows made from known coefficients."""

from __future__ import annotations

from agent.evaluation.architectures import Architectures
from agent.evaluation.catalogue import Catalogue
from agent.evaluation.forecast import Coefficients
from agent.evaluation.hardware import Hardware
from agent.evaluation.regression import Solution
from agent.evaluation.rows import Case, case_of
from agent.evaluation.table import Measurement, parse_table

GPU = {"int8": 80e12, "fp16": 40e12, "fp32": 5e12, "bandwidth": 200e9, "units": 16, "clock_mhz": 1300,
       "memory_mhz": 3200, "power_w": 45}  # fmt: skip
CPU = {
    "int8": 1.6e12,
    "fp32": 4e11,
    "bandwidth": 200e9,
    "units": 12,
    "clock_mhz": 2200,
    "memory_mhz": 3200,
    "power_w": 20,
}
SMALL = {**GPU, "int8": 30e12, "fp16": 15e12, "bandwidth": 100e9, "units": 8, "clock_mhz": 900, "power_w": 13}
DLA = {"int8": 50e12, "units": 2, "clock_mhz": 1600, "power_w": 8}
TPU = {"int8": 4e12, "bandwidth": 0.4e9, "units": 1, "clock_mhz": 500, "power_w": 2, "sram": 8e6, "link": 0.4e9}

HARDWARE = {
    "boards": [
        {
            "name": "Big", "match": ["big"], "silicon": "s1", "kin": "k1", "scale": "agx", "idle_w": 10.0,
            "accelerators": {"gpu": GPU, "cpu": CPU, "dla": DLA},
            "modes": [{"match": "low", "gpu": {"units": 8, "clock_mhz": 650}, "memory_mhz": 1600, "idle_w": 6.0}],
        },
        {"name": "Small", "match": ["^small"], "silicon": "s1", "kin": "k1", "scale": "nano", "idle_w": 5.0,
         "accelerators": {"gpu": SMALL}},
        {"name": "Stick", "match": ["stick"], "silicon": "tpu", "kin": "tpu", "scale": "module", "idle_w": 0.5,
         "accelerators": {"tpu": TPU}},
    ]
}  # fmt: skip
ARCHITECTURES = {
    "vision": [
        {"match": "mobile", "task": "mobile", "conv": 0.28, "depthwise": 0.02, "params": 3.5, "activations": 6.7,
         "kernels": 53},
        {"match": "resnet", "task": "cnn", "conv": 4.09, "params": 25.6, "activations": 11.1, "kernels": 55},
    ],
    "llm": [{"match": "llama", "params": 1.236, "body": 0.973, "layers": 16, "hidden": 2048, "kv": 1024},
            {"match": "moe", "params": 30, "active": 3, "body": 29, "layers": 48, "hidden": 2048, "kv": 1024}],
}  # fmt: skip
HEADER = (
    "row_id,tier,board,device,power_mode,model,precision,task,batch,prompt_tokens,gen_tokens,latency_ms,latency_stat,"
    "mean_latency_ms,tokens_per_s,throughput_ips,power_w,power_scope,energy_j,energy_unit,notes,source"
)
NOTHING = Coefficients(Solution({}), Solution({}))


def catalogue() -> Catalogue:
    return Catalogue(Hardware(HARDWARE), Architectures(ARCHITECTURES))


def row(**cells: object) -> Measurement:
    """One measurement; sensible where nothing is said."""
    values: dict[str, object] = {
        "row_id": "1", "tier": "A", "board": "big", "device": "gpu", "model": "resnet", "precision": "int8",
        "task": "image-classification", "batch": 1, "latency_ms": 1.0, "notes": "TensorRT",
    }  # fmt: skip
    values |= cells
    names = HEADER.split(",")
    line = ",".join('"' + str(values.get(name) or "") + '"' for name in names)
    return parse_table(f"{HEADER}\n{line}\n", "t.csv")[0]


def case(**cells: object) -> Case:
    found = case_of(row(**cells), catalogue().hardware, catalogue().architectures)
    assert isinstance(found, Case), found
    return found


def why(**cells: object) -> str:
    found = case_of(row(**cells), catalogue().hardware, catalogue().architectures)
    assert isinstance(found, str)
    return found
