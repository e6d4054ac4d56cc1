"""Trees that look like /sys and /proc of real boards, built in a temporary folder: {path: content} per board."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

Spec = Mapping[str, str | int]


def build_sysfs(root: Path, *specs: Spec) -> Path:
    """Write every file; later specs overwrite earlier ones. Returns the root."""
    for spec in specs:
        for path, content in spec.items():
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{content}\n", encoding="utf-8")
    return root


def zone(
    number: int, type_: str, millidegrees: int | str, trips: Mapping[str, int] | None = None
) -> dict[str, str | int]:
    folder = f"sys/class/thermal/thermal_zone{number}"
    files: dict[str, str | int] = {f"{folder}/type": type_, f"{folder}/temp": millidegrees}
    for index, (kind, value) in enumerate((trips or {}).items()):
        files[f"{folder}/trip_point_{index}_type"] = kind
        files[f"{folder}/trip_point_{index}_temp"] = value
    return files


def chip(number: int, name: str, files: Spec) -> dict[str, str | int]:
    folder = f"sys/class/hwmon/hwmon{number}"
    return {f"{folder}/name": name, **{f"{folder}/{file}": content for file, content in files.items()}}


def cpus(count: int, siblings: int = 1, max_khz: tuple[int, ...] = ()) -> dict[str, str | int]:
    files: dict[str, str | int] = {"sys/devices/system/cpu/online": f"0-{count - 1}"}
    for n in range(count):
        core = n - n % siblings
        last = core + siblings - 1
        folder = f"sys/devices/system/cpu/cpu{n}"
        files[f"{folder}/topology/thread_siblings_list"] = f"{core}" if siblings == 1 else f"{core}-{last}"
        if max_khz:
            files[f"{folder}/cpufreq/cpuinfo_max_freq"] = max_khz[n]
    return files


def memory(kib: int) -> dict[str, str | int]:
    return {
        "proc/meminfo": f"MemTotal:       {kib} kB\nMemFree: 1000 kB\nMemAvailable:   {kib // 2} kB\nSwapTotal: 0 kB"
    }


def rapl(folder: str, name: str, energy_uj: int | str, range_uj: int = 262_143_328_850) -> dict[str, str | int]:
    base = f"sys/class/powercap/{folder}"
    return {f"{base}/name": name, f"{base}/energy_uj": energy_uj, f"{base}/max_energy_range_uj": range_uj}


JETSON_ORIN_NANO: Spec = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd42",
    **cpus(6), **memory(7_802_000),
    **zone(0, "cpu-thermal", 48_250, {"critical": 104_500, "passive": 99_000}),
    **zone(1, "gpu-thermal", 47_031),
    **zone(8, "tj-thermal", 49_812, {"active": 51_000, "hot": 99_000}),
    **chip(1, "ina3221", {
        "in1_label": "VDD_IN", "in1_input": 5008, "curr1_input": 1200,
        "in2_label": "VDD_CPU_GPU_CV", "in2_input": 5000, "curr2_input": 400,
        "in3_label": "VDD_SOC", "in3_input": 4992, "curr3_input": 300,
        "in4_input": 12, "in7_label": "sum of shunt voltages", "in7_input": 20, "curr4_input": 1900,
    }),
}  # fmt: skip

RASPBERRY_PI_5: Spec = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/cpuinfo": "processor\t: 0\nFeatures\t: fp asimd\n\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0",
    **cpus(4, max_khz=(2_400_000,) * 4), **memory(8_256_000),
    **zone(0, "cpu-thermal", 56_200),
    "sys/devices/system/cpu/cpufreq/policy0/scaling_cur_freq": 1_500_000,
    "sys/devices/system/cpu/cpufreq/policy0/cpuinfo_max_freq": 2_400_000,
}  # fmt: skip

X86: Spec = {
    "sys/class/dmi/id/product_name": "NUC",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Some x86 CPU @ 2 GHz\nflags\t\t: fpu avx2",
    **cpus(8, siblings=2), **memory(16_000_000),
    **zone(0, "acpitz", 27_800), **zone(1, "iwlwifi_1", 76_000),
    **chip(0, "coretemp", {"temp1_label": "Package id 0", "temp1_input": 55_000, "temp2_input": 52_000}),
    **chip(1, "nvme", {"temp1_label": "Composite", "temp1_input": 39_850}),
    **rapl("intel-rapl:0", "package-0", 1_000_000), **rapl("intel-rapl:0:0", "core", 400_000),
    **rapl("intel-rapl-mmio:0", "package-0", 1_000_000),
}  # fmt: skip

LAPTOP: Spec = {
    **X86,
    "sys/class/power_supply/AC/type": "Mains",
    "sys/class/power_supply/mouse/type": "Battery", "sys/class/power_supply/mouse/scope": "Device",
    "sys/class/power_supply/mouse/capacity": 3,
    "sys/class/power_supply/BAT0/type": "Battery", "sys/class/power_supply/BAT0/capacity": 80,
    "sys/class/power_supply/BAT0/status": "Discharging", "sys/class/power_supply/BAT0/power_now": 12_500_000,
}  # fmt: skip

VIRTUAL_MACHINE: Spec = {
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Virtual CPU\nflags\t: fpu hypervisor",
    **cpus(2), **memory(4_000_000),
    "sys/bus/event_source/devices/power/events/energy-psys": "event=0x05",
}  # fmt: skip
