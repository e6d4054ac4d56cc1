"""`qeil plan --problem` and `qeil explain`: choice, baselines, drawing, limits and flips as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from onnx import TensorProto, helper, save

from agent.cli.explain_text import around, flip_sentence, phase_sentence, print_phases
from agent.cli.main import run
from agent.errors import PlacementError
from agent.storage import share

PROBLEM = Path(__file__).parents[1] / "placement" / "data" / "decode_L12_D2_loose_j0_s101.npz"
BOARD = ("--profile", "core-ultra-285hx-npu-rtx-pro-5000", "--phase", "prefill")


@pytest.fixture(autouse=True)
def _state(tmp_path, monkeypatch):
    monkeypatch.setenv("QEIL_STATE_DIR", str(tmp_path / "state"))


def ok(capsys, *arguments: str) -> str:
    assert run(arguments) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def test_own_tables_are_drawn_with_choice_and_baselines(capsys, tmp_path):
    target = tmp_path / "front.svg"
    assert run(["plan", "--problem", str(PROBLEM), "--plot", str(target), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["chosen"]["assignment"] in [p["assignment"] for p in document["front"]]
    assert {"greedy", "single:0", "single:1"} <= set(document["baselines"])
    drawn = target.read_text()
    for text in ("chosen = greedy = single:0", "under-utilisation", "latency [ms]"):
        assert f"<!-- {text} -->" in drawn


def test_own_tables_under_a_cap_that_nothing_keeps_have_a_front_but_no_choice(capsys, tmp_path):
    policy = tmp_path / "tiny.yaml"
    policy.write_text(share.find_policy("battery").read_text().replace("power_cap_w: 7", "power_cap_w: 0.1"))
    assert run(["plan", "--problem", str(PROBLEM), "--policy", str(policy)]) == 0
    text = capsys.readouterr().out
    assert "Pareto front: 16 placements" in text
    assert "nothing; no placement keeps power_cap_w 0.1 W" in text


def test_explain_prices_the_cap_that_binds(capsys):
    asked = ("explain", "gpt2-125m", *BOARD, "--power-cap-w", "40")
    document = json.loads(ok(capsys, *asked, "--json"))
    (bound,) = document["binding"]
    assert (bound["limit"], bound["now"], bound["then"]) == ("power_cap_w", 40.0, "gpu")
    assert bound["least"]["at"] > bound["least"]["holds"] > 40.0
    assert bound["latency_s"] < 0
    text = ok(capsys, *asked)
    assert "binds: power_cap_w 40 W: without it, gpu; that saves" in text
    at = bound["least"]["at"]
    assert f". {at:.12g} W, about {at - 40.0:.4g} W more, already saves" in text
    assert "left out: gpu: draws" in text


def test_explain_names_the_board_it_took_where_nobody_named_one(capsys, monkeypatch):
    monkeypatch.setenv("QEIL_PROFILE", "raspberry-pi-5")
    assert "on raspberry-pi-5, the board of the settings (--profile NAME for another)" in ok(
        capsys, "explain", "mobilenet-v2"
    )
    assert run(["explain", "mobilenet-v2", "--free", "dram=1"]) == 1
    text = capsys.readouterr().err
    assert text.startswith("qeil: raspberry-pi-5, the board of the settings, under policy balanced: cpu: needs ")
    assert run(["explain", "mobilenet-v2", "--lost", "cpu"]) == 1
    assert "cpu of raspberry-pi-5 is lost" in capsys.readouterr().err


@pytest.mark.parametrize("value", [0.90123, 2.0 / 3.0, 1.5e-4, 12345.678901])
def test_the_value_of_a_flip_is_printed_as_it_was_tried(value):
    flip = {"kind": "constraint", "what": "deadline_s", "unit": "", "now": 1.0, "at": value, "then": "gpu",
            "energy_j": None, "latency_s": -1.0, "certain": True}  # fmt: skip
    said = flip_sentence(flip)
    assert float(said.partition(" to ")[2].partition(":")[0]) == pytest.approx(value, rel=1e-11)
    factor = flip_sentence(flip | {"kind": "coefficient", "now": 2.0, "at": 2.0 * value})
    assert 1.0 + float(factor.split()[1]) / 100.0 == pytest.approx(value, rel=1e-9)
    set_to = flip_sentence(flip | {"now": None, "unit": "s"})
    number, unit = set_to.partition(" set to ")[2].partition(":")[0].split()
    assert float(number) * {"ms": 1e-3, "s": 1.0}[unit] == pytest.approx(value, rel=1e-11)


def test_explain_says_which_line_of_the_profile_a_joule_comes_from(capsys):
    document = json.loads(ok(capsys, "explain", "gpt2-125m", *BOARD, "--json"))
    path = share.find_profile(BOARD[1])
    lines = path.read_text().splitlines()
    seen = 0
    for placement in document["placements"]:
        for row in placement["coefficients"]:
            assert row["stands"] or row["provenance"] == "assumed"
            if row["line"] is not None:
                seen += 1
                assert row["file"] == path.name
                assert lines[row["line"] - 1].strip().startswith("value:")
                assert float(lines[row["line"] - 1].split(":")[1]) == row["value"]
    assert seen > 10


def test_explain_agrees_with_plan_and_names_a_runner_up(capsys):
    planned = json.loads(ok(capsys, "plan", "gpt2-125m", *BOARD, "--json"))
    explained = json.loads(ok(capsys, "explain", "gpt2-125m", *BOARD, "--json"))
    assert explained["chosen"] == planned["served"]["accelerator"]
    assert explained["runner_up"]["name"] == planned["served"]["then"][0]
    assert explained["choice"]["energy_j"] == pytest.approx(planned["served"]["energy_j"])
    assert any(f["kind"] == "weight" for f in explained["flips"])
    assert all(f["place"] for f in explained["flips"] if f["kind"] == "coefficient")


def test_plan_and_explain_say_that_they_predict_and_who_decides_then(capsys):
    for command in ("plan", "explain"):
        said = ok(capsys, command, "resnet-50", *BOARD[:2])
        assert "a running agent times the placements that it has loaded" in said
    assert "128 written ones together" in ok(capsys, "explain", "gpt2-125m", *BOARD, "--phase", "decode")


def test_a_tie_is_called_one_and_shows_no_rounding_of_the_search():
    flip = {
        "what": "energy per operation in fp32", "kind": "coefficient", "unit": "J", "now": 1e-10,
        "at": 1e-10 * (1 - 7.8e-16), "then": "cpu-eco", "energy_j": None, "latency_s": None, "certain": True,
    }  # fmt: skip
    assert flip_sentence(flip) == "energy per operation in fp32: a tie, any change of it decides: cpu-eco"
    assert "-1 %" in flip_sentence(flip | {"at": 0.99e-10})


def test_explain_of_own_tables_agrees_with_plan(capsys):
    planned = json.loads(ok(capsys, "plan", "--problem", str(PROBLEM), "--json"))
    explained = json.loads(ok(capsys, "explain", "--problem", str(PROBLEM), "--json"))
    assert explained["assignment"] == planned["chosen"]["assignment"]
    assert sum(p["energy_j"] for p in explained["parts"]) == pytest.approx(planned["chosen"]["energy_j"])
    text = ok(capsys, "explain", "--problem", str(PROBLEM), "--deadline-ms", "3.5", "--power-cap-w", "9")
    assert "runner-up: " in text
    assert "would change it: " in text


@pytest.mark.parametrize(
    ("apart", "known", "told"),
    [
        (1e-15, True, "in the other form, switching / Φ from operations, bytes and powers: 2 J, the same to rounding"),
        (1e-15, False, "powers (its leakage is unknown: base power alone): 2 J, the same to rounding"),
        (0.02, True, "2 J, 0.02 of it apart: one of the forms is wrong"),
    ],
)
def test_both_forms_of_the_energy_are_compared_aloud(apart, known, told):
    nothing = dict.fromkeys(
        ("intensity_flops_per_byte", "ridge_flops_per_byte", "beside", "thriftiest", "settled"), None
    )
    about = {**nothing, "energy_by_yield_j": 2.0, "forms_apart": apart, "leakage_known": known}

    (sentence,) = around({"surroundings": about})

    assert sentence.endswith(told)
    assert sentence.startswith("‼") == (apart > 1e-9)


def test_explain_wants_one_thing_to_explain(capsys):
    assert run(["explain"]) == 2
    assert "--problem" in capsys.readouterr().err


def test_a_deadline_that_nothing_keeps_is_an_error_with_the_relaxation(capsys):
    assert run(["explain", "--problem", str(PROBLEM), "--deadline-ms", "1"]) == 1
    error = capsys.readouterr().err
    assert "no placement keeps deadline_s 0.001 s; 0.003" in error
    assert len(error.strip().splitlines()) == 1


def test_losses_and_sizes_are_explained_as_they_are_planned(capsys):
    asked = ("llama-3.2-1b", "--profile", "jetson-agx-orin", "--phase", "decode", "--prompt-tokens", "256")
    planned = json.loads(ok(capsys, "plan", *asked, "--json"))
    assert json.loads(ok(capsys, "explain", *asked, "--json"))["choice"]["energy_j"] == pytest.approx(
        planned["served"]["energy_j"]
    )
    lost = json.loads(ok(capsys, "explain", *asked, "--lost", "gpu", "--json"))
    assert (lost["chosen"], lost["runner_up"]) == ("cpu", None)
    assert {"accelerator": "gpu", "why": "it does not answer"} in lost["rejected"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("gpt2-125m", "--profile", "jetson-agx-orin", "--lost", "gpy"), "there is no 'gpy' among gpu, dla, cpu"),
        (("gpt2-125m", "--temperature", "gpu:80"), "write NAME=NUMBER"),
        (("gpt3-125m",), "did you mean gpt2-125m?"),
        (("--problem", str(PROBLEM), "--prompt-tokens", "4"), "--prompt-tokens: for a MODEL"),
        (("--problem", "/none.npz"), "No such file"),
    ],
)
def test_what_cannot_be_explained_is_one_line(capsys, arguments, words):
    assert run(["explain", *arguments]) in (1, 2, 78)
    assert words in capsys.readouterr().err


def test_a_model_of_the_settings_is_explained_by_its_name(capsys, tmp_path):
    path = tmp_path / "relu.onnx"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 64]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "relu", ends[:1], ends[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    config = tmp_path / "agent.yaml"
    config.write_text(f"version: 1\nstate_dir: {tmp_path}\nmodels:\n  - name: detector\n    path: {path}\n")
    found = json.loads(ok(capsys, "explain", "detector", *BOARD[:2], "--config", str(config), "--json"))
    assert (found["model"], found["board"]) == ("relu", BOARD[1])
    assert not any("--config FILE" in note for note in found["notes"])


def test_without_settings_it_is_said_whose_calibration_counts(capsys, tmp_path):
    for command in ("plan", "explain"):
        text = ok(capsys, command, "gpt2-125m", *BOARD[:2])
        assert f"note: not calibrated: nothing for this board in {tmp_path}" in text


def test_without_timings_two_plans_are_the_same_bytes(capsys):
    for ask in (("--problem", str(PROBLEM)), ("gpt2-125m", *BOARD, "--lost", "igpu")):
        first, second = (ok(capsys, "plan", *ask, "--json", "--no-timings") for _ in range(2))
        assert first == second
        assert "_ms" not in first


def test_the_choice_for_prefill_and_for_decode_is_told_for_each(capsys):
    asked = ("explain", "gpt2-125m", "--profile", "raspberry-pi-5", "--phase", "both", "--prompt-tokens", "64")
    document = json.loads(ok(capsys, *asked, "--json"))
    prefill, decode = document["phases"]
    assert (document["phase"], prefill["phase"], decode["phase"]) == ("both", "prefill", "decode")
    for one in (prefill, decode):
        assert {"choice", "runner_up", "binding", "flips", "why"} <= set(one)
    assert prefill["choice"]["latency_s"] > decode["choice"]["latency_s"]
    print_phases([prefill, decode], False)
    text = capsys.readouterr().out
    for one in (prefill, decode):
        assert f"gpt2-125m, {one['phase']}, on raspberry-pi-5" in text
        assert f"\n{one['phase']}: {one['chosen']}, " in text
    assert "bound by memory; nothing else may be chosen" in text.rpartition("decode: ")[2]


def test_a_plan_of_both_phases_says_of_each_what_explain_says_of_it(capsys):
    asked = ("gpt2-125m", "--profile", "raspberry-pi-5", "--phase", "both", "--prompt-tokens", "64")
    explained = json.loads(ok(capsys, "explain", *asked, "--json"))
    planned = json.loads(ok(capsys, "plan", *asked, "--json"))
    assert planned["phases"] == explained["phases"]
    text = ok(capsys, "plan", *asked)
    for phase in explained["phases"]:
        assert f"\n  {phase_sentence(phase)}\n" in text


def test_a_plan_of_both_phases_stands_where_none_fits_an_accelerator_whole(monkeypatch, capsys):
    def nowhere(*_):
        raise PlacementError("no accelerator may hold all of it")

    monkeypatch.setattr("agent.cli.explain._document", nowhere)
    planned = json.loads(ok(capsys, "plan", "gpt2-125m", *BOARD[:2], "--phase", "both", "--json"))
    assert planned["phases"] == []
    assert planned["chosen"]["stages"]
    assert "no phase is explained by itself: no accelerator may hold all of it" in planned["notes"]


def test_a_phase_says_what_binds_it_and_what_its_runner_up_saves_and_costs():
    entry = {"accelerator": "gpu", "time_s": 0.02, "compute_bound_s": 0.015, "memory_bound_s": 0.004,
             "launches_s": 0.0, "overhead_s": 0.001}  # fmt: skip
    one = {
        "phase": "prefill", "chosen": "gpu", "placements": [{"accelerator": "cpu"}, entry],
        "choice": {"name": "gpu", "energy_j": 0.5, "latency_s": 0.02},
        "runner_up": {"name": "cpu", "energy_j": 0.4, "latency_s": 0.05},
    }  # fmt: skip
    said = phase_sentence(one)
    assert said == "prefill: gpu, 75% of its 20 ms bound by arithmetic; next is cpu: saves 0.1 J, costs 30 ms"
