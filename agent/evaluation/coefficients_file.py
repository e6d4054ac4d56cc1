"""File of fitted coefficients: written by the fit, read by whoever predicts."""

from __future__ import annotations

import hashlib
import json
import math
import re
from pathlib import Path
from typing import Any

from agent.errors import ConfigError
from agent.evaluation import priors
from agent.evaluation.forecast import Coefficients
from agent.evaluation.regression import Solution

VERSION = 1


def document(coefficients: Coefficients, rows: int, source: Path) -> dict[str, Any]:
    """Coefficients with provenance, as they are written."""
    return {
        "version": VERSION,
        "provenance": "fitted",
        "command": f"python -m agent.evaluation.fit {source.name}",
        "table_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "rows": rows,
        "row_fingerprints": " ".join(sorted(coefficients.fitted_rows)),
        "uncertainty_factor": coefficients.uncertainty_factor,
        "meaning": "log-coefficients by level and member; each entry is [value, standard deviation, rows behind it]",
        "time": _solution(coefficients.time, priors.TIME),
        "power": _solution(coefficients.power, priors.POWER),
    }


def render(content: dict[str, Any]) -> str:
    """The document as text, one coefficient a line, so that a difference between two fits can be read."""
    text = json.dumps(content, indent=1, ensure_ascii=False)
    return re.sub(r"\[\s+(-?[\d.e-]+),\s+(-?[\d.e-]+),\s+(\d+)\s+\]", r"[\1, \2, \3]", text) + "\n"


def _solution(solution: Solution, spreads: dict[str, float]) -> dict[str, Any]:
    entries = {
        key: [round(value, 4), round(solution.deviations[key], 4), solution.counts[key]]
        for key, value in sorted(solution.values.items())
    }
    return {
        "residual_spread": round(solution.scale, 4),
        "effective_parameters": round(solution.effective_parameters(spreads), 1),
        "coefficients": entries,
    }


def load_coefficients(path: Path) -> Coefficients:
    """Coefficients from a file that `fit` wrote. Raises ConfigError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise ConfigError(f"{path}: version {data['version']} is not {VERSION}; run the fit again")
        rows = frozenset(str(data.get("row_fingerprints", "")).split())
        return Coefficients(_read(data["time"]), _read(data["power"]), float(data["uncertainty_factor"]), rows)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"{path}: is not a file of fitted coefficients: {error}") from error


def _read(part: dict[str, Any]) -> Solution:
    entries = {str(key): (float(v), float(d), int(n)) for key, (v, d, n) in part["coefficients"].items()}
    if not all(math.isfinite(v) for v, _, _ in entries.values()):
        raise ValueError("a coefficient is not finite")
    return Solution(
        {key: v for key, (v, _, _) in entries.items()},
        {key: d for key, (_, d, _) in entries.items()},
        {key: n for key, (_, _, n) in entries.items()},
        float(part["residual_spread"]),
    )
