"""A simulated scenario as data: costs, their uncertainty, claims, what they depend on, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from agent.simulation import references
from agent.simulation.document import simulate
from tests.simulation import board

Document = dict[str, Any]


def quiet(what: str, step: int, steps: int) -> None:
    """Progress that nobody watches."""


def run(folder: Path, profile: dict[str, Any] | None = None, **changes: Any) -> Document:
    return simulate(references.load(board.write(folder, board.scenario_data(**changes), profile)), quiet)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Document:
    return run(tmp_path_factory.mktemp("full"), claims=board.CLAIMS, sensitivity=board.SENSITIVITY)


def row(document: Document, phase: str, placement: str, at: int = 0) -> dict[str, Any]:
    (found,) = (r for r in document["boards"][at]["rows"] if (r["phase"], r["placement"]) == (phase, placement))
    return dict(found)


def why(document: Document) -> str:
    return "\n".join(document["boards"][0]["explanation"])


def test_every_phase_and_placement_has_a_row(full: Document) -> None:
    rows = [(r["phase"], r["placement"]) for r in full["boards"][0]["rows"]]

    assert rows == [
        (phase, placement)
        for phase in ("prefill", "decode", "request")
        for placement in ("single:gpu", "single:npu", "greedy", "pgsam")
    ]


def test_every_number_is_labelled_modelled(full: Document) -> None:
    assert full["provenance"] == "modelled"
    assert {r["provenance"] for r in full["boards"][0]["rows"]} == {"modelled"}
    assert {c["provenance"] for c in full["boards"][0]["claims"]} == {"modelled"}
    assert {m["provenance"] for m in full["means"]} == {"modelled"}


def test_changes_are_against_the_baseline_of_the_same_phase(full: Document) -> None:
    for phase in ("prefill", "decode", "request"):
        base, other = row(full, phase, "single:gpu"), row(full, phase, "single:npu")

        assert base["energy_change"] == base["latency_change"] == 0.0
        assert other["energy_change"] == pytest.approx(other["energy_j"] / base["energy_j"] - 1)
        assert other["latency_change"] == pytest.approx(other["latency_s"] / base["latency_s"] - 1)
        assert other["power_w"] == pytest.approx(other["energy_j"] / other["latency_s"])


def test_a_request_is_its_prefill_and_a_decode_for_each_token(full: Document) -> None:
    prefill, decode, whole = (row(full, phase, "single:npu") for phase in ("prefill", "decode", "request"))

    assert whole["energy_j"] == pytest.approx(prefill["energy_j"] + 8 * decode["energy_j"])


def test_the_same_seed_gives_the_same_bytes(full: Document, tmp_path: Path) -> None:
    again = run(tmp_path, claims=board.CLAIMS, sensitivity=board.SENSITIVITY)

    assert json.dumps(again) == json.dumps(full)


def test_energy_is_as_uncertain_as_its_coefficients(tmp_path: Path) -> None:
    """All energies ± 30 % and nothing else: all joules of one accelerator's memory and arithmetic lie within that."""
    profile = board.data()
    for item in profile["accelerators"]:
        item["base_power_w"] = board.quantity(1e-12, 0.3)
        item["energy_j_per_flop"]["fp16"]["rel_uncertainty"] = 0.3
    for domain in profile["memory_domains"]:
        domain["energy_j_per_byte"]["rel_uncertainty"] = 0.3

    found = row(run(tmp_path, profile), "decode", "single:gpu")

    assert 0.3 / 2**0.5 - 1e-6 <= found["energy_rel_uncertainty"] <= 0.3 + 1e-6


def test_a_shared_coefficient_cancels_from_a_change(tmp_path: Path) -> None:
    """CPU and NPU read the same memory: if its energy alone is uncertain and decides all, the change is certain."""
    profile = board.data()
    for item in profile["accelerators"]:
        item["base_power_w"] = board.quantity(1e-12)
        item["energy_j_per_flop"]["fp16"] = board.quantity(1e-30)
    placements = ["single:cpu", "single:npu"]

    found = row(run(tmp_path, profile, placements=placements, baseline="single:cpu"), "decode", "single:npu")

    assert found["energy_rel_uncertainty"] == pytest.approx(0.2, rel=1e-6)
    assert (found["energy_change_uncertainty"] or 0.0) < 1e-9


def test_latency_has_no_uncertainty_unless_every_speed_states_one(full: Document, tmp_path: Path) -> None:
    profile = board.data()
    for item in profile["accelerators"]:
        item["peak_flops_per_s"]["fp16"]["rel_uncertainty"] = 0.1
        item["runtimes"][0]["bandwidth_efficiency"] = board.quantity(0.6, 0.1)
        item["runtimes"][0]["compute_efficiency"] = [
            {"family": "gemm", "precision": "fp16", "share": board.quantity(0.5, 0.1)}
        ]
    for domain in profile["memory_domains"]:
        domain["bandwidth_bytes_per_s"]["rel_uncertainty"] = 0.1
    profile["links"][0]["bandwidth_bytes_per_s"]["rel_uncertainty"] = 0.1

    known = run(tmp_path, profile)

    assert row(full, "decode", "single:npu")["latency_rel_uncertainty"] is None
    # bandwidth and the share of it, each 10 %, one after the other only ever faster: 1 − 1/1.1 each
    assert row(known, "decode", "single:npu")["latency_rel_uncertainty"] == pytest.approx(2**0.5 / 11, rel=0.05)
    profile["memory_domains"][0]["bandwidth_bytes_per_s"]["rel_uncertainty"] = None
    assert row(run(tmp_path, profile), "decode", "single:npu")["latency_rel_uncertainty"] is None


def test_claims_stand_beside_the_mean_with_a_verdict(full: Document) -> None:
    energy, latency, modest = full["boards"][0]["claims"]
    ours = row(full, "request", "pgsam")["energy_change"]

    assert energy["modelled"] == {"mean": ours, "low": ours, "high": ours, "models": 1}
    assert energy["met"] is False
    assert latency["met"] is False
    assert modest["met"] is (ours <= -0.0001)
    assert energy["bound"]["mean"] <= ours


def test_the_explanation_says_how_far_off_it_is_and_where(full: Document) -> None:
    text = why(full)
    claim = full["boards"][0]["claims"][0]
    points = abs(100 * (claim["modelled"]["mean"] + 0.999))

    assert f"a paper: -99.9 % energy; modelled here: {100 * claim['modelled']['mean']:+.1f} %" in text
    assert f"{points:.1f} percentage points short of it" in text
    assert "does not go as far either" in text
    assert "Decode is " in text
    assert "bound by memory" in text
    assert "Least energy there" in text
    assert "theirs was another day" in text
    assert "Of the assumptions tried, " in text


def test_a_claim_that_is_met_is_said_to_be(tmp_path: Path) -> None:
    claim = board.CLAIMS[0] | {"placement": "single:npu", "quantity": "latency", "change": 1e-6}

    document = run(tmp_path, claims=[claim])

    assert document["boards"][0]["claims"][0]["met"] is True
    assert "which goes as far" in why(document)


def test_a_claim_against_another_than_the_baseline_has_no_uncertainty_of_its_own(tmp_path: Path) -> None:
    claim = board.CLAIMS[0] | {"relative_to": "single:npu"}

    document = run(tmp_path, claims=[claim])

    found = document["boards"][0]["claims"][0]
    pgsam, npu = row(document, "request", "pgsam"), row(document, "request", "single:npu")
    assert found["uncertainty"] is None
    assert found["modelled"]["mean"] == pytest.approx(pgsam["energy_j"] / npu["energy_j"] - 1)


def test_swings_come_widest_first(full: Document) -> None:
    found = full["boards"][0]["sensitivity"]
    widths = [abs(s["energy_change"][1] - s["energy_change"][0]) for s in found]

    assert {s["vary"] for s in found} == {a["vary"] for a in board.SENSITIVITY["assumptions"]}  # type: ignore[index]
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > 0


def test_an_assumption_without_effect_says_why_and_keeps_the_change(full: Document) -> None:
    (heat,) = (s for s in full["boards"][0]["sensitivity"] if s["vary"] == "temperature_c")
    ours = row(full, "request", "pgsam")["energy_change"]

    assert heat["unaffected"] == "the profile has no leakage coefficients"
    assert heat["energy_change"] == [ours, ours]


def test_heat_moves_the_change_where_one_accelerator_leaks(tmp_path: Path) -> None:
    profile = board.data()
    profile["accelerators"][2]["leakage"] = {
        "power_w": board.quantity(20.0), "activation_energy_ev": board.quantity(0.3),
    }  # fmt: skip
    heat = board.SENSITIVITY["assumptions"][-1]  # type: ignore[index]

    document = run(tmp_path, profile, sensitivity={"placement": "single:npu", "assumptions": [heat]})

    (swing,) = document["boards"][0]["sensitivity"]
    assert swing["unaffected"] is None
    assert swing["energy_change"][1] > swing["energy_change"][0]


def test_longer_answers_move_a_request_towards_its_decode(tmp_path: Path) -> None:
    (longer,) = (a for a in board.SENSITIVITY["assumptions"] if a["vary"] == "generated_tokens_factor")  # type: ignore[index]
    wide = longer | {"low": 0.125, "high": 1000.0}

    document = run(tmp_path, sensitivity={"placement": "single:npu", "assumptions": [wide]})

    (swing,) = document["boards"][0]["sensitivity"]
    decode = row(document, "decode", "single:npu")["energy_change"]
    assert swing["energy_change"][1] == pytest.approx(decode, abs=1e-3)
    assert swing["energy_change"][0] != pytest.approx(decode, abs=1e-3)


def test_a_board_where_nothing_fits_says_so_everywhere(tmp_path: Path) -> None:
    workload = {"model": "llama-3.1-8b", "prompt_tokens": 32, "generated_tokens": 8}

    document = run(
        tmp_path, board.data(dram_bytes=1e9, vram_bytes=1e9), workloads=[workload], claims=board.CLAIMS[:1],
        sensitivity=board.SENSITIVITY,
    )  # fmt: skip

    found = row(document, "request", "pgsam")
    assert found["feasible"] is False
    assert found["why_not"].startswith("prefill: ")
    assert "energy_j" not in found
    assert document["boards"][0]["sensitivity"] == []
    assert document["boards"][0]["claims"][0]["met"] is None
    assert "nothing compares" in why(document)
    assert "there are no changes to explain" in why(document)
    assert all(m["energy_change"] is None for m in document["means"])


def test_a_model_that_fits_only_beside_the_baseline_keeps_its_costs(tmp_path: Path) -> None:
    document = run(tmp_path, board.data(vram_bytes=1e8), claims=board.CLAIMS[:1])

    assert row(document, "request", "single:gpu")["feasible"] is False
    assert row(document, "request", "single:npu")["feasible"] is True
    assert row(document, "request", "single:npu")["energy_change"] is None


def test_a_vision_model_is_one_pass_and_no_request(tmp_path: Path) -> None:
    document = run(tmp_path, workloads=[{"model": "mobilenet-v2", "phases": ["forward"], "precision": "fp16"}])

    assert {r["phase"] for r in document["boards"][0]["rows"]} == {"forward"}
    assert "Forward is 100 % of the energy" in why(document)


def test_a_baseline_that_is_a_search_is_explained_without_its_memory(tmp_path: Path) -> None:
    text = why(run(tmp_path, baseline="greedy"))

    assert "under greedy" in text
    assert "is the fastest on" not in text


def test_progress_tells_what_is_done_and_how_far(tmp_path: Path) -> None:
    said: list[tuple[str, int, int]] = []
    path = board.write(tmp_path, board.scenario_data(sensitivity=board.SENSITIVITY))

    simulate(references.load(path), lambda *step: said.append(step))

    assert said[:2] == [("bench: gpt2-125m, prefill", 0, 2), ("bench: gpt2-125m, decode", 1, 2)]
    assert ("bench: how certain, gpu base_power_w", 0, 0) in said
    assert ("bench: what if, temperature_c", 0, 0) in said
