"""What settings and policy ask of a board that does not have it."""

from __future__ import annotations

import pytest

from agent.schema.settings import (
    LaneSettings,
    ModelEntry,
    OutboxSettings,
    Settings,
    SimulatedAccelerator,
    VariantEntry,
)
from agent.service.doctor import doctor_board
from agent.service.doctor.doctor import Surroundings, examine
from agent.storage import yaml_files
from tests.fakes_sysfs import JETSON_ORIN_NANO, VIRTUAL_MACHINE, build_sysfs
from tests.service.test_detection import BOTH, shipped  # noqa: F401  (fixture)
from tests.service.world import POLICY

JETSON_PROFILE = "jetson-orin-nano"


def settings(tmp_path, **changes) -> Settings:
    models = (ModelEntry(name="faces", path=tmp_path / "faces.onnx"),)
    return Settings(version=1, state_dir=tmp_path / "state", models=models).model_copy(update=changes)


def policy(**changes):
    return type(POLICY).model_validate({**POLICY.model_dump(), **changes})


def board(shipped_profiles, name="generic-x86"):
    return shipped_profiles[name]


def asked(tmp_path, profile, **changes):
    return [(r.result, r.message) for r in doctor_board.asked(settings(tmp_path), profile, policy(**changes))]


def test_an_accelerator_of_the_named_profile_without_a_runtime_is_told(tmp_path, shipped):  # noqa: F811
    build_sysfs(tmp_path, VIRTUAL_MACHINE)
    file = tmp_path / "agent.yaml"
    file.write_text(f"version: 1\nstate_dir: {tmp_path}/state\nprofile: {JETSON_PROFILE}\nhttp: {{port: 0}}\n")
    seen = []
    around = Surroundings(
        BOTH, root=tmp_path, machine="x86_64", profiles=shipped, canaries=lambda found: seen.append(found) or []
    )

    results = examine(file, around)

    told = [r for r in results if r.check == "accelerators"]
    assert ("fail", True) in [(r.result, "no CUDAExecutionProvider" in r.message) for r in told]
    assert all(r.mend for r in told if r.result != "ok")
    assert "gpu" not in {a.name for a in seen[0].accelerators}
    assert [
        r.result for r in results if r.check == "temperature"
    ]  # the sensors that the profile names, not this machine's


def test_a_profile_of_another_board_than_this_one_does_not_hide_what_is_here(tmp_path, shipped):  # noqa: F811
    build_sysfs(tmp_path, JETSON_ORIN_NANO)
    around = Surroundings(BOTH, root=tmp_path, machine="aarch64", profiles=shipped)
    file = tmp_path / "agent.yaml"
    file.write_text(f"version: 1\nstate_dir: {tmp_path}/state\nprofile: raspberry-pi-5\nhttp: {{port: 0}}\n")

    results = examine(file, around)

    assert not [r for r in results if r.check == "accelerators"]
    assert "looks like" in next(r.message for r in results if r.check == "profile")


@pytest.mark.parametrize(
    ("rules", "result", "words"),
    [
        ({"pinned": [{"model": "faces", "accelerator": "cqu"}]}, "fail", "did you mean cpu?"),
        ({"pinned": [{"model": "*", "accelerator": "gpu7"}]}, "fail", "pins * to gpu7"),
        ({"forbidden": [{"model": "*", "accelerator": "dla9"}]}, "warn", "forbids * on dla9"),
        ({"pinned": [{"model": "fases", "accelerator": "cpu"}]}, "warn", "did you mean faces?"),
        ({"no_thermal_sensor": "refuse"}, "fail", "nothing will run"),
    ],
)
def test_a_policy_that_does_not_fit_the_board_is_told(tmp_path, shipped, rules, result, words):  # noqa: F811
    bare = board(shipped).model_copy(update={"zones": ()})
    found = asked(tmp_path, bare, **rules)

    assert [(r, words in message) for r, message in found] == [(result, True)]


def test_a_policy_that_fits_says_nothing(tmp_path, shipped):  # noqa: F811
    assert asked(tmp_path, board(shipped), pinned=[{"model": "faces", "accelerator": "cpu"}]) == []
    assert doctor_board.asked(settings(tmp_path), None, policy()) == []
    assert doctor_board.asked(settings(tmp_path), board(shipped), None) == []


def test_a_hard_limit_above_where_the_board_shuts_down_is_told(tmp_path, shipped):  # noqa: F811
    hot = {**POLICY.thermal.model_dump(), "soft_c": 130.0, "hard_c": 140.0}
    found = asked(tmp_path, shipped[JETSON_PROFILE], thermal=hot)

    assert any("the board shuts down at" in message for _, message in found)


def test_telemetry_that_no_write_budget_holds_is_told(tmp_path, shipped):  # noqa: F811
    often = {**POLICY.telemetry.model_dump(), "window_s": 0.1}
    tight = settings(tmp_path, outbox=OutboxSettings(max_daily_bytes=2**20))
    results = doctor_board.asked(tight, board(shipped), policy(telemetry=often))

    assert [r.check for r in results] == ["write budget"]
    boundless = settings(tmp_path, outbox=OutboxSettings(max_daily_bytes=None))
    assert doctor_board.asked(boundless, board(shipped), policy(telemetry=often)) == []


def test_the_shipped_policies_fit_the_shipped_write_budget(tmp_path, shipped):  # noqa: F811
    from agent.storage import share

    for name, path in share.list_policies().items():
        found = doctor_board.asked(settings(tmp_path), board(shipped), yaml_files.load_policy(path))
        assert [r.message for r in found if r.check == "write budget"] == [], name


def test_splits_over_what_is_not_here_or_beside_variants_are_told(tmp_path, shipped):  # noqa: F811
    model = ModelEntry(
        name="faces", path=tmp_path / "faces.onnx", splits=("cpu+npu9",),
        variants=(VariantEntry(name="int8", path=tmp_path / "faces8.onnx"),),
    )  # fmt: skip
    told = doctor_board.asked(settings(tmp_path, models=(model,)), board(shipped), None)
    assert [r.result for r in told] == ["warn", "warn"]
    assert told[0].message.startswith("faces is to be split over cpu+npu9: there is no accelerator npu9")
    assert "no split is ready while a variant serves" in told[1].message
    fine = model.model_copy(update={"splits": ("cpu+cpu-eco",), "variants": ()})
    assert doctor_board.asked(settings(tmp_path, models=(fine,)), board(shipped), None) == []


def test_a_wrong_lane_and_a_wrong_simulated_accelerator_hide_neither_each_other_nor_the_rest(tmp_path, shipped):  # noqa: F811
    model = ModelEntry(name="faces", path=tmp_path / "faces.onnx", splits=("cpu+npu9",))
    wanted = {"lanes": {"npu7": LaneSettings(cores=(0,))}, "models": (model,)}
    sound = SimulatedAccelerator(name="npu0", like="jetson-orin-nano-super/gpu")
    lost = SimulatedAccelerator(name="npu0", like="jetson-orin-nano-super/gpux")

    def told(simulated, **changes):
        asked_for = settings(tmp_path, simulated_accelerators=(simulated,), **{**wanted, **changes})
        pins = policy(pinned=[{"model": "faces", "accelerator": "npu0"}])
        return [r.message for r in doctor_board.asked(asked_for, board(shipped), pins)]

    one = told(sound)
    assert any("npu7" in message for message in one)
    assert any("there is no accelerator npu9" in message for message in one)
    assert not any("can run nowhere" in message or "no accelerator npu0" in message for message in one)
    assert any("gpux" in message for message in told(lost, lanes={}))
    both = told(lost)
    assert sum("gpux" in message for message in both) == 1
    assert any("there is no accelerator npu9" in message for message in both)
