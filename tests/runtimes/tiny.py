"""The backend that docs/extending.md shows, as a file, and a profile that has nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]


def shown() -> str:
    """The file of the document."""
    text = (ROOT / "docs" / "extending.md").read_text()
    (found,) = [b for b in re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL) if "BACKEND" in b]
    return found


def written(folder: Path) -> Path:
    """The folder with the backend in it."""
    (folder / "qeil_backend_tiny.py").write_text(shown())
    return folder


def profile(folder: Path) -> Path:
    """A board with one CPU that runs it."""
    document = yaml.safe_load((ROOT / "device_profiles" / "generic-x86.yaml").read_text())
    document["accelerators"] = document["accelerators"][:1]
    document["accelerators"][0]["runtimes"] = [{"backend": "tiny", "provider": "numpy"}]
    path = folder / "only-tiny.yaml"
    path.write_text(yaml.safe_dump(document))
    return path
