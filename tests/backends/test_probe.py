"""The inventory of runtimes, taken in child processes."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from typing import Any

import onnxruntime as ort
import pytest

from agent.backends import installed, litert, probe
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


WORDS = "its process exited with code 3; last words: the end"


@pytest.mark.parametrize(
    ("plugin", "note"),
    [
        ("os.kill(os.getpid(), 11)", "its process was ended by SIGSEGV"),
        ("sys.exit('not a library')", "its process exited with code 1; last words: not a library"),
        ("print('hello') or time.sleep(60)", "it did not answer in time"),
        ("1 / 0", "its process exited with code 1; last words: ZeroDivisionError: division by zero"),
        ("os._exit(0)", "its process exited with code 0"),
        ("sys.stderr.write('x' * 100_000 + chr(10) + 'the end') and os._exit(3)", WORDS),
    ],
)
def test_a_plugin_that_fails_is_a_note_and_the_rest_is_found(plugin: str, note: str) -> None:
    found = everywhere(f"probe.look_at_plugin = lambda package: {plugin}")

    assert found["onnxruntime"] == "1"
    assert found["plugins"] == []
    assert found["notes"] == [f"the plugin mine is unusable: {note}"]


def test_a_plugin_that_prints_and_answers_is_found() -> None:
    device = {"provider": "MyProvider", "kind": "NPU", "vendor": "mine", "plugin": "mine", "metadata": {}}

    found = everywhere(
        f"probe.look_at_plugin = lambda package: print('loading') or {{'devices': [{device}], 'notes': ['slow']}}"
    )

    assert (found["plugins"], found["devices"], found["notes"]) == (["mine"], [device], ["slow"])


def test_plugins_without_the_runtime_are_not_spoken_of() -> None:
    found = everywhere(
        "probe.look_at_plugin = lambda package: sys.exit('no onnxruntime'); nothing['onnxruntime'] = None"
    )

    assert (found["plugins"], found["notes"]) == ([], [])


def everywhere(change: str) -> dict[str, Any]:
    """What a process of its own, with one thread, finds with one plugin and no runtime but a name."""
    program = f"""
import json, os, sys, time
from dataclasses import asdict
from agent.backends import probe

nothing = {{"onnxruntime": "1", "providers": [], "devices": [], "litert": None, "litert_module": None,
           "delegates": [], "others": {{}}, "notes": []}}
probe.look = lambda: nothing
probe.plugin_packages = lambda: ["mine"]
{change}
print(json.dumps(asdict(probe.look_everywhere(3.0))))
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True)
    return dict(json.loads(done.stdout))


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
    monkeypatch.setattr(installed, "LITERT_DISTRIBUTIONS", ("no-such-litert",))
    found = probe.look()

    assert (found["onnxruntime"], found["litert"], found["delegates"]) == (None, None, [])
    assert len(found["notes"]) == 2


def test_an_old_runtime_does_not_list_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(ort, "get_ep_devices", raising=False)

    assert any("does not list devices" in note for note in probe.look()["notes"])


def test_the_module_prints_json_for_people_and_programs() -> None:
    done = subprocess.run([sys.executable, "-m", "agent.backends.probe"], stdout=subprocess.PIPE, check=True, text=True)

    assert json.loads(done.stdout)["onnxruntime"] == ort.__version__
