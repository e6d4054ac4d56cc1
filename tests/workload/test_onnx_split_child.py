"""Splitting in a process of its own: the same stages, bounded, and every failure one line."""

from __future__ import annotations

import json

import pytest

from agent.errors import ModelLoadFailed
from agent.workload import onnx_split
from agent.workload.onnx_split import Order, Split, split, split_in_child
from tests.workload.runnable import convolutions, saved
from tests.workload.splitting import names


def test_a_child_writes_the_same_stages_and_tells_its_steps(tmp_path):
    path = saved(convolutions(), tmp_path)
    told: list[str] = []

    result = split_in_child(Order(path, tmp_path / "out", names(2), stages=2), 60, told.append)

    here = split(Order(path, tmp_path / "here", names(2), stages=2))
    assert told[0] == "reading the graph"
    assert "comparing 2 stages with the whole model" in told
    assert [s.path.read_bytes() for s in result.stages] == [s.path.read_bytes() for s in here.stages]
    assert Split.from_json(json.loads(json.dumps(result.to_json()))) == result


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07" * 40])
def test_a_bad_file_is_one_line_with_its_path(tmp_path, content):
    path = tmp_path / "bad.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelLoadFailed, match=r"bad\.onnx: .*not an ONNX model") as caught:
        split_in_child(Order(path, tmp_path / "out", names(2), stages=2), 60)
    assert "\n" not in caught.value.message


def test_a_child_that_takes_too_long_or_too_much_memory_is_stopped(tmp_path):
    path = saved(convolutions(), tmp_path)
    order = Order(path, tmp_path / "out", names(2), stages=2)
    with pytest.raises(ModelLoadFailed, match=r"longer than 0\.01 s"):
        split_in_child(order, 0.01)
    with pytest.raises(ModelLoadFailed):
        split_in_child(order, 60, memory_limit_bytes=96 * 1024 * 1024)


def test_a_folder_that_cannot_be_written_is_said(tmp_path):
    path = saved(convolutions(), tmp_path)
    (tmp_path / "out").write_text("a file")
    with pytest.raises(ModelLoadFailed, match="stage models cannot be written: File exists"):
        split_in_child(Order(path, tmp_path / "out", names(2), stages=2), 60)


def test_the_entry_of_the_child_reads_its_order_from_standard_input(tmp_path, monkeypatch, capsys):
    path = saved(convolutions(), tmp_path)
    document = {"path": str(path), "folder": str(tmp_path / "out"), "names": ["a", "b"], "boundaries": [],
                "stages": 2, "after": [], "check": True, "threads": 1}  # fmt: skip
    monkeypatch.setattr(onnx_split, "limit_memory", lambda limit_bytes: limit_bytes)
    monkeypatch.setattr(onnx_split.json, "load", lambda _: document)
    assert onnx_split.main(["1000000000"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(rows[-1]["result"]["stages"]) == 2
