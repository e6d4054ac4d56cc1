"""Which runtimes, execution providers, devices and delegates this machine has.

`probe_runtimes` asks child processes, so the agent never imports a native runtime and a plugin that crashes is a note
in the inventory. Run as `python -m agent.backends.probe` the module prints what it finds as JSON.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import pkgutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, field
from functools import partial
from typing import Any, Final

from agent.backends.head_start import start_probe
from agent.child import NICENESS
from agent.records import record
from agent.runtimes import registry
from agent.runtimes.entry import Backend, resolve
from agent.runtimes.shipped import LITERT, ONNX

PLUGIN_PREFIX: Final = "onnxruntime_ep_"
"""Plugin providers are packages with import names of this form and with `get_library_path()` and `get_ep_names()`."""


@record(frozen=True)
class EpDevice:
    """A device that an execution provider offers."""

    provider: str
    kind: str
    """CPU, GPU or NPU."""
    vendor: str
    plugin: str | None
    """Package that brings the provider, None for built-in ones."""
    metadata: Mapping[str, str]


@record(frozen=True)
class RuntimeInventory:
    """What can run models here. A version of None means that the runtime is not installed."""

    onnxruntime: str | None = None
    providers: tuple[str, ...] = ()
    """Built-in execution providers, the runtime's own order."""
    devices: tuple[EpDevice, ...] = ()
    plugins: tuple[str, ...] = ()
    """Installed plugin packages whose library registered."""
    litert: str | None = None
    litert_module: str | None = None
    delegates: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)
    """Version of each backend that was added and that is here, by its name."""
    notes: tuple[str, ...] = ()
    """What is absent or failed, one sentence each."""

    def version(self, backend: str) -> str | None:
        """Of the runtime of a backend; None where it is not here."""
        return {"onnx": self.onnxruntime, "litert": self.litert}.get(backend) or self.others.get(backend)


def probe_runtimes(timeout_s: float) -> RuntimeInventory:
    """Look at this machine's runtimes in child processes, all together within `timeout_s`. Never raises."""
    try:
        return read_inventory(start_probe(timeout_s), timeout_s)
    except OSError as error:
        return nothing(str(error.strerror))


def read_inventory(looking: subprocess.Popen[bytes], timeout_s: float) -> RuntimeInventory:
    """What the process of `head_start.start_probe` finds; never raises."""
    try:
        output, errors = looking.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        looking.kill()
        looking.communicate()
        return nothing("it did not answer in time")
    found, note = _answer(looking.returncode, output.decode(errors="replace"), errors.decode(errors="replace"))
    return nothing(note) if found is None else inventory_of(found)


def inventory_of(found: Mapping[str, Any]) -> RuntimeInventory:
    """An inventory that was written as JSON. Raises KeyError or TypeError for what is none."""
    lists = {key: tuple(found[key]) for key in ("providers", "plugins", "delegates", "notes")}
    return RuntimeInventory(**{**found, **lists, "devices": tuple(EpDevice(**d) for d in found["devices"])})


def nothing(note: str) -> RuntimeInventory:
    """No inventory, and why."""
    return RuntimeInventory(notes=(f"the runtimes could not be looked at: {note}",))


def _answer(returncode: int, output: str, errors: str) -> tuple[dict[str, Any] | None, str]:
    if returncode != 0:
        lines = errors.strip().splitlines()
        return None, _why(returncode, lines[-1] if lines else "")
    try:
        found = json.loads(output.strip().rpartition("\n")[2])
    except ValueError:
        return None, "it printed something that is not an inventory"
    return (found, "") if isinstance(found, dict) else (None, "it printed something that is not an inventory")


def _why(returncode: int | None, last_line: str) -> str:
    from agent.backends.process import describe  # noqa: PLC0415 - needed by failures only, and not light

    return "it did not answer in time" if returncode is None else describe(returncode, last_line)


# ---------------------------------------------------------------------------------------------- in the child


def look_everywhere(timeout_s: float) -> RuntimeInventory:
    """Look in this process, and at every plugin in a copy of it, all together within `timeout_s`."""
    from agent.backends.fork import Fork  # noqa: PLC0415 - in the process that looks
    from agent.backends.messages import one_line  # noqa: PLC0415

    until_s = time.monotonic() + timeout_s / 2.0  # who waits for all of it began to count before this process did
    with suppress(ImportError):  # what lacks it says so itself
        importlib.import_module("numpy")  # of all that runtimes need, what starts no thread
    asked = [(package, Fork(partial(look_at_plugin, package))) for package in plugin_packages()]
    found = look()
    devices, notes = list(found["devices"]), list(found["notes"])
    plugins: list[str] = []
    for package, fork in asked:
        code, answer, words = fork.result(until_s)
        if found["onnxruntime"] is None:
            continue  # nothing to plug it into
        if answer is None:
            notes.append(f"the plugin {package} is unusable: {_why(code, words)}")
        else:
            plugins.append(package)
            devices += answer["devices"]
            notes += answer["notes"]
    return RuntimeInventory(
        onnxruntime=found["onnxruntime"], providers=tuple(found["providers"]),
        devices=tuple(EpDevice(**device) for device in devices), plugins=tuple(plugins), litert=found["litert"],
        litert_module=found["litert_module"], delegates=tuple(found["delegates"]), others=found["others"],
        notes=tuple(map(one_line, notes)),
    )  # fmt: skip


def look() -> dict[str, Any]:
    """Everything but the plugins' devices, whose libraries each get a process of their own."""
    from agent.backends import installed  # noqa: PLC0415 - in the process that looks

    notes: list[str] = []
    versions = _versions(notes)
    onnx, litert = versions.pop(ONNX.name, None), versions.pop(LITERT.name, None)
    providers, devices = ([], []) if onnx is None else _of_onnxruntime(notes)
    module, delegates = (None, []) if litert is None else (installed.litert_module(), ["XNNPACK"])
    return {
        "onnxruntime": onnx, "providers": providers, "devices": devices, "litert": litert, "litert_module": module,
        "delegates": delegates, "others": versions, "notes": notes,
    }  # fmt: skip


def look_at_plugin(package: str) -> dict[str, Any]:
    """Devices of one plugin provider. A library that is none ends the process with its reason."""
    from agent.backends.onnx import reason, runtime_errors  # noqa: PLC0415 - after the other processes have begun

    ort = importlib.import_module("onnxruntime")
    if not hasattr(ort, "register_execution_provider_library"):
        sys.exit(f"onnxruntime {ort.__version__} is too old for plugin providers (1.23)")
    module = importlib.import_module(package)
    names = list(module.get_ep_names()) if hasattr(module, "get_ep_names") else [package]
    before = len(ort.get_ep_devices())
    try:
        ort.register_execution_provider_library(names[0], module.get_library_path())
    except runtime_errors(ort) as error:
        sys.exit(reason(error))
    devices = [_device(device, package) for device in ort.get_ep_devices()[before:]]
    notes = [] if devices else [f"the plugin {package} offers no device on this machine"]
    return {"devices": devices, "notes": notes}


def plugin_packages() -> list[str]:
    """Import names of the installed plugin providers."""
    # by what can be imported: to ask every installed package for its name takes a tenth of a second
    return sorted({found.name for found in pkgutil.iter_modules() if found.name.startswith(PLUGIN_PREFIX)})


def _of_onnxruntime(notes: list[str]) -> tuple[list[str], list[dict[str, Any]]]:
    """(its providers, their devices)."""
    ort = importlib.import_module("onnxruntime")
    if not hasattr(ort, "get_ep_devices"):
        notes.append(f"onnxruntime {ort.__version__} does not list devices (1.22 does)")
        return list(ort.get_available_providers()), []
    return list(ort.get_available_providers()), [_device(device, None) for device in ort.get_ep_devices()]


def _versions(notes: list[str]) -> dict[str, str]:
    """Version of each backend that is here, by its name."""
    notes += registry.problems()
    asked = {backend.name: _version(backend, notes) for backend in registry.backends()}
    return {name: version for name, version in asked.items() if version is not None}


def _version(backend: Backend, notes: list[str]) -> str | None:
    try:
        version = resolve(backend.probe)(notes)
    except Exception as error:  # noqa: BLE001 - somebody's file: the others are looked at
        notes.append(f"{backend.title} is not usable: {error}")
        return None
    return None if version is None else str(version)


def _device(device: Any, plugin: str | None) -> dict[str, Any]:
    kind = str(device.device.type).rpartition(".")[2]
    metadata = {str(key): str(value) for key, value in dict(device.ep_metadata).items()}
    return asdict(EpDevice(device.ep_name, kind, device.device.vendor or device.ep_vendor, plugin, metadata))


def main(argv: Sequence[str]) -> None:
    """Print the inventory as the last line of standard output."""
    parser = argparse.ArgumentParser(prog="agent.backends.probe", description="Lists runtimes and devices as JSON.")
    parser.add_argument("--everything", type=float, metavar="SECONDS", help="also every plugin, within that time")
    given = parser.parse_args(argv)
    if given.everything is not None:
        os.nice(NICENESS)
        found = asdict(look_everywhere(given.everything))
    else:
        found = look()
    sys.stdout.write("\n" + json.dumps(found) + "\n")
    sys.stdout.flush()
    # A native library that crashes while it is unloaded must not spoil what was found.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
