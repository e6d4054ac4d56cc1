"""The fit: learns efficiencies and power coefficients from a table of measurements and writes them down as data.

    python -m agent.evaluation.fit MEASUREMENTS.csv --out device_profiles/fitted/efficiencies.json

Times first; power then uses the fitted times where a row states only energy. Same input, same output.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agent.errors import ConfigError, QeilError
from agent.evaluation import priors, terms
from agent.evaluation.catalogue import Catalogue, load_catalogue
from agent.evaluation.forecast import Coefficients, forecast_time
from agent.evaluation.regression import Observation, Solution, solve
from agent.evaluation.rows import Case, case_of
from agent.evaluation.table import Measurement, read_table
from agent.evaluation.targets import (
    energy_time,
    measured_energy_j,
    measured_latency_s,
    measured_power_w,
    measured_rate_per_s,
)

VERSION = 1
TRUST = {"A": 1.0, "A-": 1.0, "B": 1.0}
"""Weight of a row by tier; rows without an instrument behind them count half."""
OTHER_TRUST = 0.5


def cases(rows: Sequence[Measurement], catalogue: Catalogue) -> list[Case]:
    """The rows that can be predicted."""
    found = (case_of(row, catalogue.hardware, catalogue.architectures) for row in rows)
    return [case for case in found if not isinstance(case, str)]


def fit(known: Sequence[Case]) -> Coefficients:
    """Coefficients of time and power from cases."""
    time = solve(
        [o for case in known for o in time_observations(case)],
        priors.TIME,
        scale=priors.TIME_SCALE,
        minimum_rows=priors.minimum_rows(priors.TIME),
    )
    timed = Coefficients(time, Solution({}))
    watts = [power_observation(case, timed) for case in known]
    power = solve(
        [o for o in watts if o is not None],
        priors.POWER,
        scale=priors.POWER_SCALE,
        minimum_rows=priors.minimum_rows(priors.POWER),
    )
    return Coefficients(time, power)


def time_observations(case: Case) -> list[Observation]:
    """Mean, percentile and throughput of a row as observed times of one query; together they weigh as one row."""
    found: list[tuple[float, str]] = []
    if case.row.mean_latency_ms:
        found.append((1e-3 * case.row.mean_latency_ms, "mean"))
    latency = measured_latency_s(case)
    if latency is not None and (latency[1] != "mean" or not found):
        found.append(latency)
    rate = measured_rate_per_s(case)
    if rate is not None:
        found.append((case.unit / rate, "mean"))
    parts = tuple((load.times, terms.time_terms(case, load)) for load in case.loads)
    weight = TRUST.get(case.row.tier, OTHER_TRUST) / max(1, len(found))
    return [
        Observation(seconds, parts, terms.time_keys(case) + terms.tail_keys(case, statistic), weight, case.row.row_id)
        for seconds, statistic in found
    ]


def power_observation(case: Case, timed: Coefficients) -> Observation | None:
    """Mean power of a row: published, or energy over mean time."""
    watts = measured_power_w(case) or _power_from_energy(case, timed)
    if watts is None:
        return None
    time = forecast_time(case, timed)
    parts = ((1.0, terms.power_terms(case, time.busy_share, time.bytes_per_s)),)
    return Observation(watts, parts, (), TRUST.get(case.row.tier, OTHER_TRUST), case.row.row_id)


def _power_from_energy(case: Case, timed: Coefficients) -> float | None:
    energy_j = measured_energy_j(case)
    if energy_j is None:
        return None
    latency, rate = measured_latency_s(case), measured_rate_per_s(case)
    if energy_time(case) == "unit":
        return energy_j * rate if rate else None
    if case.row.mean_latency_ms:
        return energy_j / (1e-3 * case.row.mean_latency_ms)
    ratio = forecast_time(case, timed).tail_ratio
    return energy_j / (latency[0] / ratio) if latency else None


def document(coefficients: Coefficients, known: Sequence[Case], source: Path) -> dict[str, Any]:
    """Coefficients with provenance, as they are written."""
    return {
        "version": VERSION,
        "provenance": "fitted",
        "command": f"python -m agent.evaluation.fit {source.name}",
        "table_sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "rows": len(known),
        "uncertainty_factor": coefficients.uncertainty_factor,
        "meaning": "log-coefficients by level and member; each entry is [value, standard deviation, rows behind it]",
        "time": _solution(coefficients.time),
        "power": _solution(coefficients.power),
    }


def _solution(solution: Solution) -> dict[str, Any]:
    entries = {
        key: [round(value, 4), round(solution.deviations[key], 4), solution.counts[key]]
        for key, value in sorted(solution.values.items())
    }
    return {"residual_spread": round(solution.scale, 4), "coefficients": entries}


def load_coefficients(path: Path) -> Coefficients:
    """Coefficients from a file that `fit` wrote. Raises ConfigError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["version"] != VERSION:
            raise ConfigError(f"{path}: version {data['version']} is not {VERSION}; run the fit again")
        return Coefficients(_read(data["time"]), _read(data["power"]), float(data["uncertainty_factor"]))
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m agent.evaluation.fit`."""
    parser = argparse.ArgumentParser(
        prog="python -m agent.evaluation.fit", description="Fit efficiencies to measurements."
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        known = cases(read_table(options.table), load_catalogue())
        if not known:
            raise ConfigError(f"{options.table}: none of the rows can be mapped, there is nothing to fit")
        text = json.dumps(document(fit(known), known, options.table), indent=1)
        options.out.write_text(text + "\n", encoding="utf-8")
    except (QeilError, OSError) as error:
        sys.stderr.write(f"fit: {error}\n")
        return 1
    sys.stdout.write(f"{options.out}: fitted on {len(known)} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
