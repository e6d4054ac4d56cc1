"""Heat recorder: this board's temperatures and powers as a CSV that `qeil heat` reads.

Rows are written as they come, so that what was recorded until an interruption is kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from agent import records
from agent.errors import SensorError, StorageError
from agent.ports import Clock, Reading, Sensor

_SUFFIX = {"temperature_c": "_c", "power_w": "_w"}


@records.record(frozen=True)
class Recorded:
    """What was written."""

    rows: int
    columns: tuple[str, ...]


def sensors_of(profile: str | None) -> tuple[Sensor, ...]:
    """Sensors of a profile by name or path, of the detected board where it is None."""
    from agent.sensors.registry import build_sensors  # noqa: PLC0415  (only a recording needs them)
    from agent.sensors.sysfs import SysfsReader  # noqa: PLC0415
    from agent.service import assembly  # noqa: PLC0415

    return build_sensors(assembly.base_profile(profile or "auto"), SysfsReader(Path("/")))


def record(
    file: Path,
    sensors: Sequence[Sensor],
    clock: Clock,
    seconds: float,
    every_s: float,
    ambient_c: float | None,
    report: Callable[[str, int, int], None],
    sleep: Callable[[float], None] = time.sleep,
) -> Recorded:
    """Sample for so long, a row every `every_s`; a sensor that fails leaves its cell empty.

    Only sensors that give a temperature or a power at the start are recorded. Raises SensorError without a
    temperature, StorageError where the file exists or cannot be written.
    """
    for sensor in sensors:
        sensor.read(clock.monotonic_s())  # a power made of a counter has no value before its second reading
    sleep(every_s)
    found = [(sensor, sensor.read(clock.monotonic_s())) for sensor in sensors]
    kept = [(sensor, reading) for sensor, reading in found if reading.kind in _SUFFIX and reading.value is not None]
    if not any(reading.kind == "temperature_c" for _, reading in kept):
        raise SensorError("no temperature sensor gives a value here; qeil detect shows what this machine has")
    names = [sensor.name + _SUFFIX[reading.kind] for sensor, reading in kept]
    columns = ("time_s", *(["ambient_c"] if ambient_c is not None else []), *names)
    begin_s = clock.monotonic_s()
    rows = 0
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(",".join(columns) + "\n")
            while (now_s := clock.monotonic_s()) <= begin_s + seconds:
                cells = [f"{now_s - begin_s:.3f}", *([f"{ambient_c:g}"] if ambient_c is not None else [])]
                cells += [_cell(sensor.read(clock.monotonic_s())) for sensor, _ in kept]
                out.write(",".join(cells) + "\n")
                out.flush()
                rows += 1
                report(f"{rows} samples", int(now_s - begin_s), int(seconds))
                sleep(max(0.0, begin_s + rows * every_s - clock.monotonic_s()))
    except FileExistsError as error:
        raise StorageError(f"{file} exists already; name another file") from error
    except OSError as error:
        raise StorageError(f"{file} cannot be written: {error.strerror or error}") from error
    return Recorded(rows, columns)


def _cell(reading: Reading) -> str:
    return "" if reading.value is None else f"{reading.value:.4g}"
