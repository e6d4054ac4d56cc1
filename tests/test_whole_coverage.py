"""What killed processes leave of their coverage costs nobody else's, and never the report."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import coverage
import pytest
from coverage.exceptions import CoverageException

from tests import whole_coverage

FILE = "/board/agent/physics/energy.py"


def part(folder: Path, name: str, *lines: int) -> Path:
    """A file as a process of the run leaves it."""
    path = folder / f".coverage.host.{name}"
    data = coverage.CoverageData(str(path))
    data.add_arcs({FILE: {(line, line + 1) for line in lines}})
    data.write()
    data.close()
    return path


def without(table: str):
    def damage(path: Path) -> None:
        with contextlib.closing(sqlite3.connect(path)) as db, db:
            db.execute(f"DROP TABLE {table}")

    return damage


def cut(share: float):
    def damage(path: Path) -> None:
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return damage


DAMAGES = {
    "empty": lambda path: path.write_bytes(b""),
    "another program's": lambda path: path.write_bytes(b"not a database " * 100),
    "a header": lambda path: path.write_bytes(path.read_bytes()[:100]),
    "half": cut(0.5),
    "most": cut(0.9),
    "before the schema": without("coverage_schema"),
    "before the metadata": without("meta"),
    "before the files": without("file"),
    "before the lines": without("arc"),
    "before the last table": without("tracer"),
}


def arcs(folder: Path) -> set[tuple[int, int]]:
    data = coverage.CoverageData(str(folder / whole_coverage.WHOLE))
    data.read()
    found = set(data.arcs(FILE) or ())
    data.close()
    return found


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[tool.coverage.run]\nbranch = true\nparallel = true\n")
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_file_that_was_cut_off_is_told_and_the_others_are_all_taken(folder, damage, capsys):
    for number, name in enumerate("abc", 1):  # combined by name: the damaged one is in the middle
        part(folder, name, number * 10)
    damage(folder / ".coverage.host.b")

    assert whole_coverage.main(folder) == 0

    assert arcs(folder) == {(10, 11), (30, 31)}
    assert not list(folder.glob(".coverage.*"))
    told = capsys.readouterr()
    assert told.err.startswith("cut off when its process was killed: .coverage.host.b: ")
    assert told.out == "coverage of 2 processes, 1 more were killed while they wrote theirs\n"


def test_the_result_of_an_earlier_run_is_not_added_to(folder):
    part(folder, "a", 10)
    assert whole_coverage.main(folder) == 0
    part(folder, "b", 20)
    assert whole_coverage.main(folder) == 0
    assert arcs(folder) == {(20, 21)}


def test_a_run_that_left_nothing_is_an_error(folder, capsys):
    assert whole_coverage.main(folder) == 1
    assert "coverage of 0 processes" in capsys.readouterr().out


def test_coverage_by_itself_ends_at_such_a_file(folder):
    """The reason for all this; where it fails one day, the module is not needed any more."""
    for number, name in enumerate("abc", 1):
        part(folder, name, number * 10)
    without("tracer")(folder / ".coverage.host.b")
    made = coverage.Coverage(data_file=str(folder / ".coverage"), config_file=str(folder / "pyproject.toml"))
    with pytest.raises(CoverageException, match="tracer"):
        made.combine()
