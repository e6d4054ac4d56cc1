"""NVML: temperature, power and energy of NVIDIA GPUs, straight from the driver's own library (no package needed).

Functions and units after the NVML API reference: °C, milliwatts, millijoules since the driver was loaded.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any, Literal, Protocol

from agent.ports import Reading
from agent.records import record
from agent.sensors import readings

LIBRARY = "libnvidia-ml.so.1"
MEND = "install the NVIDIA driver, or restart the agent after it was updated"

_NOT_SUPPORTED = 3
_NO_PERMISSION = 4
_REASONS = {
    1: "not initialised",
    2: "no such GPU",
    _NOT_SUPPORTED: "not supported by this GPU",
    _NO_PERMISSION: "no permission",
    6: "no such GPU",
    9: "the driver is not loaded",
    15: "the GPU fell off the bus",
    999: "unknown error",
}


@record(frozen=True)
class NvmlFault:
    """A call that gave no value."""

    supported: bool
    reason: str


class Nvml(Protocol):
    """What the sensors need of the driver."""

    def count(self) -> int:
        """GPUs, numbered from 0."""
        ...

    def gpu_name(self, index: int) -> str | NvmlFault:
        """Product name."""
        ...

    def memory_bytes(self, index: int) -> int | NvmlFault:
        """Memory of the GPU."""
        ...

    def temperature_c(self, index: int) -> float | NvmlFault:
        """Die temperature."""
        ...

    def power_w(self, index: int) -> float | NvmlFault:
        """Power of the whole card or module."""
        ...

    def energy_j(self, index: int) -> float | NvmlFault:
        """Joules since the driver was loaded."""
        ...


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


class NvmlLibrary:
    """NVML through ctypes. `library` is the loaded and initialised libnvidia-ml."""

    def __init__(self, library: Any) -> None:
        self._library = library

    def count(self) -> int:
        """GPUs, numbered from 0; 0 where the driver does not say."""
        number = ctypes.c_uint()
        return int(number.value) if self._library.nvmlDeviceGetCount_v2(ctypes.byref(number)) == 0 else 0

    def gpu_name(self, index: int) -> str | NvmlFault:
        """Product name."""
        text = ctypes.create_string_buffer(96)
        fault = self._call("nvmlDeviceGetName", index, text, ctypes.c_uint(96))
        return fault or text.value.decode("utf-8", "replace")

    def memory_bytes(self, index: int) -> int | NvmlFault:
        """Memory of the GPU."""
        memory = _Memory()
        return self._call("nvmlDeviceGetMemoryInfo", index, ctypes.byref(memory)) or int(memory.total)

    def temperature_c(self, index: int) -> float | NvmlFault:
        """Die temperature."""
        number = ctypes.c_uint()
        fault = self._call("nvmlDeviceGetTemperature", index, ctypes.c_int(0), ctypes.byref(number))
        return fault or float(number.value)

    def power_w(self, index: int) -> float | NvmlFault:
        """Power of the whole card or module; the mean of one second on recent GPUs."""
        number = ctypes.c_uint()
        return self._call("nvmlDeviceGetPowerUsage", index, ctypes.byref(number)) or number.value / 1000.0

    def energy_j(self, index: int) -> float | NvmlFault:
        """Joules since the driver was loaded (Volta and later)."""
        number = ctypes.c_ulonglong()
        fault = self._call("nvmlDeviceGetTotalEnergyConsumption", index, ctypes.byref(number))
        return fault or number.value / 1000.0

    def _call(self, function: str, index: int, *arguments: Any) -> NvmlFault | None:
        handle = ctypes.c_void_p()
        code = self._library.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle))
        if code == 0:
            code = getattr(self._library, function)(handle, *arguments)
        if code == 0:
            return None
        supported = code not in {2, _NOT_SUPPORTED, 6}
        return NvmlFault(supported, f"{function}: {_REASONS.get(code, f'error {code}')}")


def open_nvml(load: Callable[[str], Any] = ctypes.CDLL) -> NvmlLibrary | None:
    """The driver's library, or None where there is none or it does not initialise."""
    try:
        library = load(LIBRARY)
        started = library.nvmlInit_v2() == 0
    except (OSError, AttributeError):
        return None
    return NvmlLibrary(library) if started else None


NvmlKind = Literal["temperature_c", "power_w", "energy_j"]


class NvmlSensor:
    """One quantity of one GPU. The driver's calls take microseconds when it is well; nothing here can bound a hung one,
    so the sampler's thread stalls and its readings go stale."""

    def __init__(self, name: str, kind: NvmlKind, gpu: str, nvml: Nvml | None) -> None:
        self.name = name
        self._kind: NvmlKind = kind
        self._gpu = gpu
        self._nvml = nvml
        self._source = f"nvml {gpu}"

    def read(self, now_s: float) -> Reading:
        """The quantity in SI units."""
        if self._nvml is None or not self._gpu.isdigit():
            detail = f"NVML is not available; {MEND}" if self._nvml is None else f"{self._gpu!r} is no GPU index"
            return readings.absent(self.name, self._kind, now_s, self._source, detail)
        result = self._value(self._nvml, int(self._gpu))
        if isinstance(result, NvmlFault):
            make = readings.failed if result.supported else readings.absent
            return make(self.name, self._kind, now_s, self._source, result.reason)
        return readings.value(self.name, self._kind, result, now_s, self._source)

    def _value(self, nvml: Nvml, index: int) -> float | NvmlFault:
        if self._kind == "temperature_c":
            return nvml.temperature_c(index)
        return nvml.power_w(index) if self._kind == "power_w" else nvml.energy_j(index)
