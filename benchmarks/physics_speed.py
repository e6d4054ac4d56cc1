"""Times 100,000 full predictions – 100 stages × 10 accelerators × 100 operating points – in one vectorised call.

Scales the operating point, looks up the pressure penalty and leakage, and computes every roofline ceiling, both energy
parts, Φ and the power cap. Prints the median and the best of the repeats in milliseconds; the budget is 50 ms on one
core. Run: python benchmarks/physics_speed.py
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import replace

import numpy as np

from agent import physics

STAGES, ACCELERATORS, POINTS = 100, 10, 100


def evaluate(rng: np.random.Generator) -> physics.Prediction:
    """Return predictions of shape (stages, accelerators, operating points) from inputs of one axis each."""
    stage = (STAGES, 1, 1)
    load = physics.StageLoad(
        flops=rng.uniform(1e6, 1e10, stage),
        weight_bytes=rng.uniform(1e4, 1e8, stage),
        stream_bytes=rng.uniform(1e4, 1e7, stage),
        cycles=rng.uniform(1e4, 1e7, stage),
    )
    accelerator = (1, ACCELERATORS, 1)
    reference = physics.AcceleratorTerms(
        peak_flops_per_s=rng.uniform(1e10, 1e13, accelerator),
        bandwidth_bytes_per_s=rng.uniform(1e10, 2e11, accelerator),
        j_per_flop=rng.uniform(1e-13, 1e-11, accelerator),
        j_per_byte=rng.uniform(2e-11, 8e-11, accelerator),
        base_power_w=rng.uniform(0.1, 5.0, accelerator),
        leakage_w=rng.uniform(0.05, 2.0, accelerator),
        activation_ev=0.1,
        overhead_s=1e-5,
        power_cap_w=30.0,
        issue_cycles_per_s=rng.uniform(1e9, 1e10, accelerator),
        cache_bytes=2e6,
        cache_bytes_per_s=1e12,
        sram_bytes=5e7,
        link_bytes_per_s=4e8,
    )
    scaling = physics.operating_point_scaling(
        np.linspace(1, 8, POINTS),
        np.linspace(3e8, 2e9, POINTS),
        np.linspace(1.6e9, 3.2e9, POINTS),
        reference_units=8.0,
        reference_clock_hz=2e9,
        reference_memory_clock_hz=3.2e9,
        floor_clock_hz=9e8,
        voltage_exponent=0.4,
    )
    terms = replace(
        reference,
        peak_flops_per_s=np.multiply(reference.peak_flops_per_s, scaling.peak),
        bandwidth_bytes_per_s=np.multiply(reference.bandwidth_bytes_per_s, scaling.bandwidth),
        issue_cycles_per_s=np.multiply(reference.issue_cycles_per_s, scaling.peak),
        j_per_flop=np.multiply(reference.j_per_flop, scaling.energy_per_op),
        leakage_w=np.multiply(reference.leakage_w, scaling.leakage),
    )
    penalty = physics.penalty(rng.uniform(0.1, 1.1, accelerator), knee=0.85, slope=0.1)
    temperature_c = rng.uniform(25.0, 90.0, (STAGES, ACCELERATORS, POINTS))
    return physics.predict(load, terms, temperature_c=temperature_c, penalty=penalty)


def main() -> None:
    rng = np.random.default_rng(1)
    evaluate(rng)
    elapsed_ms = []
    for _ in range(30):
        begin = time.perf_counter()
        result = evaluate(rng)
        elapsed_ms.append((time.perf_counter() - begin) * 1e3)
    count = result.energy.energy_j.size
    print(f"{count} evaluations: median {statistics.median(elapsed_ms):.1f} ms, best {min(elapsed_ms):.1f} ms")


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    main()
