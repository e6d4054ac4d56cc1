import json
import os
import types

import numpy as np
import pytest
from click.testing import CliRunner

from agent import extras
from agent.backends.probe import RuntimeInventory
from agent.cli.doctor import doctor_command, show
from agent.schema.settings import HttpSettings, ModelEntry, OutboxSettings, Settings
from agent.service import assembly
from agent.service.check_result import fail, ok, warn
from agent.service.detection import detect
from agent.service.doctor import doctor_machine, doctor_models, doctor_settings
from agent.service.doctor.doctor import Surroundings, current_surroundings, examine, installed_distributions
from tests.fakes_sysfs import JETSON_ORIN_NANO, VIRTUAL_MACHINE, X86, build_sysfs
from tests.integration.agent_process import MAGIKA, model_file
from tests.service.test_detection import BOTH, JETSON, shipped  # noqa: F401  (fixture)

NOW_S = 1_800_000_000.0

NOW_S = 1_800_000_000.0


def settings(tmp_path, **changes) -> Settings:
    return Settings(version=1, state_dir=tmp_path / "state", http=HttpSettings(port=0)).model_copy(update=changes)


def around(root, shipped_profiles, **changes) -> Surroundings:
    values = {
        "inventory": BOTH, "root": root, "machine": "x86_64", "profiles": shipped_profiles, "wall_s": NOW_S,
        "python": (3, 11), "distributions": frozenset({"onnxruntime"}),
    } | changes  # fmt: skip
    return Surroundings(**values)


def by_check(results):
    return {result.check: result for result in results}


def config(tmp_path, text):
    file = tmp_path / "agent.yaml"
    file.write_text(text)
    return file


# ---------------------------------------------------------------------------------------------- the whole


def test_a_healthy_board_has_nothing_to_mend(tmp_path, shipped):  # noqa: F811
    build_sysfs(tmp_path, JETSON_ORIN_NANO, {"run/systemd/timesync/synchronized": ""})
    file = config(tmp_path, f"version: 1\nstate_dir: {tmp_path}/state\nhttp: {{port: 0}}\n")

    results = examine(file, around(tmp_path, shipped, machine="aarch64", inventory=JETSON))

    assert [r for r in results if r.result == "fail"] == []
    assert all(r.mend for r in results if r.result != "ok")
    checks = by_check(results)
    assert "module 6.0 W" in checks["power"].message
    assert "jetson-orin-nano-super (this board)" in checks["profile"].message
    assert checks["clock"].result == "ok"


def test_a_virtual_machine_is_told_what_missing_sensors_cost(tmp_path, shipped):  # noqa: F811
    build_sysfs(tmp_path, VIRTUAL_MACHINE)
    results = by_check(examine(None, around(tmp_path, shipped, environ={"QEIL_STATE_DIR": str(tmp_path)})))

    assert (results["temperature"].result, results["power"].result) == ("warn", "warn")
    assert "joules will be modelled" in results["power"].message


def test_mistakes_in_the_settings_are_told_and_do_not_hide_what_else_is_wrong(tmp_path, shipped):  # noqa: F811
    text = """version: 1
port: 8
http: {port: 0, keep_alive_s: never}
policy: gone
models:
  - {name: a, paht: a.onnx}
  - {name: b, path: b.onnx}
"""
    results = examine(config(tmp_path, text), around(tmp_path, shipped))

    told = [r.message for r in results if r.check == "settings" and r.result == "fail"]
    assert [any(f"agent.yaml:{line}:" in t for t in told) for line in (2, 3, 6)] == [True, True, True]
    assert by_check(results)["policy"].result == "fail"
    assert by_check(results)["model b"].result == "fail"
    assert "model a" not in by_check(results)


@pytest.mark.parametrize("text", ["version: 1\nmodels: [\n", "port: 8\n", "- 1\n"])
def test_settings_of_which_nothing_valid_remains_end_the_checks_with_the_line(tmp_path, shipped, text):  # noqa: F811
    results = by_check(examine(config(tmp_path, text), around(tmp_path, shipped)))
    assert results["settings"].result == "fail"
    assert "agent.yaml" in results["settings"].message
    assert "policy" not in results


def test_many_mistakes_are_a_dozen_lines_and_a_number(tmp_path, shipped):  # noqa: F811
    file = config(tmp_path, "version: 1\n" + "".join(f"wrong_{n}: 1\n" for n in range(40)))
    results = examine(file, around(tmp_path, shipped))
    told = [r.message for r in results if r.check == "settings" and r.result == "fail"]
    assert (len(told), told[-1]) == (13, "28 more mistakes")


def test_a_machine_without_profile_fails_but_the_other_checks_go_on(tmp_path, shipped):  # noqa: F811
    file = config(tmp_path, f"version: 1\nstate_dir: {tmp_path}\n")

    results = by_check(examine(file, around(tmp_path, shipped, machine="riscv64")))

    assert results["board"].result == results["profile"].result == "fail"
    assert results["policy"].result == "ok"


def test_a_lost_critical_sensor_fails(tmp_path, shipped):  # noqa: F811
    build_sysfs(tmp_path, JETSON_ORIN_NANO, {"sys/class/thermal/thermal_zone8/temp": "-256000"})

    results = examine(None, around(tmp_path, shipped, machine="aarch64", inventory=JETSON))

    lost = [r for r in results if r.check == "temperature" and r.result == "fail"]
    assert len(lost) == 1
    assert "tj" in lost[0].message


def test_the_command_prints_the_contract_and_fails_with_exit_code_one(tmp_path):
    file = config(tmp_path, "version: 1\npolicy: nosuch\n")

    outcome = CliRunner().invoke(doctor_command, ["--json", "--config", str(file)], standalone_mode=False)

    rows = json.loads(outcome.output)
    assert outcome.return_value == 1
    assert all(set(row) == {"check", "result", "message", "mend"} for row in rows)
    assert next(r for r in rows if r["check"] == "policy")["result"] == "fail"


def test_every_result_has_its_sign_and_mends_stand_below(capsys):
    show([ok("a", "fine"), warn("b", "hm", "do this"), fail("c", "no", "do that")])

    assert capsys.readouterr().out.splitlines() == [
        "√ a  fine", "‼ b  hm", "     → do this", "× c  no", "     → do that", "1 fine, 1 to know, 1 to mend"
    ]  # fmt: skip


def test_the_surroundings_are_this_process():
    assert current_surroundings(BOTH).environ == dict(os.environ)
    assert "pydantic" in installed_distributions()


# ---------------------------------------------------------------------------------------------- machine


def test_a_runtime_is_installed_where_this_program_looks_for_it():
    packaged = doctor_machine.install("litert", extras.PACKAGED / "agent/service/doctor/x.py")
    assert "--target /opt/qeil/runtimes ai-edge-litert && sudo systemctl restart qeil" in packaged
    assert doctor_machine.install("onnx").endswith("-m pip install 'qeil-agent[onnx]'")


def test_a_clock_that_is_behind_what_was_already_written_here_was_set_back(tmp_path):
    witness = tmp_path / "var/lib/dpkg/status"
    witness.parent.mkdir(parents=True)
    witness.write_text("")
    os.utime(witness, (NOW_S, NOW_S))

    behind = doctor_machine.clock(NOW_S - 5 * 86_400, tmp_path)
    assert (behind.result, "5 days behind: /var/lib/dpkg/status" in behind.message) == ("fail", True)
    assert doctor_machine.clock(NOW_S - 3600, tmp_path).result == "warn"
    assert doctor_machine.clock(5e9, tmp_path).result == "fail"


def test_an_old_interpreter_and_an_unset_clock_fail(tmp_path):
    assert doctor_machine.python_version((3, 9)).result == "fail"
    assert doctor_machine.python_version((3, 10)).result == "ok"
    assert doctor_machine.clock(1000.0, tmp_path).result == "fail"
    assert doctor_machine.clock(NOW_S, tmp_path).result == "warn"


@pytest.mark.parametrize(("kib", "result"), [(100_000, "fail"), (300_000, "warn"), (2_000_000, "ok")])
def test_little_memory_is_told_before_it_runs_out(tmp_path, kib, result):
    build_sysfs(tmp_path, {"proc/meminfo": f"MemAvailable: {kib} kB"})

    assert doctor_machine.memory(tmp_path).result == result


def test_unknown_memory_is_a_warning(tmp_path):
    assert doctor_machine.memory(tmp_path).result == "warn"


def test_runtimes_that_are_missing_say_which_models_cannot_run():
    one = by_check(doctor_machine.runtimes(RuntimeInventory(litert="2", notes=("the plugin x is unusable: SIGSEGV",))))

    assert ".onnx models cannot run" in one["onnxruntime"].message
    assert one["litert"].result == "ok"
    assert "SIGSEGV" in one["plugins"].message
    assert doctor_machine.runtimes(RuntimeInventory())[0].result == "fail"


def test_two_builds_in_one_import_folder_are_a_trap():
    result = doctor_machine.runtime_conflict(frozenset({"onnxruntime", "onnxruntime-openvino", "numpy"}))

    assert result.result == "fail"
    assert "pip uninstall -y onnxruntime onnxruntime-openvino" in result.mend
    assert doctor_machine.runtime_conflict(frozenset({"onnxruntime", "onnxruntime-ep-openvino"})).result == "ok"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may open everything")
def test_a_closed_device_node_names_the_group(tmp_path):
    build_sysfs(tmp_path, {"dev/dri/renderD128": ""})
    (tmp_path / "dev/dri/renderD128").chmod(0)

    result = doctor_machine.device_nodes(tmp_path)

    assert result.result == "warn"
    assert "usermod -aG" in result.mend


def test_open_device_nodes_and_none_at_all_are_fine(tmp_path):
    assert "none" in doctor_machine.device_nodes(tmp_path).message
    build_sysfs(tmp_path, {"dev/dri/renderD128": "", "dev/accel/accel0": "", "dev/null": ""})
    result = doctor_machine.device_nodes(tmp_path)
    assert (result.result, result.message) == ("ok", "renderD128, accel0 open to this user")


def test_the_energy_counter_is_told(tmp_path):
    assert "no RAPL" in doctor_machine.energy_counter(tmp_path).message
    build_sysfs(tmp_path, X86)
    assert doctor_machine.energy_counter(tmp_path).message == "package-0, core"


# ---------------------------------------------------------------------------------------------- settings


def test_models_are_there_readable_and_have_a_runtime(tmp_path):
    for name in ("a.onnx", "b.tflite"):
        (tmp_path / name).write_bytes(b"x")
    entries = tuple(
        ModelEntry(name=name[0], path=tmp_path / name) for name in ("a.onnx", "b.tflite", "c.onnx")
    )  # fmt: skip
    served = settings(tmp_path, models=entries)

    none = [r.result for r in doctor_models.models(served, RuntimeInventory(), lambda _: None)]
    both = [r.result for r in doctor_models.models(served, BOTH, lambda _: None)]

    assert (none, both) == (["fail", "fail", "fail"], ["ok", "ok", "fail"])


def test_models_that_are_cut_empty_foreign_or_another_thing_are_told_with_the_reason(tmp_path):
    whole = model_file(*MAGIKA[1:])
    data = whole.read_bytes()
    for name, content in (("cut.onnx", data[:100_000]), ("junk.onnx", b"not a model"), ("junk.tflite", b"not a model"),
                          ("empty.onnx", b""), ("notes.txt", b"")):  # fmt: skip
        (tmp_path / name).write_bytes(content)
    (tmp_path / "folder.onnx").mkdir()

    assert doctor_models.inside(whole) is None
    for file in tmp_path.iterdir():
        assert doctor_models.inside(file), file


def test_a_model_behind_a_link_that_leads_nowhere_is_told_as_one(tmp_path):
    (tmp_path / "loop.onnx").symlink_to("loop.onnx")
    (told,) = doctor_models.models(
        settings(tmp_path, models=(ModelEntry(name="m", path=tmp_path / "loop.onnx"),)), BOTH
    )
    assert "is a symbolic link that leads nowhere" in told.message


def test_a_database_that_was_moved_aside_is_told_with_what_to_look_at(tmp_path):
    (tmp_path / "outbox.damaged-1795378722").write_bytes(b"?")
    told = doctor_settings.state_folder(settings(tmp_path, state_dir=tmp_path))
    assert (told.result, "outbox.damaged-1795378722" in told.message, "smartctl" in told.mend) == ("warn", True, True)


def test_variants_of_a_model_are_looked_at_too(tmp_path):
    gone = {"name": "int8", "path": tmp_path / "gone.onnx", "quality": 0.5}
    entry = ModelEntry.model_validate(
        {"name": "m", "path": model_file(*MAGIKA[1:]), "quality": 1.0, "variants": [gone]}
    )
    results = doctor_models.models(settings(tmp_path, models=(entry,)), BOTH, lambda _: None)
    assert [(r.check, r.result) for r in results] == [("model m", "ok"), ("model m int8", "fail")]


def test_a_state_folder_below_a_file_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    result = doctor_settings.state_folder(settings(tmp_path, state_dir=tmp_path / "file" / "a" / "b"))
    assert (result.result, result.message) == ("fail", f"{tmp_path / 'file'} is not a folder")


def test_the_state_folder_is_made_or_must_be_a_folder(tmp_path):
    (tmp_path / "file").write_text("")

    assert "will be made" in doctor_settings.state_folder(settings(tmp_path)).message
    assert doctor_settings.state_folder(settings(tmp_path, state_dir=tmp_path)).message == str(tmp_path)
    assert doctor_settings.state_folder(settings(tmp_path, state_dir=tmp_path / "file")).result == "fail"


def test_a_folder_that_cannot_be_written_fails():
    result = doctor_settings.state_folder(Settings(version=1, state_dir="/proc/nothing"))

    assert result.result == "fail"
    assert "QEIL_STATE_DIR" in result.mend


def test_an_outbox_larger_than_the_disk_is_told(tmp_path):
    assert doctor_settings.disk_space(settings(tmp_path)).result == "ok"
    huge = settings(tmp_path, outbox=OutboxSettings(max_bytes=10**18))
    assert doctor_settings.disk_space(huge).result == "warn"


def test_a_profile_of_another_board_is_a_warning_and_a_wrong_one_a_failure(tmp_path, shipped):  # noqa: F811
    build_sysfs(tmp_path, JETSON_ORIN_NANO)
    file = config(tmp_path, f"version: 1\nstate_dir: {tmp_path}\nprofile: raspberry-pi-5\nhttp: {{port: 0}}\n")
    results = by_check(examine(file, around(tmp_path, shipped, machine="aarch64", inventory=JETSON)))

    assert results["profile"].result == "warn"
    assert "looks like jetson-orin-nano-super" in results["profile"].message
    assert doctor_settings.profile(settings(tmp_path, profile="raspberry-pi-5"), None).result == "ok"
    assert doctor_settings.profile(settings(tmp_path, profile="raspbery"), None).result == "fail"


@pytest.mark.parametrize(("machine", "result"), [("x86_64", "warn"), ("aarch64", "ok")])
def test_a_profile_of_another_architecture_is_told_where_no_board_is_recognised(tmp_path, shipped, machine, result):  # noqa: F811
    build_sysfs(tmp_path, VIRTUAL_MACHINE)
    detected = detect(tmp_path, BOTH, shipped, machine)
    assert detected.generic
    told = doctor_settings.profile(settings(tmp_path, profile="raspberry-pi-5"), detected)
    assert told.result == result
    if result == "warn":
        assert told.message == "raspberry-pi-5 is set, a board with aarch64, but this machine is x86_64"
        assert told.mend.startswith("set profile: auto")


def test_weights_that_are_not_beside_their_model_are_a_failure(tmp_path):
    onnx = pytest.importorskip("onnx")
    tensor = onnx.numpy_helper.from_array(np.ones((64, 64), np.float32), "w")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 64]) for name in ("x", "y")]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", ends[:1], ends[1:], [tensor]
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    path = tmp_path / "m.onnx"
    onnx.save(model, path, save_as_external_data=True, location="w.bin", size_threshold=0)
    assert doctor_models.inside(path) is None
    (tmp_path / "w.bin").unlink()
    (told,) = doctor_models.models(settings(tmp_path, models=(ModelEntry(name="m", path=path),)), BOTH)
    assert "its weights are in 'w.bin': No such file or directory; put that file beside it" in told.message
    assert told.mend.startswith("copy the file again, with those beside it")


def test_each_trouble_of_a_model_has_the_mend_that_fits(tmp_path):
    for name in ("m.engine", "cut.onnx"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "lm").mkdir()
    entries = tuple(ModelEntry(name=name[:2], path=tmp_path / name) for name in ("m.engine", "cut.onnx", "lm"))
    told = doctor_models.models(settings(tmp_path, models=entries), BOTH, lambda _: "it is broken")
    mends = [result.mend for result in told]
    assert "docs/extending.md" in mends[0]
    assert mends[1].startswith("copy the file again")
    assert mends[2].endswith(f"qeil models import FILE.gguf --out {tmp_path / 'lm'}")


CALIBRATED = {"version": 1, "profile": "testboard", "measured_at": "2026-11-21T10:00:00Z", "coefficients": []}
MEASURED_S = 1795255200.0


def calibration_row(tmp_path, document, wall_s=MEASURED_S, detected=None):
    if document is not None:
        (tmp_path / "calibration.json").write_text(document if isinstance(document, str) else json.dumps(document))
    return doctor_settings.calibrated(settings(tmp_path, state_dir=tmp_path), detected, wall_s)


def test_a_board_never_measured_is_told_with_what_to_do(tmp_path):
    row = calibration_row(tmp_path, None)
    assert row.result == "warn"
    assert "never measured" in row.message
    assert "qeil calibrate" in row.mend


def test_a_calibration_says_its_age_and_what_it_left_out(tmp_path):
    row = calibration_row(tmp_path, {**CALIBRATED, "refused": ["x"]}, MEASURED_S + 3 * 3600)
    assert row.result == "ok"
    assert "3 hours ago" in row.message
    assert "with 1 remark on what was measured" in row.message


def test_an_old_calibration_is_a_warning(tmp_path):
    row = calibration_row(tmp_path, CALIBRATED, MEASURED_S + 200 * 86400)
    assert row.result == "warn"
    assert "200 days ago" in row.message


@pytest.mark.parametrize("document", ["{", {"version": 1}, {**CALIBRATED, "measured_at": "yesterday"}])
def test_a_damaged_calibration_is_told(tmp_path, document):
    row = calibration_row(tmp_path, document)
    assert row.result == "fail"  # the agent will not start with it
    assert "qeil calibrate" in row.mend


def test_a_calibration_of_another_board_is_told(tmp_path):
    row = calibration_row(tmp_path, CALIBRATED, detected=types.SimpleNamespace(matched="pi"))
    assert row.result == "fail"
    assert "made for testboard, this is pi" in row.message


def test_a_calibration_of_another_board_than_the_named_one_is_told_too(tmp_path):
    (tmp_path / "calibration.json").write_text(json.dumps(CALIBRATED))
    row = doctor_settings.calibrated(settings(tmp_path, state_dir=tmp_path, profile="raspberry-pi-5"), None, MEASURED_S)
    assert (row.result, "made for testboard, this is raspberry-pi-5" in row.message) == ("fail", True)


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another user are made by root only")
def test_files_that_root_left_in_a_state_folder_of_another_user_are_told(tmp_path):
    folder = tmp_path / "state"
    (folder / "cache").mkdir(parents=True)
    for path in (folder, folder / "cache"):
        os.chown(path, 65534, 65534)
    assert doctor_settings.state_folder(settings(tmp_path, state_dir=folder)).result == "ok"
    (folder / "cache" / "x.json").write_text("{}")
    row = doctor_settings.state_folder(settings(tmp_path, state_dir=folder))
    assert (row.result, row.mend) == ("fail", f"sudo chown -R nobody: {folder}")
    assert "x.json belongs to root" in row.message


@pytest.mark.parametrize(("isolation", "result"), [("process", "ok"), ("thread", "warn")])
def test_lanes_that_are_threads_of_the_agent_are_told_with_what_a_crash_then_costs(tmp_path, isolation, result):
    chosen = settings(tmp_path, isolation=isolation)
    row = doctor_settings.isolation(chosen)
    assert row.result == result
    assert ("ends the whole agent" in row.message) == (isolation == "thread")
    assert (assembly.unprotected(chosen, False)[0] is None) == (isolation == "process")
    assert assembly.unprotected(chosen, True)[0] is None  # safe mode gives them processes
