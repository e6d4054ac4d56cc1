"""`qeil check` and `qeil schema` as a user meets them: output, JSON contract and exit codes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli import check_settings
from agent.cli.check import check as check_files
from agent.cli.main import COMMANDS, cli, exit_code, run
from agent.errors import ConfigError, QeilError
from agent.placement import split_points
from agent.storage import share

BALANCED = share.find_policy("balanced")
BROKEN = Path(__file__).parents[1] / "storage/broken"


def test_a_valid_folder_says_how_much_was_checked(capsys: pytest.CaptureFixture[str]) -> None:
    code = run(["check", str(BALANCED.parent)])

    assert code == 0
    assert capsys.readouterr().out == "5 files checked, no problems\n"


def test_json_is_a_list_with_the_fields_of_the_contract(capsys: pytest.CaptureFixture[str]) -> None:
    path = BROKEN / "key-in-milliwatts.yaml"

    code = run(["check", "--json", str(path)])

    assert code == 78
    assert json.loads(capsys.readouterr().out) == [
        {
            "file": str(path),
            "line": 15,
            "key": "power_cap_mw",
            "message": "unknown key 'power_cap_mw'; power_cap_w is in watts",
            "suggestion": "power_cap_w",
        }
    ]


def test_json_of_a_valid_file_is_an_empty_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(BALANCED), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []


def test_a_path_that_does_not_exist_is_a_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    code = run(["check", str(tmp_path / "gone.yaml"), str(BALANCED)])

    assert code == 78
    assert capsys.readouterr().out == f"{tmp_path}/gone.yaml: there is no such file or folder\n"


def test_a_folder_without_yaml_is_a_problem(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(["check", str(tmp_path)]) == 78
    assert "there is no *.yaml file in this folder" in capsys.readouterr().out


def test_folders_are_searched_to_the_bottom_and_each_file_is_read_once(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    shutil.copy(BALANCED, deep / "one.yaml")
    shutil.copy(BALANCED, tmp_path / "two.yml")

    assert run(["check", str(tmp_path), str(deep / "one.yaml")]) == 0
    assert capsys.readouterr().out == "2 files checked, no problems\n"


def test_a_figure_that_no_memory_has_is_remarked_on_and_no_problem(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = share.find_profile("jetson-agx-orin").read_text()
    (tmp_path / "slip.yaml").write_text(text.replace("value: 3.8e-11", "value: 3.8e-8"))

    code = run(["check", str(tmp_path / "slip.yaml")])

    told = capsys.readouterr()
    assert code == 0
    assert told.out == "1 file checked, no problems\n"
    assert "slip.yaml:44: memory_domains.0.energy_j_per_byte: 3.8e-08 J/byte, where memory chips take" in told.err


def test_no_path_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check"]) == 2
    assert "Missing argument" in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["board", "policy", "settings"])
def test_schema_prints_json_schema_that_refuses_unknown_keys(kind: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", kind]) == 0
    schema = json.loads(capsys.readouterr().out)

    assert schema["$schema"].startswith("https://json-schema.org/")
    assert schema["additionalProperties"] is False


def test_an_unknown_kind_of_schema_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["schema", "colour"]) == 2
    assert "'board'" in capsys.readouterr().err


def test_an_unknown_command_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chekc"]) == 2
    assert "No such command" in capsys.readouterr().err


def test_every_command_of_the_table_exists() -> None:
    context = cli.make_context("qeil", ["check"], resilient_parsing=True)

    for name in COMMANDS:
        assert cli.get_command(context, name) is not None


def test_help_lists_the_commands_without_importing_them() -> None:
    code = (
        "import sys; from agent.cli.main import run; run(['--help']); "
        "sys.exit(any(m in sys.modules for m in ('pydantic', 'yaml', 'numpy')))"
    )

    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    assert result.returncode == 0, result.stderr
    assert "check" in result.stdout


def test_a_wrong_configuration_ends_with_78_and_any_other_failure_with_1() -> None:
    assert exit_code(ConfigError("no such policy")) == 78
    assert exit_code(QeilError("the disk is full")) == 1


def test_settings_that_do_not_exist_stop_the_agent_with_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code = run(["run", "--config", str(tmp_path / "gone.yaml")])

    assert code == 78
    assert capsys.readouterr().err == f"qeil: {tmp_path}/gone.yaml: cannot be read: No such file or directory\n"


def test_check_reads_the_same_through_the_runner() -> None:
    result = CliRunner().invoke(cli, ["check", str(BROKEN / "empty.yaml")], standalone_mode=False)

    assert "empty.yaml:2: the file is empty" in result.output


def test_settings_that_name_an_unknown_policy_are_wrong_with_the_line_and_the_nearest_name(tmp_path, capsys):
    (tmp_path / "agent.yaml").write_text("version: 1\nprofile: raspberry-pi-55\npolicy: balancd\n")
    assert run(["check", str(tmp_path / "agent.yaml")]) == 78
    profile, policy = capsys.readouterr().out.splitlines()
    assert "agent.yaml:2: profile: there is no" in profile
    assert "did you mean raspberry-pi-5?" in profile
    assert "agent.yaml:3: policy: there is no policy 'balancd' (did you mean balanced?)" in policy


def test_mistakes_of_the_named_policy_are_said_in_the_same_run_as_those_of_the_settings(tmp_path, capsys):
    settings, policy = tmp_path / "agent.yaml", tmp_path / "mine.yaml"
    settings.write_text("version: 1\nstate_dri: ./state\npolicy: ./mine.yaml\n")
    policy.write_text(BALANCED.read_text().replace("objective:", "objectiv:"))
    assert run(["check", str(settings), str(policy)]) == 78
    lines = capsys.readouterr().out.splitlines()
    assert "state_dri" in lines[0]
    assert any(f"{policy}:" in line and "did you mean objective?" in line for line in lines[1:])
    assert len(lines) == len(set(lines))


def test_settings_with_a_mistake_and_an_unknown_policy_have_both_said_at_once(tmp_path, capsys):
    (tmp_path / "agent.yaml").write_text("version: 1\nstate_dri: ./state\npolicy: balancd\n")
    assert run(["check", str(tmp_path / "agent.yaml")]) == 78
    out = capsys.readouterr().out
    assert "did you mean state_dir?" in out
    assert "did you mean balanced?" in out


@pytest.mark.parametrize(
    "body",
    [
        "policy: ~nobody-of-that-name/mine.yaml",
        "state_dir: ~nobody-of-that-name/state",
        "state_dri: ./state\npolicy: ~nobody-of-that-name/mine.yaml",
    ],
)
def test_a_home_folder_of_nobody_is_a_mistake_in_one_line(body, tmp_path, capsys):
    (tmp_path / "agent.yaml").write_text(f"version: 1\n{body}\n")
    assert run(["check", str(tmp_path / "agent.yaml")]) == 78
    lines = capsys.readouterr().out.splitlines()
    assert "agent.yaml" in lines[-1]
    assert "there is no user 'nobody-of-that-name' here" in lines[-1]


def test_a_model_that_is_not_there_yet_is_a_remark_and_no_mistake(tmp_path, capsys):
    (tmp_path / "agent.yaml").write_text("version: 1\nmodels:\n  - name: m\n    path: modl.onnx\n")
    assert run(["check", str(tmp_path / "agent.yaml")]) == 0
    said = capsys.readouterr()
    assert "no problems" in said.out
    assert f"agent.yaml:4: models.0.path: there is no file {tmp_path / 'modl.onnx'} now" in said.err


def test_a_variable_of_this_shell_that_names_no_setting_is_remarked(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("QEIL_WIBBLE", "1")
    path = tmp_path / "agent.yaml"
    path.write_text("version: 1\n")
    assert check_files([path], as_json=False) == 0
    assert "QEIL_WIBBLE: no setting has this variable" in capsys.readouterr().err


def test_an_empty_state_folder_is_refused(tmp_path, capsys):
    path = tmp_path / "agent.yaml"
    path.write_text('version: 1\nstate_dir: ""\n')
    assert check_files([path], as_json=False) == 78
    assert f"{path}:2: state_dir: name a folder" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ("cpu+dla7", "jetson-agx-orin has no accelerator 'dla7' (it has "),
        ("cpu", "'cpu' is no split: join 2 to 6 accelerators"),
        ("cpu+cpu", "'cpu+cpu' is no split"),
    ],
)
def test_a_split_that_cannot_be_held_is_named_with_its_line(
    label: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text(
        "version: 1\nprofile: jetson-agx-orin\nmodels:\n  - name: m\n    path: m.onnx\n    splits:\n      - cpu+gpu\n"
        f"      - {label}\n"
    )

    assert run(["check", str(file)]) == 78
    out = capsys.readouterr().out
    assert out.startswith(f"{file}:8: models.0.splits.1: ")
    assert said in out


def test_what_a_detected_board_lacks_is_remarked_on_and_no_problem_as_the_file_may_be_for_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_settings, "detected", lambda settings: ["cpu", "cpu-eco"])
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: {0, 1})
    file = tmp_path / "agent.yaml"
    file.write_text(
        "version: 1\nmodels:\n- name: m\n  path: agent.yaml\n  splits: [cpu+npu9]\n"
        "  variants: [{name: v, path: v.onnx}]\nlanes:\n  cpuu:\n    nice: 1\n  cpu:\n    cores: [0, 7]\n"
    )

    assert run(["check", str(file)]) == 0
    assert capsys.readouterr().err.splitlines() == [
        f"‼ {file}:5: models.0.splits.0: this machine has no accelerator 'npu9' (it has cpu, cpu-eco)",
        f"‼ {file}:5: models.0.splits: held ready only while no variant serves: stages are cut from the model file",
        f"‼ {file}:8: lanes.cpuu: this machine has no accelerator 'cpuu' (it has cpu, cpu-eco) (did you mean cpu?)",
        f"‼ {file}:11: lanes.cpu.cores: no core 7 for an agent that runs here (this machine has 0, 1)",
    ]


def test_a_lane_of_an_accelerator_that_the_named_board_lacks_is_a_problem_with_its_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("version: 1\nprofile: jetson-agx-orin\nlanes:\n  cpuu: {nice: 1}\n")

    assert run(["check", str(file)]) == 78
    out = capsys.readouterr().out
    assert out.startswith(f"{file}:4: lanes.cpuu: jetson-agx-orin has no accelerator 'cpuu' (it has ")
    assert "(did you mean cpu?)" in out


def test_parts_of_splits_are_bounded_as_the_planner_bounds_them() -> None:
    assert check_settings.MAX_PARTS == split_points.MAX_PARTS
