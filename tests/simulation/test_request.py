"""A request costs its passes, each as often as it runs, and what it takes to go from one to the next."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import PlacementError
from agent.placement.tables import Tables, make_tables
from agent.schema.device import DeviceProfile
from agent.schema.scenario import ScenarioWorkload
from agent.simulation.cases import Case, make_case
from agent.simulation.placing import Rows
from agent.simulation.request import Cost, pass_cost, request_cost
from tests.simulation.board import POLICY, board


def case(tokens: int = 8, model: str = "gpt2-125m") -> Case:
    return make_case(ScenarioWorkload(model=model, prompt_tokens=32, generated_tokens=tokens))


def all_on(tables: list[Tables], *names: str) -> list[Rows]:
    return [
        np.full(t.problem.stage_count, t.problem.accelerators.index(name), dtype=np.int8)
        for t, name in zip(tables, names, strict=True)
    ]


def tables_of(asked: Case, profile: DeviceProfile) -> list[Tables]:
    return [make_tables(w, profile, POLICY) for w in asked.passes]


def test_decode_counts_once_for_each_generated_token() -> None:
    profile, asked = board(), case(tokens=8)
    tables = tables_of(asked, profile)
    rows = all_on(tables, "gpu", "gpu")

    found = request_cost(asked, profile, POLICY, tables, rows)

    prefill, decode = (pass_cost(t, r) for t, r in zip(tables, rows, strict=True))
    assert found.energy_j == pytest.approx(prefill.energy_j + 8 * decode.energy_j)
    assert found.latency_s == pytest.approx(prefill.latency_s + 8 * decode.latency_s)


def test_a_cache_that_changes_memory_crosses_the_link_once() -> None:
    profile, asked = board(), case()
    tables = tables_of(asked, profile)
    rows = all_on(tables, "npu", "gpu")

    found = request_cost(asked, profile, POLICY, tables, rows)

    prefill, decode = (pass_cost(t, r) for t, r in zip(tables, rows, strict=True))
    # 12 layers × keys and values × 768 wide × 2 bytes × 32 positions
    cache_bytes = 12 * 2 * 768 * 2 * 32
    assert found.energy_j - prefill.energy_j - 8 * decode.energy_j == pytest.approx(cache_bytes * 1e-10, rel=0.05)
    assert found.latency_s - prefill.latency_s - 8 * decode.latency_s == pytest.approx(
        cache_bytes / 1e10 + 1e-5, rel=0.05
    )


def test_a_cache_that_stays_in_its_memory_moves_nowhere() -> None:
    profile, asked = board(), case()
    tables = tables_of(asked, profile)
    rows = all_on(tables, "npu", "cpu")

    found = request_cost(asked, profile, POLICY, tables, rows)

    prefill, decode = (pass_cost(t, r) for t, r in zip(tables, rows, strict=True))
    assert found.energy_j == pytest.approx(prefill.energy_j + 8 * decode.energy_j)


def test_weights_wanted_in_one_memory_are_held_once() -> None:
    """Prefill and decode share their weights: what fits one fits both on the same accelerators."""
    asked = case(model="llama-3.2-1b")
    profile = board(vram_bytes=3.2e9)
    tables = tables_of(asked, profile)

    assert request_cost(asked, profile, POLICY, tables, all_on(tables, "gpu", "gpu")).energy_j > 0


def test_passes_that_fit_alone_but_not_together_are_refused() -> None:
    """Half of the weights in vram for prefill and the other half for decode: all of them at once do not fit."""
    asked = case(model="llama-3.2-1b")
    profile = board(vram_bytes=2.0e9)
    tables = tables_of(asked, profile)
    halves = []
    for index, (workload, table) in enumerate(zip(asked.passes, tables, strict=True)):
        sizes = np.cumsum([s.weight_bytes + s.idle_weight_bytes for s in workload.stages])
        late = sizes > sizes[-1] * 0.5
        gpu, npu = (table.problem.accelerators.index(n) for n in ("gpu", "npu"))
        halves.append(np.where(late if index else ~late, gpu, npu).astype(np.int8))
    for table, row in zip(tables, halves, strict=True):
        assert table.problem.feasible(row)[0]

    with pytest.raises(PlacementError, match=r"its passes do not fit vram together: .* GB of memory short"):
        request_cost(asked, profile, POLICY, tables, halves)


def test_a_single_pass_hands_nothing_over() -> None:
    profile = board()
    asked = make_case(ScenarioWorkload(model="gpt2-125m", prompt_tokens=32, phases=("prefill",)))
    tables = tables_of(asked, profile)
    rows = all_on(tables, "gpu")

    assert request_cost(asked, profile, POLICY, tables, rows) == pass_cost(tables[0], rows[0])


def test_power_is_energy_over_time() -> None:
    assert Cost(6.0, 2.0).power_w == 3.0
    assert Cost(0.0, 0.0).power_w == 0.0


def test_decode_is_taken_in_the_middle_of_the_answer() -> None:
    middle = make_case(ScenarioWorkload(model="gpt2-125m", prompt_tokens=32, generated_tokens=8)).passes[1]
    later = make_case(ScenarioWorkload(model="gpt2-125m", prompt_tokens=36, generated_tokens=1)).passes[1]

    assert [s.kv_bytes for s in middle.stages] == [s.kv_bytes for s in later.stages]
