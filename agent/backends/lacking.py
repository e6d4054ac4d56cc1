"""Why a runtime that a profile names cannot be used on this machine, with the remedy; None where it can."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from agent import extras
from agent.backends.probe import RuntimeInventory
from agent.runtimes import registry
from agent.runtimes.entry import Backend, resolve
from agent.schema.device import Runtime

LIBRARY_FOLDERS: Final = (
    "usr/lib", "usr/local/lib", "usr/lib/aarch64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib", "opt/qcom/lib",
)  # fmt: skip
_KINDS: Final = {"cpu": "CPU", "gpu": "GPU", "npu": "NPU"}


def missing_runtime(runtime: Runtime, kind: str, inventory: RuntimeInventory, root: Path) -> str | None:
    """Asks the runtime's backend. `kind`: of the accelerator; `root`: `/` or a tree of another machine."""
    backend = registry.find(runtime.backend)
    if backend is None:
        return f"{runtime.provider} is the vendor's own runtime: the agent plans with it but does not serve from it"
    if inventory.version(backend.name) is None:
        return f"{backend.title} is not {_remedy(backend)}"
    if backend.lacking is None:
        return None
    reason: str | None = resolve(backend.lacking)(runtime, kind, inventory, root)
    return reason


def _remedy(backend: Backend) -> str:
    return "usable here" if backend.extra is None else f"installed ({extras.command(backend.extra)})"


def onnx(runtime: Runtime, kind: str, inventory: RuntimeInventory, _: Path) -> str | None:
    """A provider of ONNX Runtime: in this build or plugged in, with a device of that kind."""
    kinds = {device.kind for device in inventory.devices if device.provider == runtime.provider}
    if runtime.plugin is not None and runtime.provider not in inventory.providers:
        if not kinds:
            return f"{runtime.provider} is not usable (package {runtime.plugin})"
    elif runtime.provider not in inventory.providers:
        return f"this build of ONNX Runtime has no {runtime.provider}"
    wanted = _KINDS.get(kind)
    if kinds and wanted is not None and wanted not in kinds:
        return f"{runtime.provider} finds no {wanted} here (only {', '.join(sorted(kinds))})"
    return None


def litert(runtime: Runtime, _: str, inventory: RuntimeInventory, root: Path) -> str | None:
    """A delegate or a compiled model's accelerator of LiteRT."""
    if runtime.provider.startswith("compiled-") and inventory.litert_module == "tflite_runtime.interpreter":
        return f"{runtime.provider} needs ai-edge-litert; tflite-runtime has none ({extras.command('litert')})"
    if runtime.provider == "external" and not _library(runtime.plugin, root):
        return f"the delegate {runtime.plugin} is not installed"
    return None


def _library(plugin: str | None, root: Path) -> bool:
    if plugin is None:
        return False
    if plugin.startswith("/"):
        return (root / plugin.lstrip("/")).exists()
    return any((root / folder / plugin).exists() for folder in LIBRARY_FOLDERS)
