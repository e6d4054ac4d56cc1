"""Benchmarks say what they need instead of printing where an import failed."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NEEDS = {
    "fleet_scale": "pytest", "fleet_store": "pytest", "llm_quality": "gguf", "llm_serving": "openai",
    "mutation": "hypothesis", "placement_nsga2": "pymoo",
}  # fmt: skip
WITHOUT = """
import runpy, sys
missing, file = sys.argv[1:3]
sys.modules[missing] = None
sys.argv = [file]
runpy.run_path(file, run_name="__main__")
"""


@pytest.mark.parametrize(("benchmark", "package"), NEEDS.items())
def test_a_benchmark_without_a_package_that_it_needs_names_it_in_one_line(benchmark, package):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, package, f"benchmarks/{benchmark}.py"], capture_output=True, text=True,
        cwd=ROOT, timeout=120, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"this benchmark needs {package}: pip install {package}\n"
