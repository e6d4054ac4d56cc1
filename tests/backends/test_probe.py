"""The inventory of runtimes, taken in child processes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import onnxruntime as ort
import pytest

from agent.backends import litert, probe
from agent.backends.probe import RuntimeInventory, probe_runtimes


def test_what_is_installed_is_found() -> None:
    found = probe_runtimes(60.0)

    assert found.onnxruntime == ort.__version__
    assert "CPUExecutionProvider" in found.providers
    devices = [(device.provider, device.kind, device.plugin) for device in found.devices]
    assert (("CPUExecutionProvider", "CPU", None) in devices) == hasattr(ort, "get_ep_devices")
    assert found.litert is not None
    assert found.litert_module in litert.MODULES
    assert found.delegates == ("XNNPACK",)
    if importlib.util.find_spec("onnxruntime_ep_openvino"):
        assert found.plugins == ("onnxruntime_ep_openvino",)
        assert "OpenVINOExecutionProvider" in [d.provider for d in found.devices]


def test_no_time_is_an_empty_inventory_that_says_so() -> None:
    assert probe_runtimes(0.0) == RuntimeInventory(
        notes=("the runtimes could not be looked at: it did not answer in time",)
    )


@pytest.mark.parametrize(
    ("program", "note"),
    [
        ("import os; os.kill(os.getpid(), 11)", "its process was ended by SIGSEGV"),
        ("import sys; sys.exit('not a library')", "its process exited with code 1; last words: not a library"),
        ("print('hello')", "it printed something that is not an inventory"),
        ("print('[]')", "it printed something that is not an inventory"),
    ],
)
def test_a_plugin_that_fails_is_a_note_and_the_rest_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, note: str
) -> None:
    found = {"onnxruntime": "1", "providers": [], "devices": [], "litert": None, "litert_module": None,
             "delegates": [], "others": {}, "notes": []}  # fmt: skip
    monkeypatch.setattr(probe, "plugin_packages", lambda: ["bad"])
    stub = tmp_path / "python"
    monkeypatch.setattr(probe, "look", lambda: found)
    stub.write_text(f"#!{sys.executable}\nimport sys\n{program}\n")
    stub.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stub))

    seen = probe.look_everywhere(60.0)

    assert seen.onnxruntime == "1"
    assert seen.plugins == ()
    assert seen.notes == (f"the plugin bad is unusable: {note}",)


def test_a_note_is_one_printable_line(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe.look() | {"notes": ["mine is not usable: \x1b[31mno library\nhere\x1b[0m"]}
    monkeypatch.setattr(probe, "look", lambda: found)
    monkeypatch.setattr(probe, "plugin_packages", list)

    assert probe.look_everywhere(5.0).notes == ("mine is not usable: no library here",)


def test_a_machine_without_python_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    assert probe_runtimes(60.0).notes == ("the runtimes could not be looked at: No such file or directory",)


def test_looking_in_this_process_finds_the_same_and_absence_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    assert probe.look()["onnxruntime"] == ort.__version__

    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(probe, "LITERT_DISTRIBUTIONS", ("no-such-litert",))
    found = probe.look()

    assert (found["onnxruntime"], found["litert"], found["delegates"]) == (None, None, [])
    assert len(found["notes"]) == 2


def test_an_old_runtime_does_not_list_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort, "get_ep_devices", raising=False)

    assert any("does not list devices" in note for note in probe.look()["notes"])


def test_the_module_prints_json_for_people_and_programs() -> None:
    done = subprocess.run([sys.executable, "-m", "agent.backends.probe"], stdout=subprocess.PIPE, check=True, text=True)

    assert json.loads(done.stdout)["onnxruntime"] == ort.__version__
