"""`qeil models split`: stage files a person can use, figures, and one clear line when it cannot be done."""

from __future__ import annotations

import json

import numpy as np
import onnxruntime as ort
import pytest

from agent.cli.main import run
from agent.llm.importer import import_gguf
from tests.llm.reference import write_model
from tests.workload.runnable import convolutions, saved


def split(capsys, *arguments: object) -> tuple[int, str, str]:
    code = run(["models", "split", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def test_stages_are_written_with_a_manifest_and_figures(tmp_path, capsys):
    path = saved(convolutions(), tmp_path)
    out = tmp_path / "stages"

    code, text, progress = split(capsys, path, "--stages", 3, "--out", out)

    assert code == 0
    assert "the same to the bit on 2 sets of random inputs" in text
    assert "(measured)" in text
    assert "… reading the graph" in progress
    files = sorted(p.name for p in out.iterdir())
    assert files == ["net-1-of-3.onnx", "net-2-of-3.onnx", "net-3-of-3.onnx", "split.json", "weights.bin"]
    have = {"image": np.random.default_rng(1).standard_normal((1, 3, 32, 32)).astype(np.float32)}
    whole = ort.InferenceSession(str(path)).run(None, have)[0]
    for stage in json.loads((out / "split.json").read_text())["stages"]:
        session = ort.InferenceSession(stage["path"])
        names = [o.name for o in session.get_outputs()]
        have.update(zip(names, session.run(names, {i.name: have[i.name] for i in session.get_inputs()}), strict=True))
    assert have[names[0]].tobytes() == whole.tobytes()


def test_json_names_boundaries_files_and_measured_times(tmp_path, capsys):
    path = saved(convolutions(), tmp_path)
    code, text, _ = split(capsys, path, "--at", "t9_0", "--out", tmp_path / "stages", "--json")
    document = json.loads(text)
    assert code == 0
    assert document["boundaries"] == [["t9_0"]]
    assert [s["path"] for s in document["stages"]] == [str(tmp_path / "stages" / f"net-{i}-of-2.onnx") for i in (1, 2)]
    assert len(document["checked"]["stage_s"]) == 2


def test_without_the_check_nothing_is_claimed(tmp_path, capsys):
    path = saved(convolutions(), tmp_path)
    code, text, _ = split(capsys, path, "--at", "t9_0", "--out", tmp_path / "stages", "--no-check")
    assert code == 0
    assert "not checked against the whole model" in text
    assert "bit" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--at", "t999"), "cannot be cut at 't999': there is no such tensor"),
        (("--at", "image"), "it is an input of the model"),
        (("--at", "t7_0"), "a boundary of all of them is t7_0,t2_0"),
        (("--stages", "16"), "cannot be cut into 16 stages"),
    ],
)
def test_what_cannot_be_cut_is_one_line_and_leaves_nothing_behind(tmp_path, capsys, arguments, words):
    path = saved(convolutions(), tmp_path)
    code, _, errors = split(capsys, path, *arguments, "--out", tmp_path / "stages")
    assert code == 1
    assert words in errors.splitlines()[-1]
    assert [p.name for p in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("net.tflite", "a LiteRT model is one stage"),
        ("net.txt", "expected .onnx"),
        ("none.onnx", "there is no such file"),
        ("bad.onnx", "not an ONNX model"),
    ],
)
def test_what_is_no_onnx_model_is_refused(tmp_path, capsys, file, words):
    (tmp_path / "bad.onnx").write_bytes(b"nonsense")
    code, _, errors = split(capsys, tmp_path / file, "--stages", 2, "--out", tmp_path / "stages")
    assert code == 1
    assert words in errors


def test_a_folder_with_something_in_it_is_left_alone(tmp_path, capsys):
    path = saved(convolutions(), tmp_path)
    code, _, errors = split(capsys, path, "--stages", 2, "--out", tmp_path)
    assert (code, "name a new or an empty folder" in errors) == (1, True)
    (tmp_path / "empty").mkdir()
    assert split(capsys, path, "--stages", 2, "--out", tmp_path / "empty", "--no-check")[0] == 0


@pytest.mark.parametrize("arguments", [(), ("--stages", 2, "--at", "t9_0"), ("--stages", 1)])
def test_where_to_cut_is_said_once(tmp_path, capsys, arguments):
    path = saved(convolutions(), tmp_path)
    assert split(capsys, path, *arguments, "--out", tmp_path / "stages")[0] == 2


def test_a_place_that_cannot_be_written_is_named(tmp_path, capsys):
    path = saved(convolutions(), tmp_path)
    (tmp_path / "file").write_text("")
    code, _, errors = split(capsys, path, "--stages", 2, "--out", tmp_path / "file" / "stages")
    assert code == 1
    assert "Not a directory" in errors


@pytest.mark.parametrize("name", ["", "model.onnx"])
def test_a_language_model_is_not_cut_into_files(tmp_path, capsys, name):
    folder = import_gguf(write_model(tmp_path / "m.gguf"), tmp_path / "m").folder
    code, _, progress = split(capsys, folder / name, "--stages", 2, "--out", tmp_path / "stages")
    assert code == 1
    assert "is not cut into files" in progress
    assert progress.count("\n") == 1


def test_a_config_beside_a_model_makes_no_language_model_of_it(tmp_path, capsys):
    path = saved(convolutions(), tmp_path)
    (tmp_path / "config.json").write_text("{}")
    assert split(capsys, path, "--at", "t9_0", "--out", tmp_path / "stages", "--no-check")[0] == 0
