"""A third backend in one file: the one that docs/extending.md shows is served, planned, examined and calibrated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from agent.cli.client import AgentClient
from agent.runtimes import registry
from agent.storage.bundle_archive import BundleRefused, pack
from tests.integration.agent_process import AgentProcess
from tests.runtimes import tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The document's file, a broken one beside it, and a model for the first."""
    folder = tmp_path_factory.mktemp("added")
    tiny.written(folder)
    (folder / "qeil_backend_broken.py").write_text("import nothing_of_that_name\n")
    (folder / "qeil_backend_thief.py").write_text(tiny.shown().replace('suffixes=(".tiny",)', 'suffixes=(".onnx",)'))
    (folder / "double.tiny").write_text(json.dumps([[2.0, 0.0], [0.0, 2.0]]))
    return folder


@pytest.fixture(scope="module")
def environ(folder):
    return {"QEIL_BACKENDS": str(folder)}


def qeil(environ, *words: str, code: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *words], capture_output=True, text=True, timeout=240, check=False,
        cwd=ROOT, env={**os.environ, **environ},
    )  # fmt: skip
    assert done.returncode in {0, code}, done.stderr
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module")
def profile(environ, folder):
    """This machine as `qeil detect` writes it, with the new backend's runtime alone."""
    path = folder / "only-tiny.yaml"
    told = qeil(environ, "detect", "--write", str(path))
    document = yaml.safe_load(path.read_text())
    for accelerator in document["accelerators"]:
        accelerator["runtimes"] = [r for r in accelerator["runtimes"] if r["backend"] == "tiny"]
    document["accelerators"] = document["accelerators"][:1]
    path.write_text(yaml.safe_dump(document))
    return path, told


def test_a_generic_cpu_offers_it_and_what_is_no_backend_is_told(profile):
    path, told = profile
    (cpu,) = yaml.safe_load(path.read_text())["accelerators"]
    assert [r["provider"] for r in cpu["runtimes"]] == ["numpy"]
    assert "qeil_backend_broken is left out: ModuleNotFoundError" in told
    assert "qeil_backend_thief is left out: tiny: .onnx is taken by ONNX Runtime" in told


def test_its_model_is_planned_with_the_work_that_the_file_tells(environ, folder, profile):
    told = qeil(environ, "plan", str(folder / "double.tiny"), "--profile", str(profile[0]), "--json")
    assert json.loads(told)["front"]


def test_a_board_without_it_refuses_its_model_with_the_reason(environ, folder):
    done = qeil(environ, "plan", str(folder / "double.tiny"), "--profile", "raspberry-pi-5", code=1)
    assert "no runtime for tiny models" in done


def test_its_model_is_served(environ, folder, tmp_path):
    models = [{"name": "double", "path": str(folder / "double.tiny")}]
    agent = AgentProcess(tmp_path, {"models": models}, environ)
    try:
        with AgentClient(agent.wait_ready()) as client:
            assert client.get("/v2/models/double")["platform"] == "tiny_tiny"
            answer = client.infer("double", {"x": np.array([[1.5, -2.0]], np.float32)})
            assert answer.outputs["y"].tolist() == [[3.0, -4.0]]
    finally:
        agent.stop()


def test_the_doctor_runs_its_canary_and_looks_at_its_models(environ, folder, profile, tmp_path):
    settings = {"version": 1, "state_dir": str(tmp_path), "profile": str(profile[0]),
                "models": [{"name": "double", "path": str(folder / "double.tiny")}]}  # fmt: skip
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump(settings))
    told = json.loads(qeil(environ, "doctor", "--config", str(tmp_path / "agent.yaml"), "--json", code=1))
    assert {"check": "tiny", "result": "ok", "message": np.__version__} in [
        {key: item[key] for key in ("check", "result", "message")} for item in told
    ]
    assert any("numpy runs what it is asked to, 100% of it" in item["message"] for item in told)
    assert any(item["check"] == "model double" and item["result"] == "ok" for item in told)


def test_it_is_calibrated(environ, profile, tmp_path):
    (tmp_path / "agent.yaml").write_text(yaml.safe_dump({"version": 1, "state_dir": str(tmp_path)}))
    config = str(tmp_path / "agent.yaml")
    told = json.loads(qeil(environ, "calibrate", "--config", config, "--profile", str(profile[0]), "--quick", "--json"))
    assert {c["backend"] for c in told["coefficients"]} <= {"tiny"}
    assert told["coefficients"] or "scatters" in str(told["refused"])


def test_a_file_that_ends_the_program_is_told_and_takes_nothing_with_it(monkeypatch, tmp_path):
    (tmp_path / "qeil_backend_quits.py").write_text("raise SystemExit('no device')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert registry._read("qeil_backend_quits", ()) == "SystemExit: no device"


def test_a_bundle_takes_models_of_the_backends_that_are_known_when_it_comes(monkeypatch, tmp_path):
    model = tmp_path / "m.tiny"
    model.write_bytes(b"1")
    with pytest.raises(BundleRefused):
        pack({"models/m.tiny": model}, tmp_path / "b.tar")
    monkeypatch.setattr(registry, "suffixes", lambda: (".tiny",))
    pack({"models/m.tiny": model}, tmp_path / "b.tar")
