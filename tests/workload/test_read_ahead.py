"""Reading ahead: one process for several files, and none of them stands in the way of another."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from agent.workload import examine, read_ahead
from agent.workload.read_ahead import ReadAhead

TIMEOUT_S = 60.0


def saved(path: Path, operator: str = "Relu") -> Path:
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4]) for n in "xy"]
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"])], "g", ends[:1], ends[1:])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_several_files_are_read_by_one_process_as_each_alone(tmp_path):
    paths = [saved(tmp_path / "a.onnx"), saved(tmp_path / "b.onnx", "Tanh")]
    ahead = ReadAhead(paths, tmp_path / "known")

    for path in paths:
        alone = examine.examine_in_child(path, "onnx", digest(path), TIMEOUT_S)
        assert ahead.take(digest(path), TIMEOUT_S) == alone


def test_files_that_are_known_large_damaged_or_no_models_are_left_to_the_usual_way(tmp_path, monkeypatch, capsys):
    known, large, damaged = (tmp_path / f"{name}.onnx" for name in ("known", "large", "damaged"))
    saved(known)
    large.write_bytes(bytes(5000))
    damaged.write_bytes(b"\x08")
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache" / f"{digest(known)[: read_ahead.DIGITS]}.v3.json").touch()
    good = saved(tmp_path / "good.onnx", "Tanh")
    monkeypatch.setattr(read_ahead, "MOST_BYTES", 4000)
    monkeypatch.setattr(read_ahead, "limit_memory", lambda: 0)

    files = [known, large, damaged, tmp_path / "text.txt", tmp_path / "missing.onnx", good]
    read_ahead.main([str(tmp_path / "cache"), *map(str, files)])

    (line,) = capsys.readouterr().out.splitlines()
    assert json.loads(line)[0] == digest(good)


def test_a_file_that_ends_the_process_costs_only_itself_and_those_behind_it(tmp_path):
    path = saved(tmp_path / "a.onnx")
    document = json.dumps([digest(path), examine.read(path, "onnx")])

    class Ended:
        @staticmethod
        def communicate(timeout: float) -> tuple[bytes, None]:  # noqa: ARG004 - as of Popen
            return f'{document}\nSegmentation\n["0123", {{"facts'.encode(), None

    ahead = ReadAhead([], tmp_path)
    ahead.end()
    ahead._popen = Ended()  # type: ignore[assignment]

    assert ahead.take(digest(path), TIMEOUT_S) is not None
    assert ahead.take("0123", TIMEOUT_S) is None


@pytest.mark.parametrize("document", [None, {}, {"facts": {}, "workload": None}, [1]])
def test_a_document_that_is_none_is_not_believed(tmp_path, document):
    ahead = ReadAhead([], tmp_path)
    ahead.end()
    ahead._found = {"d": document}

    assert ahead.take("d", TIMEOUT_S) is None


def test_a_process_that_does_not_end_is_not_waited_for(tmp_path):
    ahead = ReadAhead([], tmp_path)
    ahead.end()
    ahead._popen = subprocess.Popen(["sleep", "60"], stdout=subprocess.PIPE)

    assert ahead.take("d", 0.01) is None
    assert ahead._popen.returncode is not None
