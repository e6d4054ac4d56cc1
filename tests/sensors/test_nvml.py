# ruff: noqa: N802  (the fake carries the names of the driver library)
import ctypes

import pytest

from agent.sensors.nvml import NvmlFault, NvmlLibrary, NvmlSensor, open_nvml


class FakeDriver:
    """libnvidia-ml with one GPU: fills the memory it is handed, as the real one does."""

    def __init__(self, failing: dict[str, int] | None = None) -> None:
        self.failing = failing or {}

    def nvmlInit_v2(self):
        return self.failing.get("init", 0)

    def nvmlDeviceGetCount_v2(self, out):
        out._obj.value = 1
        return self.failing.get("count", 0)

    def nvmlDeviceGetHandleByIndex_v2(self, index, out):
        out._obj.value = 0xBEEF
        return 0 if index.value == 0 else 2

    def nvmlDeviceGetName(self, handle, text, size):
        text.value = b"Some GPU"
        return self.failing.get("name", 0)

    def nvmlDeviceGetMemoryInfo(self, handle, out):
        out._obj.total = 8 << 30
        return 0

    def nvmlDeviceGetTemperature(self, handle, sensor, out):
        assert sensor.value == 0
        out._obj.value = 61
        return self.failing.get("temperature", 0)

    def nvmlDeviceGetPowerUsage(self, handle, out):
        out._obj.value = 71_500
        return self.failing.get("power", 0)

    def nvmlDeviceGetTotalEnergyConsumption(self, handle, out):
        assert isinstance(out._obj, ctypes.c_ulonglong)
        out._obj.value = 5_000_000_000_000
        return self.failing.get("energy", 0)


def library(**failing: int) -> NvmlLibrary:
    return NvmlLibrary(FakeDriver(failing))


def test_the_driver_s_units_become_si():
    nvml = library()

    assert (nvml.count(), nvml.gpu_name(0), nvml.memory_bytes(0)) == (1, "Some GPU", 8 << 30)
    assert NvmlSensor("gpu", "temperature_c", "0", nvml).read(1.0).value == 61.0
    assert NvmlSensor("gpu", "power_w", "0", nvml).read(1.0).value == pytest.approx(71.5)
    assert NvmlSensor("gpu", "energy_j", "0", nvml).read(1.0).value == pytest.approx(5e9)


@pytest.mark.parametrize(
    ("code", "fault"), [(3, "absent"), (4, "read_failed"), (15, "read_failed"), (77, "read_failed")]
)
def test_a_quantity_that_the_gpu_does_not_have_is_absent_and_a_sick_driver_a_failed_read(code, fault):
    reading = NvmlSensor("gpu", "power_w", "0", library(power=code)).read(1.0)

    assert (reading.value, reading.fault) == (None, fault)
    assert "nvmlDeviceGetPowerUsage" in reading.detail


def test_another_index_is_no_gpu():
    assert NvmlSensor("gpu", "temperature_c", "1", library()).read(1.0).fault == "absent"
    assert NvmlSensor("gpu", "temperature_c", "rtx", library()).read(1.0).fault == "absent"
    assert isinstance(library().gpu_name(1), NvmlFault)
    assert library(count=1).count() == 0


def test_without_a_driver_the_reading_is_absent_and_says_what_to_do():
    reading = NvmlSensor("gpu", "temperature_c", "0", None).read(1.0)

    assert reading.fault == "absent"
    assert "driver" in reading.detail


def test_a_library_that_is_missing_or_does_not_start_is_none():
    def missing(name):
        raise OSError(name)

    assert open_nvml(missing) is None
    assert open_nvml(lambda name: FakeDriver({"init": 9})) is None
    assert open_nvml(lambda name: object()) is None
    assert isinstance(open_nvml(lambda name: FakeDriver()), NvmlLibrary)
