import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.backends.probe import EpDevice, RuntimeInventory
from agent.cli.detect import as_data, detect_command, show
from agent.errors import ConfigError, StorageError
from agent.schema.device import DeviceProfile, Runtime
from agent.sensors.nvml import NvmlFault
from agent.service.calibration.profile_file import profile_yaml, write_profile
from agent.service.detection import Detected, detect, load_profiles, match, missing_runtime
from agent.storage import yaml_files
from tests.fakes_sysfs import (
    JETSON_ORIN_NANO,
    LAPTOP,
    RASPBERRY_PI_5,
    VIRTUAL_MACHINE,
    X86,
    build_sysfs,
    chip,
    rapl,
    zone,
)

BOTH = RuntimeInventory(
    onnxruntime="1.22.0", providers=("CPUExecutionProvider",), litert="2.0", delegates=("XNNPACK",),
    devices=(EpDevice("CPUExecutionProvider", "CPU", "x", None, {}),),
)  # fmt: skip
JETSON = RuntimeInventory(
    onnxruntime="1.18.0", providers=("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"),
)  # fmt: skip


@pytest.fixture(scope="module")
def shipped() -> dict[str, DeviceProfile]:
    folder = Path(__file__).resolve().parents[2] / "device_profiles"
    return {path.stem: yaml_files.load_profile(path) for path in folder.glob("*.yaml")}


def looked(root, shipped, spec, machine, inventory=BOTH) -> Detected:
    return detect(build_sysfs(root, spec), inventory, shipped, machine, lambda: None)


def test_a_jetson_is_recognised_with_rails_and_zones_that_answer(tmp_path, shipped):
    found = looked(tmp_path, shipped, JETSON_ORIN_NANO, "aarch64", JETSON)

    assert (found.matched, found.generic) == ("jetson-orin-nano-super", False)
    values = {f.name: f.value for f in found.sensors if f.what == "rail"}
    assert values["module"] == pytest.approx(6.0096)
    assert all(f.value is not None and not f.consequence for f in found.sensors)


def test_memory_is_what_the_machine_has_and_says_measured(tmp_path, shipped):
    profile = looked(tmp_path, shipped, RASPBERRY_PI_5, "aarch64").profile

    capacity = profile.memory_domains[0].capacity_bytes
    assert (profile.name, capacity.value, capacity.provenance) == ("raspberry-pi-5", 8_256_000 * 1024, "measured")


def test_a_board_without_power_sensor_is_told_that_joules_are_modelled(tmp_path, shipped):
    found = looked(tmp_path, shipped, RASPBERRY_PI_5, "aarch64")

    assert "no power sensor: joules will be modelled" in found.notes
    assert [(f.name, f.value) for f in found.sensors] == [("soc", 56.2)]


def test_an_unknown_pc_gets_the_generic_profile_with_its_own_sensors(tmp_path, shipped):
    found = looked(tmp_path, shipped, X86, "x86_64")

    assert (found.matched, found.generic) == ("generic-x86", True)
    zones = {z.type: z.critical for z in found.profile.zones}
    assert zones == {"coretemp/Package id 0": True}
    assert [r.source for r in found.profile.rails] == []  # its counter stands still in this tree
    assert any("does not move" in note for note in found.notes)


def test_disks_radios_and_constant_firmware_zones_are_not_watched(tmp_path, shipped):
    found = looked(tmp_path, shipped, X86, "x86_64")

    assert not {"acpitz", "iwlwifi_1", "nvme/Composite"} & {z.type for z in found.profile.zones}


def test_peaks_that_were_assumed_follow_the_core_count(tmp_path, shipped):
    found = looked(tmp_path, shipped, X86, "x86_64")

    one = shipped["generic-x86"].accelerator("cpu-eco").peak_flops_per_s["fp32"].value
    cpu = found.profile.accelerator("cpu")
    assert cpu.peak_flops_per_s["fp32"].value == 4 * one
    assert cpu.threads == 4  # of 8 hyper-threads
    assert found.profile.accelerator("cpu-eco").threads == 1


def test_accelerators_without_a_runtime_are_dropped_and_said(tmp_path, shipped):
    found = looked(tmp_path, shipped, JETSON_ORIN_NANO, "aarch64", BOTH)

    assert [a.name for a in found.profile.accelerators] == ["cpu"]
    assert any(note.startswith("gpu is left out: ") and "CUDAExecutionProvider" in note for note in found.notes)
    assert all(set(rail.covers) <= {"cpu"} for rail in found.profile.rails)
    DeviceProfile.model_validate(found.profile.model_dump())


def test_a_plugin_serves_only_the_kinds_of_device_it_found(tmp_path, shipped):
    plugin = "onnxruntime_ep_openvino"
    inventory = RuntimeInventory(
        onnxruntime="1.31.1", providers=("CPUExecutionProvider",), litert="2.3.0", plugins=(plugin,),
        devices=tuple(EpDevice("OpenVINOExecutionProvider", kind, "Intel", plugin, {}) for kind in ("CPU", "NPU")),
    )  # fmt: skip
    spec = {**VIRTUAL_MACHINE, "proc/cpuinfo": "model name\t: Intel(R) Core(TM) Ultra 7 155H"}

    found = looked(tmp_path, shipped, spec, "x86_64", inventory)

    assert found.matched == "core-ultra-155h"
    assert [a.name for a in found.profile.accelerators] == ["cpu", "cpu-openvino", "npu"]
    assert any("finds no GPU here" in note for note in found.notes)


def test_a_delegate_counts_as_here_when_its_library_is(tmp_path, shipped):
    coral = {"proc/device-tree/model": "Freescale i.MX8MQ Phanbell"}
    inventory = RuntimeInventory(litert="2.0")
    without = looked(tmp_path, shipped, coral, "aarch64", inventory)

    build_sysfs(tmp_path, {"usr/lib/aarch64-linux-gnu/libedgetpu.so.1": ""})

    assert [a.name for a in without.profile.accelerators] == ["cpu"]
    assert [a.name for a in looked(tmp_path, shipped, {}, "aarch64", inventory).profile.accelerators] == ["cpu", "tpu"]


@pytest.mark.parametrize(("module", "missing"), [("ai_edge_litert", False), ("tflite_runtime", True)])
def test_compiled_models_need_the_newer_of_the_two_runtimes(tmp_path, shipped, module, missing):
    cpu = shipped["generic-x86"].accelerator("cpu")
    inventory = RuntimeInventory(litert="2.0", litert_module=f"{module}.interpreter")
    reason = missing_runtime(Runtime(backend="litert", provider="compiled-gpu"), cpu, inventory, tmp_path)

    assert (reason is not None and "needs ai-edge-litert" in reason) == missing


def test_a_device_that_the_profile_does_not_describe_is_mentioned(tmp_path, shipped):
    inventory = RuntimeInventory(
        onnxruntime="1.31", providers=("CPUExecutionProvider", "CUDAExecutionProvider"),
        devices=(EpDevice("CUDAExecutionProvider", "GPU", "NVIDIA", None, {}),),
    )  # fmt: skip

    notes = looked(tmp_path, shipped, X86, "x86_64", inventory).notes

    assert any("CUDAExecutionProvider offers a GPU" in note for note in notes)


def test_a_machine_without_runtime_still_has_a_complete_profile(tmp_path, shipped):
    found = looked(tmp_path, shipped, VIRTUAL_MACHINE, "x86_64", RuntimeInventory(notes=("why not",)))

    assert [a.name for a in found.profile.accelerators] == ["cpu"]
    assert any("no runtime at all" in note for note in found.notes)
    assert "why not" in found.notes


def test_a_virtual_machine_has_no_sensor_and_the_dead_counter_is_named(tmp_path, shipped):
    found = looked(tmp_path, shipped, VIRTUAL_MACHINE, "x86_64")

    assert (found.sensors, found.profile.zones, found.profile.rails) == ((), (), ())
    assert any("energy-psys" in note for note in found.notes)
    assert any("no_thermal_sensor" in note for note in found.notes)


def test_a_board_s_zones_are_left_out_only_where_the_machine_shows_no_temperature_at_all(tmp_path, shipped):
    bare = {key: value for key, value in JETSON_ORIN_NANO.items() if "thermal" not in key}

    none = looked(tmp_path / "a", shipped, bare, "aarch64", JETSON)
    other = looked(tmp_path / "b", shipped, {**bare, **zone(0, "gpu-thermal", 40_000)}, "aarch64", JETSON)

    assert none.profile.zones == ()
    lost = {f.name: f.consequence for f in other.sensors if f.what == "zone" and f.value is None}
    assert lost["tj"] == "it counts as hot, so nothing runs"


def test_kernel_trip_points_become_trips_of_a_found_zone(tmp_path, shipped):
    spec = {
        **VIRTUAL_MACHINE,
        **zone(0, "cpu-thermal", 50_000, {"critical": 105_000, "passive": 0, "weird": 80_000, "hot": 95_000}),
        **zone(1, "gpu-thermal", 50_000), **zone(2, "npu-thermal", "?"),
    }  # fmt: skip
    zones = looked(tmp_path, shipped, spec, "aarch64").profile.zones

    assert [(z.name, z.critical) for z in zones] == [("cpu-thermal", True), ("gpu-thermal", False)]
    assert [(t.kind, t.temperature_c.value) for t in zones[0].trips] == [("critical", 105.0), ("hot", 95.0)]


def test_power_monitors_and_batteries_become_rails(tmp_path, shipped):
    spec = {**LAPTOP, **chip(3, "ina238", {"power1_input": 5_000_000, "label": "VIN"})}

    found = looked(tmp_path, shipped, spec, "x86_64")

    assert {(r.name, r.source, r.type) for r in found.profile.rails} == {
        ("vin", "hwmon", "ina238/VIN"), ("bat0", "battery", "BAT0")
    }  # fmt: skip
    assert {f.name: f.value for f in found.sensors if f.what == "rail"} == {"vin": 5.0, "bat0": 12.5}


def test_a_moving_counter_covers_the_cpu_accelerators(tmp_path, shipped):
    build_sysfs(tmp_path, X86)

    def meanwhile(seconds):
        build_sysfs(tmp_path, rapl("intel-rapl:0", "package-0", 2_000_000))

    found = detect(tmp_path, BOTH, shipped, "x86_64", lambda: None, meanwhile)

    assert [(r.name, r.covers) for r in found.profile.rails] == [("package", ("cpu", "cpu-eco"))]
    assert [f.unit for f in found.sensors if f.value is not None] == ["°C", "W"]


def test_the_most_specific_match_wins(tmp_path, shipped):
    found = looked(tmp_path, shipped, RASPBERRY_PI_5, "aarch64")

    assert match(shipped, found.host) == "raspberry-pi-5"
    assert match({}, found.host) is None


def test_a_machine_that_nothing_fits_is_one_clear_error(tmp_path, shipped):
    with pytest.raises(ConfigError, match=r"no device profile fits this machine \(riscv64\)"):
        looked(tmp_path, shipped, {}, "riscv64")


def test_an_owner_s_broken_profile_is_left_out_and_said(tmp_path, shipped):
    folder = tmp_path / "device_profiles"
    folder.mkdir()
    (folder / "broken.yaml").write_text("version: 1\nname: [\n")
    (folder / "mine.yaml").write_text(profile_yaml(shipped["generic-x86"], []))
    notes: list[str] = []

    profiles = load_profiles(notes, [tmp_path])

    assert list(profiles) == ["mine"]
    assert notes[0].startswith("the device profile broken is wrong and was left out")


def test_a_gpu_that_no_profile_uses_is_named(tmp_path, shipped):
    class OneGpu:
        def count(self):
            return 2

        def gpu_name(self, index):
            return "Some GPU" if index == 0 else NvmlFault(True, "lost")

    build_sysfs(tmp_path, VIRTUAL_MACHINE, {"proc/driver/nvidia/version": "NVRM"})

    notes = detect(tmp_path, BOTH, shipped, "x86_64", OneGpu).notes

    assert [n.partition(" is here")[0] for n in notes if "is here" in n] == ["Some GPU", "GPU 1"]


def test_this_machine_is_detected_with_the_shipped_profiles():
    assert detect(Path("/"), BOTH).profile.accelerators


# ---------------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    ("spec", "machine"), [(JETSON_ORIN_NANO, "aarch64"), (RASPBERRY_PI_5, "aarch64"), (LAPTOP, "x86_64")]
)
def test_the_written_profile_is_read_back_as_it_was_and_has_comments(tmp_path, shipped, spec, machine):
    found = looked(tmp_path / "root", shipped, spec, machine, JETSON if spec is JETSON_ORIN_NANO else BOTH)
    file = tmp_path / "board.yaml"

    write_profile(file, found.profile, found.notes)

    assert yaml_files.load_profile(file) == found.profile
    assert "# Temperature sensors, found by type or label." in file.read_text()
    assert all(note.split()[0] in file.read_text() for note in found.notes)


def test_a_note_of_several_lines_stays_a_comment(tmp_path, shipped):
    profile = shipped["generic-x86"]

    text = profile_yaml(profile, ["first\nversion: 7"])

    assert "# - first version: 7" in text


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path, shipped):
    with pytest.raises(StorageError, match="cannot be written"):
        write_profile(tmp_path / "none" / "x.yaml", shipped["generic-x86"], [])


# ---------------------------------------------------------------------------------------------- the command


def test_the_command_writes_a_profile_that_can_be_loaded_and_shows_what_is_missing(tmp_path):
    file = tmp_path / "here.yaml"

    outcome = CliRunner().invoke(detect_command, ["--write", str(file)])

    assert outcome.exit_code == 0, outcome.output
    assert yaml_files.load_profile(file).accelerators
    assert "Accelerators" in outcome.output
    assert f"written to {file}" in outcome.output


def test_json_carries_profile_host_sensors_and_notes(tmp_path, shipped):
    found = looked(tmp_path, shipped, JETSON_ORIN_NANO, "aarch64", JETSON)

    data = json.loads(json.dumps(as_data(found)))

    assert set(data) == {"matched", "generic", "host", "sensors", "notes", "profile"}
    assert DeviceProfile.model_validate_json(json.dumps(data["profile"])) == found.profile


def test_sensors_are_shown_with_value_and_cost(tmp_path, shipped, capsys):
    spec = {**JETSON_ORIN_NANO, **zone(8, "renamed", 1)}

    show(looked(tmp_path, shipped, spec, "aarch64", JETSON))

    shown = capsys.readouterr().out
    assert "6.0 W" in shown
    assert "× absent" in shown
    assert "nothing runs" in shown
    assert "matches the shipped profile jetson-orin-nano-super" in shown
