"""Generates chain placement problems like those of a transformer decoder on an edge board, from fixed seeds.

Stages: an embedding, then attention and MLP alternating, then an output head. Costs follow a roofline with a launch
overhead, energies add switching and static shares; `jitter` makes equal layers unequal, as measurements do.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from agent.placement.problem import Problem

_KINDS = (
    # peak GFLOP/s, GB/s, launch µs, pJ/FLOP, pJ/byte, static W
    (600.0, 55.0, 4.0, 9.0, 62.0, 3.2),
    (9000.0, 110.0, 32.0, 2.2, 55.0, 4.4),
    (26000.0, 42.0, 90.0, 0.6, 48.0, 2.3),
    (5000.0, 38.0, 40.0, 1.4, 36.0, 1.9),
    (3000.0, 70.0, 25.0, 3.0, 45.0, 2.8),
    (12000.0, 30.0, 60.0, 0.9, 40.0, 1.6),
)


@dataclass(frozen=True)
class Spec:
    """One problem of the benchmark."""

    phase: str
    stages: int
    accelerators: int
    tight: bool
    jitter: float
    seed: int

    @property
    def name(self) -> str:
        memory = "tight" if self.tight else "loose"
        return f"{self.phase}_L{self.stages}_D{self.accelerators}_{memory}_j{round(self.jitter * 100)}_s{self.seed}"


def generate(spec: Spec) -> Problem:
    """The problem of a spec; the same spec gives the same bytes."""
    rng = np.random.default_rng(spec.seed)
    stages, count = spec.stages, spec.accelerators
    width = {12: 768, 26: 1024, 50: 1536}.get(stages, 1280)
    parameters = np.where(np.arange(stages) % 2 == 1, 4.0, 8.0) * width**2
    parameters[-1] = 32_000 * width
    weight_bytes = parameters * 0.56
    kinds = np.array(_KINDS[:count]) * rng.uniform(0.75, 1.3, (count, 6))
    phases = {"decode": ((1, 1),), "prefill": ((128, 1),), "mix": ((128, 1), (1, 32))}[spec.phase]
    latency, energy, num = (np.zeros((stages, count)) for _ in range(3))
    for tokens, repeats in phases:
        t, e, u = _phase(parameters, weight_bytes, kinds, tokens, width)
        wobble = 1.0 + spec.jitter * rng.standard_normal((2, stages, count)).clip(-2, 2)
        latency += repeats * t * wobble[0]
        num += repeats * t * u * np.minimum(wobble[0], 1.0)
        energy += repeats * e * wobble[1]
    passes = sum(repeats for _, repeats in phases)
    cut = ~np.eye(count, dtype=bool)
    hop_s = passes * 2.0 * rng.uniform(9e-6, 14e-6) + sum(n * r for n, r in phases) * width * 2 / 20e9
    links = np.broadcast_to(cut, (stages - 1, count, count))
    memory = np.repeat((weight_bytes / 2**17).round(2)[:, None], count, axis=1)
    memory[0] = memory[-1]
    total = memory[:, 0].sum()
    shares = (64.0, 0.45, 0.35, 0.3, 0.25, 0.2) if spec.tight else (64.0, 16.0, 8.0, 8.0, 8.0, 8.0)
    allowed = np.ones((stages, count), dtype=bool)
    allowed[:, 2:] = rng.random((stages, max(count - 2, 0))) > 0.08
    return Problem(
        latency=latency,
        energy=energy,
        busy_util_num=num,
        busy_den=latency,
        transfer_latency=links * hop_s,
        transfer_energy=links * hop_s * 2.4,
        memory=memory,
        capacity=np.array(shares[:count]) * total,
        allowed=allowed,
    )


def _phase(
    parameters: np.ndarray, weight_bytes: np.ndarray, kinds: np.ndarray, tokens: int, width: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    peak, bandwidth, launch, j_op, j_byte, static_w = kinds.T
    ops = 2.0 * parameters * tokens
    moved = weight_bytes + 8.0 * width * tokens
    moved[0], ops[0] = 8.0 * width * tokens, 2.0 * width * tokens
    compute = ops[:, None] / (peak * 1e9)
    memory = moved[:, None] / (bandwidth * 1e9)
    latency = np.maximum(compute, memory) + launch * 1e-6
    utilisation = np.minimum(1.0, compute / memory) * (1.0 - launch * 1e-6 / latency)
    energy = (ops[:, None] * j_op + moved[:, None] * j_byte) * 1e-12 + static_w * latency
    return latency, energy, utilisation


def specs(quick: bool = False) -> tuple[Spec, ...]:
    """The benchmark's problems."""
    rows = [
        (phase, stages, accelerators, tight, jitter)
        for stages, accelerators in ((12, 2), (12, 3), (12, 4), (26, 2), (26, 3), (26, 4), (50, 2), (50, 3), (50, 4))
        for phase, tight, jitter in (("decode", False, 0.0), ("mix", True, 0.05))
    ]
    rows += [
        (phase, stages, accelerators, tight, 0.02)
        for phase, stages, accelerators, tight in (
            ("prefill", 12, 4, True),
            ("prefill", 26, 3, False),
            ("mix", 26, 6, False),
            ("decode", 50, 6, True),
            ("prefill", 50, 4, False),
            ("mix", 100, 2, False),
            ("decode", 100, 3, True),
            ("mix", 100, 4, True),
            ("decode", 100, 6, False),
        )
    ]
    chosen = tuple(Spec(*row, seed=201 + at) for at, row in enumerate(rows))
    return chosen[:6] if quick else chosen
