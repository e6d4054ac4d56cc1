"""Processes that the program starts for itself take nothing from the folder in which somebody runs it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.backends.factory import LaneFactory
from agent.child import child_command
from agent.ports import LaneSpec
from agent.service.clock import SystemClock
from tests.backends.conftest import until

PACKAGE = Path(__file__).resolve().parents[1] / "agent"
TAKEN = "import os; open(os.environ['PLANTED'], 'w').write(__file__)\nraise SystemExit('planted')\n"
NAMES = ("json.py", "runpy.py", "argparse.py", "subprocess.py", "agent/__init__.py", "numpy/__init__.py")


@pytest.fixture
def hostile(tmp_path, monkeypatch):
    """A folder with modules that somebody planted, as the current one; on Python 3.10 nothing else keeps them out."""
    folder = tmp_path / "downloads"
    for name in NAMES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(TAKEN)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PLANTED", str(tmp_path / "taken"))
    for variable in ("PYTHONSAFEPATH", "PYTHONPATH"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path / "taken"


def test_what_is_planted_would_be_taken_by_the_usual_way(hostile):
    subprocess.run([sys.executable, "-m", "agent.backends.probe"], capture_output=True, check=False)
    assert hostile.is_file()


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("agent.cli.main", ("--version",)), ("agent.backends.probe", ()), ("agent.workload.read_ahead", ("known",))],
)
def test_a_module_of_ours_is_run_and_none_that_is_planted(hostile, module, arguments):
    done = subprocess.run(child_command(module, *arguments), capture_output=True, text=True, check=False)
    assert not hostile.exists(), hostile.read_text()
    assert done.returncode == 0, done.stderr


def test_the_folder_of_the_script_itself_is_no_place_to_import_from(hostile):
    # agent/schema would otherwise be somebody's `schema`.
    done = subprocess.run(child_command("schema"), capture_output=True, text=True, check=False)
    assert "No module named schema" in done.stderr
    assert not hostile.exists()


def test_a_package_that_lies_behind_a_link_and_is_not_on_the_path_is_found(hostile, tmp_path):
    link = tmp_path / "elsewhere" / "agent"
    link.parent.mkdir()
    link.symlink_to(PACKAGE)
    command = [sys.executable, str(link / "child.py"), "agent.cli.main", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not hostile.exists()


def test_a_lane_begins_as_anywhere(hostile):
    lane = LaneFactory("process", SystemClock())(LaneSpec("cpu", 1))
    try:
        lane.start(lambda _: None)
        assert until(lambda: lane.vitals() is not None)
    finally:
        lane.stop(5.0)
    assert not hostile.exists()


def test_no_module_is_started_in_the_usual_way():
    """A command of pip is printed, not run."""
    assert not [p.name for p in PACKAGE.rglob("*.py") if 'sys.executable, "-m"' in p.read_text()]


def test_arguments_arrive_as_they_are(hostile):
    done = subprocess.run(
        child_command("agent.cli.main", "schema", "no such kind"), capture_output=True, text=True, check=False,
        env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip
    assert "no such kind" in done.stderr
    assert not hostile.exists()
