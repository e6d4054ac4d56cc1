"""Every named placement is an assignment of stages, or a reason why the board has none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from agent.schema.device import DeviceProfile
from agent.schema.scenario import ScenarioWorkload
from agent.simulation.cases import make_case
from agent.simulation.placing import Placed, place
from tests.simulation.board import POLICY, board, data

ALL = ("single:gpu", "single:cpu", "single:npu", "greedy", "pgsam", "least-energy", "least-latency")


def placed(profile: DeviceProfile, policy: Any = POLICY, model: str = "gpt2-125m", **asked: Any) -> Placed:
    workload = make_case(ScenarioWorkload(model=model, prompt_tokens=32, phases=("prefill",), **asked)).passes[0]
    return place(workload, profile, policy, ALL, seed=1, evaluations=500)


def test_all_on_one_accelerator_is_that() -> None:
    found = placed(board())

    assert found.tables is not None
    names = found.tables.problem.accelerators
    assert {names[a] for a in found.rows["single:npu"]} == {"npu"}
    assert {names[a] for a in found.rows["single:gpu"]} == {"gpu"}


def test_the_ends_of_the_front_bound_every_other_placement() -> None:
    found = placed(board())

    assert found.tables is not None
    costs = {name: found.tables.problem.objectives(row)[0] for name, row in found.rows.items()}
    assert set(costs) == set(ALL)
    assert all(costs["least-energy"][0] <= c[0] * (1 + 1e-9) for c in costs.values())
    assert all(costs["least-latency"][1] <= c[1] * (1 + 1e-9) for c in costs.values())


def test_pgsam_is_a_point_of_the_front() -> None:
    found = placed(board())

    assert found.front is not None
    assert (found.front == found.rows["pgsam"]).all(axis=1).any()


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = placed(board()), placed(board())

    assert first.front is not None
    assert second.front is not None
    assert first.front.tobytes() == second.front.tobytes()


def test_an_accelerator_the_board_lacks_is_said() -> None:
    small = data()
    small["accelerators"] = [a for a in small["accelerators"] if a["name"] != "npu"]

    found = placed(DeviceProfile.model_validate(small))

    assert found.why == {"single:npu": "this board has no npu"}


def test_an_accelerator_that_cannot_compute_the_model_says_so() -> None:
    other = data()
    other["accelerators"][2] |= {
        "peak_flops_per_s": {"int8": other["accelerators"][2]["peak_flops_per_s"]["fp16"]},
        "energy_j_per_flop": {"int8": other["accelerators"][2]["energy_j_per_flop"]["fp16"]},
    }

    found = placed(DeviceProfile.model_validate(other))

    assert "needs converting first" in found.why["single:npu"]
    assert "pgsam" in found.rows


def test_one_memory_too_small_leaves_the_others() -> None:
    found = placed(board(vram_bytes=1e8))

    assert found.why["single:gpu"].startswith("does not fit: ")
    assert found.why["single:gpu"].endswith(" GB of memory short")
    assert "single:npu" in found.rows


def test_a_model_that_fits_nowhere_says_by_how_much() -> None:
    found = placed(board(dram_bytes=1e9, vram_bytes=1e9), model="llama-3.1-8b")

    assert found.rows == {}
    assert found.front is None
    assert all("memory" in found.why[name] for name in ALL)


def test_nothing_left_by_the_policy_says_why() -> None:
    rules = tuple({"model": "*", "accelerator": name} for name in ("gpu", "cpu", "npu"))
    policy = type(POLICY).model_validate(POLICY.model_dump() | {"forbidden": rules})

    found = placed(board(), policy)

    assert found.tables is None
    assert "forbidden by the policy" in found.why["pgsam"]


def test_a_deadline_nobody_keeps_is_a_reason() -> None:
    admission = POLICY.admission.model_copy(update={"default_deadline_s": 1e-9})

    found = placed(board(), POLICY.model_copy(update={"admission": admission}))

    assert "deadline_s" in found.why["pgsam"]
    assert "least-energy" in found.rows


@pytest.mark.parametrize("precision", ["fp16", "int4"])
def test_narrow_weights_are_computed_in_a_wider_type(precision: str) -> None:
    assert np.isin("pgsam", list(placed(board(), precision=precision).rows))
