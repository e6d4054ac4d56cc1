"""One file of all that the processes of a test run have executed: `python -m tests.whole_coverage`.

Processes that tests kill while they write leave files that are cut off anywhere. `coverage combine`, and every
`coverage report`, which combines what it finds first, ends at the first of them that can be opened but not read to its
end, with the files behind it left out. So each file is read to its end here before it is taken; one that cannot be is
told and removed. The result has a name of its own, beside which no process that is still ending writes anything.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

import coverage
from coverage.exceptions import CoverageException

PARTS = ".coverage"
WHOLE = ".coverage-whole"


def fault(part: Path) -> str | None:
    """Why the file cannot be combined; None where it can."""
    try:
        data = coverage.CoverageData(str(part), read_only=True)
        data.read()
        coverage.CoverageData(no_disk=True).update(data)
    except (CoverageException, OSError) as error:
        return str(error)
    return None


def combine(folder: Path) -> tuple[int, list[str]]:
    """Files combined, which are removed, and what was wrong with the others, which are removed too."""
    parts = [path for path in sorted(folder.glob(f"{PARTS}.*")) if not path.name.endswith("-journal")]
    faults = {path: why for path in parts if (why := fault(path)) is not None}
    good = [str(path) for path in parts if path not in faults]
    whole = folder / WHOLE
    whole.unlink(missing_ok=True)
    if good:
        made = coverage.Coverage(data_file=str(whole), config_file=str(folder / "pyproject.toml"))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", coverage.exceptions.CoverageWarning)
            made.combine(good, strict=True)
            made.save()
    for path in faults:
        path.unlink(missing_ok=True)
    return len(good), [f"{path.name}: {why}" for path, why in faults.items()]


def main(folder: Path) -> int:
    """The exit code: 1 where no process has left anything."""
    count, faults = combine(folder)
    for line in faults:
        print(f"cut off when its process was killed: {line}", file=sys.stderr)  # noqa: T201
    print(f"coverage of {count} processes, {len(faults)} more were killed while they wrote theirs")  # noqa: T201
    return 0 if count else 1


if __name__ == "__main__":
    sys.exit(main(Path.cwd()))
