"""An install with a dozen things wrong at once: the doctor finds each and says what mends it."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from agent.errors import ModelLoadFailed
from agent.ports import LaneSpec
from agent.schema.device import DeviceProfile
from agent.service.doctor.doctor import Surroundings, examine
from agent.service.doctor.doctor_canary import canaries
from tests.fakes import FakeClock, FakeLane
from tests.fakes_sysfs import JETSON_ORIN_NANO, build_sysfs
from tests.service.test_detection import JETSON, shipped  # noqa: F401  (fixture)
from tests.service.world import profile


def lanes(clock, **changes):
    def make(spec: LaneSpec) -> FakeLane:
        lane = FakeLane(spec, clock)
        for name, value in changes.items():
            setattr(lane, name, value)
        return lane

    return make


@pytest.fixture
def taken_port():
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen(1)
        yield holder.getsockname()[1]


def broken_install(folder: Path, port: int) -> Path:
    """Settings in which nearly everything is wrong that the schema cannot see."""
    (folder / "state").write_text("a file, not a folder")
    (folder / "policy.yaml").write_text("version: 1\nname: mine\nobjektive: {}\n")
    (folder / "lost.key").write_text("not a key")
    (folder / "ca.pem").write_text("not a certificate")
    (folder / "api.key").write_text("k" * 32)
    (folder / "api.key").chmod(0o644)
    (folder / "b.tflite").write_bytes(b"x")
    settings = folder / "agent.yaml"
    settings.write_text(
        f"version: 1\nstate_dir: {folder}/state\npolicy: {folder}/policy.yaml\nprofile: raspberry-pi-5\n"
        f"http: {{host: 127.0.0.1, port: {port}, api_key_file: {folder}/api.key}}\n"
        f"mqtt: {{host: 127.0.0.1, port: 9, tls: {{ca: {folder}/ca.pem, certificate: null, key: null}}}}\n"
        f"models:\n  - {{name: gone, path: {folder}/gone.onnx}}\n  - {{name: mute, path: {folder}/b.tflite}}\n"
    )
    return settings


def test_a_dozen_planted_faults_are_all_found_and_each_has_its_mend(tmp_path, taken_port, shipped):  # noqa: F811
    root = tmp_path / "root"
    poor = {"sys/class/thermal/thermal_zone8/temp": "-256000", "proc/meminfo": "MemAvailable: 9000 kB"}
    build_sysfs(root, JETSON_ORIN_NANO, poor)
    clock = FakeClock()
    around = Surroundings(
        JETSON, root=root, machine="aarch64", profiles=shipped, wall_s=0.0, python=(3, 9),
        distributions=frozenset({"onnxruntime", "onnxruntime-gpu"}),
        canaries=lambda found: canaries(found, lanes(clock, actual={"canary": ("CPUExecutionProvider",)}), clock),
    )  # fmt: skip

    results = examine(broken_install(tmp_path, taken_port), around)

    wrong = [r for r in results if r.result != "ok"]
    found = {r.check: r.message for r in wrong}
    planted = {
        "python": "too old", "clock": "never set", "memory": "too little", "onnxruntime builds": "overwrite",
        "temperature": "tj", "policy": "missing key", "profile": "raspberry-pi-5", "model gone": "does not exist",
        "model mute": "needs LiteRT", "state folder": "not a folder", "http": "used by another program",
        "broker CA": "", "api key": "read by others", "canary gpu": "silent fallback", "broker": "not reachable",
    }  # fmt: skip
    assert len(planted) >= 12
    for check, words in planted.items():
        assert words in found.get(check, "(not found)"), (check, found)
    assert all(r.mend for r in wrong)


# ---------------------------------------------------------------------------------------------- the canary


def sung(**changes):
    clock = FakeClock()
    return canaries(profile("cpu"), lanes(clock, **changes), clock)


def test_a_runtime_that_runs_where_it_is_asked_is_fine():
    (result,) = sung()
    assert (result.result, result.check) == ("ok", "canary cpu")


def test_a_silent_fallback_is_a_failure():
    (result,) = sung(actual={"canary": ("SomethingElse",)})
    assert result.result == "fail"
    assert "silent fallback: CPUExecutionProvider was asked for, but SomethingElse runs it" in result.message


def test_a_runtime_that_cannot_load_or_run_is_a_failure_with_its_reason():
    assert "no such driver" in sung(refuse={"canary": "no such driver"})[0].message
    assert "went wrong" in sung(fail_with=ModelLoadFailed("went wrong"))[0].message


def test_a_runtime_that_never_answers_ends_the_wait(monkeypatch):
    monkeypatch.setattr("agent.service.doctor.doctor_canary.LOAD_TIMEOUT_S", 0.01)
    assert "did not answer" in sung(hold_loads=True)[0].message


def test_runtimes_that_serve_nothing_are_not_asked():
    native = profile("cpu").model_dump()
    native["accelerators"][0]["runtimes"][0].update(backend="native")
    clock = FakeClock()
    assert canaries(DeviceProfile.model_validate(native), lanes(clock), clock) == []


def test_real_runtimes_of_this_machine_sing():
    from agent.service.doctor.doctor import _run_canaries

    pytest.importorskip("onnxruntime")
    assert [r.result for r in _run_canaries(profile("cpu"))] == ["ok"]


# ---------------------------------------------------------------------------------------------- one story


def test_doctor_and_detect_tell_the_same_of_a_counter_that_is_not_used(tmp_path, shipped):  # noqa: F811
    from agent.service.detection import detect
    from tests.fakes_sysfs import VIRTUAL_MACHINE
    from tests.service.test_detection import BOTH

    build_sysfs(tmp_path, VIRTUAL_MACHINE, {"sys/bus/event_source/devices/power/events/energy-psys": "event=0x05"})
    notes = detect(tmp_path, BOTH, shipped, "x86_64").notes
    told = next(note for note in notes if "energy-psys" in note)
    around = Surroundings(BOTH, root=tmp_path, machine="x86_64", profiles=shipped, distributions=frozenset())
    result = next(r for r in examine(None, around) if r.check == "energy counter")
    assert (result.result, result.message) == ("warn", told)


def test_a_variable_that_names_no_key_or_a_wrong_value_hides_nothing_else(tmp_path, taken_port, shipped):  # noqa: F811
    file = broken_install(tmp_path, taken_port)
    environ = {"QEIL_HTTP_PROT": "1", "QEIL_HTTP_KEEP_ALIVE_S": "soon", "PATH": "/bin"}
    results = examine(file, Surroundings(JETSON, root=tmp_path / "root", profiles=shipped, environ=environ))

    told = [(r.message, r.mend) for r in results if r.check == "settings" and r.result == "fail"]
    assert len(told) >= 1
    assert all("QEIL_" in message and mend == "unset that variable, or correct it" for message, mend in told)
    assert {"http", "api key", "model gone"} <= {r.check for r in results if r.result != "ok"}


def test_a_wrong_variable_hides_no_unknown_key_of_the_file(tmp_path, shipped):  # noqa: F811
    file = tmp_path / "agent.yaml"
    file.write_text(f"version: 1\nstate_dir: {tmp_path}/state\nboart: edge\n")
    environ = {"QEIL_HTTP_PROT": "1", "QEIL_HTTP_KEEP_ALIVE_S": "soon"}
    results = examine(file, Surroundings(JETSON, root=tmp_path / "root", profiles=shipped, environ=environ))

    told = [r.message for r in results if r.check == "settings" and r.result == "fail"]
    assert len(told) == 3
    assert all(any(word in message for message in told) for word in ("boart", "QEIL_HTTP_PROT", "KEEP_ALIVE_S"))
