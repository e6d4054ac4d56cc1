"""`qeil plan MODEL` from outside: phases, operating points, losses, state, sizes, goals, and bad input in one line."""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import pytest
import yaml

from agent.cli.main import run
from agent.cli.plan_show import show_front
from agent.storage import share
from tests.integration.agent_process import FACE, model_file
from tests.workload.runnable import decoder

BOARD = ("--profile", "jetson-orin-nx")


@pytest.fixture(autouse=True)
def _state(tmp_path, monkeypatch):
    monkeypatch.setenv("QEIL_STATE_DIR", str(tmp_path / "state"))


def ok(capsys, *arguments: str) -> str:
    assert run(["plan", *arguments]) == 0, capsys.readouterr().err
    return capsys.readouterr().out


def document(capsys, *arguments: str) -> dict:
    return json.loads(ok(capsys, *arguments, "--json"))


def refused(capsys, *arguments: str) -> str:
    assert run(["plan", *arguments]) != 0
    text = capsys.readouterr().err
    assert "Traceback" not in text
    return text


def test_a_request_of_a_language_model_may_split_its_phases(capsys):
    asked = ("gpt2-125m", *BOARD, "--phase", "both", "--generate-tokens", "16", "--prompt-tokens", "64")
    found = document(capsys, *asked)
    assert found["phase"] == "both"
    assert found["accelerators"] == ["gpu", "gpu>cpu", "cpu>gpu", "cpu"]
    assert set(found["chosen"]["stages"][0]) == {"stage", "accelerator", "prefill", "decode"}
    parts = found["request"]
    total_s = parts["prefill_s"] + 16 * parts["token_s"] + parts["hand_over_s"]
    assert found["chosen"]["latency_s"] == pytest.approx(total_s)
    assert "tokens: " in ok(capsys, *asked)


def test_sizes_that_nobody_gave_are_said_and_those_given_are_not(capsys):
    notes = " ".join(document(capsys, "bert-base", *BOARD)["notes"])
    assert "128 tokens of input assumed" in notes
    assert "precision fp32 assumed" in notes
    given = document(capsys, "bert-base", *BOARD, "--prompt-tokens", "384", "--precision", "int8")
    assert "assumed;" not in " ".join(given["notes"])
    assert "cache, assumed" in " ".join(document(capsys, "gpt2-125m", *BOARD, "--phase", "decode")["notes"])


def test_more_work_takes_longer(capsys):
    times = [
        document(capsys, "bert-base", *BOARD, "--method", "single:gpu", *more)["chosen"]["latency_s"]
        for more in ((), ("--batch", "4"), ("--prompt-tokens", "512"))
    ]
    assert times[0] < min(times[1:])


def test_precision_brings_chips_of_integers_in(capsys):
    assert "dla" not in document(capsys, "resnet-50", *BOARD)["accelerators"]
    assert "dla" in document(capsys, "resnet-50", *BOARD, "--precision", "int8")["accelerators"]


def test_operating_points_are_choices_of_which_one_holds_at_a_time(capsys):
    found = document(capsys, "mobilenet-v2", *BOARD, "--operating-points", "--budget-ms", "400")
    names = found["accelerators"]
    assert "gpu@10w" in names
    for point in found["front"]:
        modes = {names[i].partition("@")[2] for i in point["assignment"] if names[i] != "dla"}
        assert len(modes) == 1
    assert {name for point in found["front"] for name in (names[i] for i in point["assignment"])} > {"gpu"}


def test_both_latencies_of_every_point_are_there(capsys):
    found = document(capsys, "mobilenet-v2", *BOARD, "--precision", "int8")
    assert all(0 < p["period_s"] <= p["objectives"][1] * (1 + 1e-9) for p in found["front"])
    fast = document(capsys, "mobilenet-v2", *BOARD, "--precision", "int8", "--goal", "throughput")
    assert fast["goal"] == "throughput"
    assert min(p["period_s"] for p in fast["front"]) <= min(p["period_s"] for p in found["front"])
    assert fast["chosen"]["period_s"] < found["chosen"]["period_s"]
    assert "period ms" in ok(capsys, "mobilenet-v2", *BOARD)


def test_after_a_loss_it_plans_again_from_what_ran(capsys):
    found = document(capsys, "resnet-50", *BOARD, "--lost", "gpu")
    assert found["replanned"]["lost"] == ["gpu"]
    assert {s["accelerator"] for s in found["replanned"]["from"]} == {"gpu"}
    assert {s["accelerator"] for s in found["chosen"]["stages"]} == {"cpu"}
    assert "single:gpu" not in found["baselines"]
    assert {"accelerator": "gpu", "why": "it does not answer"} in found["excluded"]
    assert found["served"]["accelerator"] == "cpu"
    assert "before gpu was lost: gpu (20 stages); planned again" in ok(capsys, "resnet-50", *BOARD, "--lost", "gpu")


def test_a_loss_elsewhere_leaves_the_placement_as_it_is(capsys):
    before = document(capsys, "resnet-50", *BOARD)["chosen"]["stages"]
    assert document(capsys, "resnet-50", *BOARD, "--lost", "cpu")["chosen"]["stages"] == before


def test_the_state_of_the_board_counts(capsys):
    rest = document(capsys, "resnet-50", *BOARD)["baselines"]["single:gpu"]
    hot = document(capsys, "resnet-50", *BOARD, "--temperature", "gpu=95")["baselines"]["single:gpu"]
    busy = document(capsys, "resnet-50", *BOARD, "--queue", "gpu=1")["baselines"]["single:gpu"]
    assert hot["energy_j"] >= rest["energy_j"]
    assert busy["latency_s"] == pytest.approx(rest["latency_s"] + 1.0)
    assert "no placement fits" in refused(capsys, "resnet-50", *BOARD, "--free", "dram=1e6")


def test_the_settings_say_which_policy_and_board(capsys, tmp_path):
    path = tmp_path / "agent.yaml"
    path.write_text(f"version: 1\nstate_dir: {tmp_path}\npolicy: max-efficiency\nprofile: raspberry-pi-5\n")
    found = document(capsys, "mobilenet-v2", "--config", str(path))
    assert (found["policy"], found["board"]) == ("max-efficiency", "raspberry-pi-5")
    other = document(capsys, "mobilenet-v2", "--config", str(path), "--policy", "battery", *BOARD)
    assert (other["policy"], other["board"]) == ("battery", "jetson-orin-nx")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["resnet-50", *BOARD, "--method", "foo"], "unknown method 'foo', expected one of pgsam, exact"),
        (["resnet-50", *BOARD, "--method", "single:gpuu"], "did you mean 'gpu'"),
        (["resnet-50", *BOARD, "--seed", "-1"], "-1 is not in the range"),
        (["resnet-50", *BOARD, "--lost", "gpuu"], "lost: there is no 'gpuu' among gpu, dla, cpu (did you mean gpu?)"),
        (
            ["resnet-50", *BOARD, "--lost", "gpu", "--lost", "cpu"],
            "run resnet-50 on: gpu and cpu of jetson-orin-nx are lost",
        ),
        (
            ["resnet-50", *BOARD, "--lost", "gpu", "--lost", "cpu", "--method", "exact"],
            "gpu and cpu of jetson-orin-nx are lost; dla: ",
        ),
        (
            ["resnet-50", *BOARD, "--temperature", "gpu=80", "--temperature", "gpu=90"],
            "gpu: given twice, as 80 and as 90",
        ),
        (["resnet-50", *BOARD, "--free", "dram=1e9", "--free", "dram=1e9"], "--free dram: given twice"),
        ([], "give a MODEL or --problem FILE.npz (qeil plan --help says how)"),
        (["resnet-50", "--goal", "x"], "'x' is not one of"),
        (["resnet-50", *BOARD, "--temperature", "gpu"], "--temperature 'gpu': write NAME=NUMBER"),
        (["resnet-50", *BOARD, "--queue", "gpu=x"], "--queue 'gpu=x': write NAME=NUMBER"),
        (["resnet-50", *BOARD, "--queue", "=1"], "--queue '=1': write NAME=NUMBER"),
        (["resnet-50", *BOARD, "--queue", "gpu=nan"], "--queue 'gpu=nan': write NAME=NUMBER with a finite number"),
        (["resnet-50", *BOARD, "--phase", "both"], "no decoder language model"),
        (["resnet-50", *BOARD, "--phase", "decode"], "no phase decode"),
        (["resnet-50", *BOARD, "--batch", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_planned_is_one_line(capsys, arguments, words):
    text = refused(capsys, *arguments)
    assert words in text
    assert text.startswith("qeil: ")
    assert text.count("\n") == 1


def test_with_json_an_error_is_one_json_object_with_what_would_do(capsys):
    told = json.loads(refused(capsys, "resnet-50", *BOARD, "--free", "dram=1e6", "--json"))
    assert told["code"] == "infeasible"
    assert told["relaxation"]["dram"] > 1e6
    assert f"--free dram={told['relaxation']['dram']:.0f}" in told["error"]
    assert document(capsys, "resnet-50", *BOARD, "--free", f"dram={told['relaxation']['dram']:.0f}")["front"]
    assert json.loads(refused(capsys, "--json"))["code"] == "usage"


def test_without_a_profile_the_board_that_was_taken_is_named(capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("QEIL_PROFILE", "raspberry-pi-5")
    text = refused(capsys, "llama-3.1-8b", "--phase", "both")
    assert "raspberry-pi-5, the board of the settings, under policy balanced: no placement" in text
    assert "--profile NAME for another board" in text
    assert "on raspberry-pi-5, the board of the settings (--profile NAME for another)" in ok(capsys, "mobilenet-v2")
    assert "the settings" not in ok(capsys, "mobilenet-v2", *BOARD)


def test_an_operating_point_whose_cap_cannot_be_kept_is_left_out_aloud(capsys, tmp_path):
    profile = yaml.safe_load(share.find_profile("jetson-orin-nano").read_text())
    for accelerator in profile["accelerators"]:
        for point in accelerator.get("operating_points", ()):
            point["power_cap_w"] = {"value": 0.01, "provenance": "assumed", "source": "test"}
    path = tmp_path / "board.yaml"
    path.write_text(yaml.safe_dump(profile))
    found = document(capsys, "mobilenet-v2", "--profile", str(path), "--operating-points")
    assert not any("@" in name for name in found["accelerators"])
    assert any("its power cap of 0.01 W is not above the" in note for note in found["notes"])


def test_the_table_of_a_front_says_what_its_marks_mean_and_shows_the_choice_wherever_it_lies(capsys):
    text = ok(capsys, "resnet-50", *BOARD)
    assert "►: chosen by the policy; #: number in the front, as in --json" in text
    assert "► chosen" in text
    assert "single:cpu" in text
    front = [{"objectives": [1.0, 2.0, 0.5], "assignment": [0, 0, 1]}]
    given = {"front": front, "exact": True, "method": "pgsam", "elapsed_ms": 1.0, "accelerators": ["gpu", "npu"]}
    chosen = {"energy_j": 3.0, "latency_s": 4.0, "underutilisation": 0.1, "assignment": [1, 1, 1]}
    show_front(given, chosen)
    shown = capsys.readouterr().out
    assert "1 placement, exact" in shown
    assert "gpu×2 npu×1" in shown
    assert "npu×3" in shown
    assert "is not on it and has no number" in shown
    show_front(given | {"front": [front[0] | {"assignment": [0, 1] * 20}]}, None)
    assert "… " in capsys.readouterr().out


def test_a_file_of_a_decoder_has_phases_too(capsys, tmp_path):
    path = tmp_path / "decoder.onnx"
    onnx.save(decoder(), str(path))
    both = document(capsys, str(path), *BOARD, "--phase", "both", "--prompt-tokens", "32", "--generate-tokens", "8")
    assert (both["phase"], both["request"]["generated_tokens"]) == ("both", 8)
    prefill, step = (document(capsys, str(path), *BOARD, "--phase", p, "--batch", "2") for p in ("prefill", "decode"))
    assert (prefill["phase"], step["phase"]) == ("prefill", "decode")
    longer = document(capsys, str(path), *BOARD, "--prompt-tokens", "2048")
    assert longer["phase"] == "prefill"
    assert longer["chosen"]["latency_s"] > prefill["chosen"]["latency_s"] / 2


def test_a_tflite_file_is_placed_as_a_whole_and_has_one_phase(capsys):
    path = str(model_file(*FACE[1:]))
    found = document(capsys, path, "--profile", "raspberry-pi-5")
    assert len(found["chosen"]["stages"]) == 1
    assert any("placed as a whole" in note for note in found["notes"])
    assert "takes no key–value cache" in refused(capsys, path, "--phase", "both")
    assert "a file computes in its own" in refused(capsys, path, "--precision", "int8")
    assert "cpu of raspberry-pi-5 is lost" in refused(capsys, path, "--profile", "raspberry-pi-5", "--lost", "cpu")
    assert "neither a model file" in refused(capsys, "resnet-5000")


TABLES = "benchmarks/data/placement/decode_L12_D2_loose_j0_s101.npz"


def test_options_of_models_are_refused_beside_cost_tables(capsys):
    assert run(["plan", "--problem", TABLES, "--lost", "1"]) == 2
    assert "--lost: for a MODEL" in capsys.readouterr().err


def test_cost_tables_that_are_a_pipe_are_refused(tmp_path, capsys):
    os.mkfifo(tmp_path / "p.npz")
    assert run(["plan", "--problem", str(tmp_path / "p.npz")]) == 78
    assert "no regular file" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "explain"])
@pytest.mark.parametrize(
    ("changed", "code", "words"),
    [
        ({"latency": np.full((12, 2), np.nan)}, 78, "latency[0, 0] is nan"),
        ({"energy": np.zeros((12, 1))}, 78, "energy: shape (12, 1)"),
        ({"latency": np.full((12, 2), None)}, 78, "holds pickled objects"),
        ({"capacity": np.zeros(2)}, 1, "bytes more there would do"),
    ],
)
def test_what_is_wrong_with_tables_is_one_json_object_too(tmp_path, capsys, command, changed, code, words):
    np.savez(tmp_path / "p.npz", **{**dict(np.load(TABLES)), **changed})
    assert run([command, "--problem", str(tmp_path / "p.npz"), "--json"]) == code
    printed = capsys.readouterr()
    told = json.loads(printed.err)
    assert words in told["error"]
    assert told["code"] == {78: "config", 1: "infeasible"}[code]
    assert (printed.out, printed.err.count("\n")) == ("", 1)


@pytest.mark.parametrize("limit", ["inf", "nan"])
@pytest.mark.parametrize("option", ["--deadline-ms", "--power-cap-w"])
def test_a_limit_that_is_no_finite_number_is_refused(option, limit, capsys):
    assert run(["explain", "--problem", TABLES, option, limit]) == 2
    assert f"{option} must be a finite number" in capsys.readouterr().err


@pytest.mark.parametrize(("huge", "exact"), [(1e3, True), (1e9, False)])
def test_a_front_is_not_called_exact_where_one_huge_cost_coarsens_every_sum(tmp_path, capsys, huge, exact):
    arrays = dict(np.load(TABLES))
    arrays["latency"][3, 1] = arrays["energy"][3, 1] = huge
    np.savez(tmp_path / "p.npz", **arrays)
    assert run(["plan", "--problem", str(tmp_path / "p.npz"), "--json"]) == 0
    printed = capsys.readouterr()
    assert json.loads(printed.out)["exact"] is exact
    assert ("not certified" in printed.err) is not exact
