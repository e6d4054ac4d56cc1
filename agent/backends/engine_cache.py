"""Engine cache: the options by which runtimes that compile keep what they made, and what a folder of it shows.

Owns the knowledge of each provider's spelling. Options that the profile gives itself are never changed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from agent.errors import ModelLoadFailed

Options = dict[str, str]

MOST_BYTES: Final = 2 * 1024**3
"""Of one accelerator's engines."""


def with_cache(provider: str, options: Mapping[str, str], folder: str, device: str | None = None) -> Options:
    """The options with the provider's cache in `folder`; as they are for a provider that has none.

    device: name of the OpenVINO device where the provider is a plugin, which reads its options per device. Raises
    ModelLoadFailed where the profile's own `load_config` is no JSON object.
    """
    make = _MAKERS.get(provider)
    return dict(options) if make is None else make(dict(options), folder, device)


def caches(provider: str) -> bool:
    """Whether a cache can be asked of this provider."""
    return provider in _MAKERS


def engines_in(folder: Path) -> frozenset[str]:
    """Names of what lies in a cache folder now."""
    return frozenset(f.name for f in folder.iterdir() if f.is_file()) if folder.is_dir() else frozenset()


def prune(folder: Path, most_bytes: int = MOST_BYTES) -> None:
    """Forget the engines that were made longest ago, as far as the folder is over its bound."""
    if not folder.is_dir():
        return
    files = sorted((f.stat().st_mtime_ns, f.stat().st_size, f) for f in folder.iterdir() if f.is_file())
    total = sum(size for _, size, _ in files)
    for _, size, file in files:
        if total <= most_bytes:
            return
        file.unlink(missing_ok=True)
        total -= size


def _openvino(options: Options, folder: str, device: str | None) -> Options:
    if device is None:
        return {"cache_dir": folder} | options
    try:
        config: Any = json.loads(options.get("load_config", "{}"))
        own = config.setdefault(device, {})
        own.setdefault("CACHE_DIR", folder)
    except (ValueError, AttributeError) as error:
        raise ModelLoadFailed(f"options.load_config is no JSON object of devices: {error}") from error
    return options | {"load_config": json.dumps(config)}


def _tensorrt(options: Options, folder: str, _device: str | None) -> Options:
    own = {
        "trt_engine_cache_enable": "1", "trt_engine_cache_path": folder, "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
    }  # fmt: skip
    return own | options


_MAKERS: Final[Mapping[str, Callable[[Options, str, str | None], Options]]] = {
    "OpenVINOExecutionProvider": _openvino,
    "TensorrtExecutionProvider": _tensorrt,
    "NvTensorRTRTXExecutionProvider": lambda options, folder, _: {"nv_runtime_cache_path": folder} | options,
    "CoreMLExecutionProvider": lambda options, folder, _: {"ModelCacheDirectory": folder} | options,
}
