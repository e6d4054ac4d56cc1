"""The fit: learns efficiencies and power coefficients from a table of measurements and writes them down as data.

    python -m agent.evaluation.fit MEASUREMENTS.csv --out device_profiles/fitted/efficiencies.json

Same input, same output. The uncertainties are scaled by the errors on models that a board has no rows of.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from agent.errors import ConfigError, QeilError
from agent.evaluation.catalogue import load_catalogue
from agent.evaluation.coefficients_file import document, render
from agent.evaluation.crossvalidation import FOLDS, by_pair, held_out, uncertainty_factor
from agent.evaluation.fitting import cases, fit
from agent.evaluation.table import read_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point of `python -m agent.evaluation.fit`."""
    parser = argparse.ArgumentParser(
        prog="python -m agent.evaluation.fit", description="Fit efficiencies to measurements."
    )
    parser.add_argument("table", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--folds", type=int, default=FOLDS, help="held-out folds that scale the uncertainties; 1: none")
    options = parser.parse_args(arguments)
    try:
        known = cases(read_table(options.table), load_catalogue())
        if not known:
            raise ConfigError(f"{options.table}: none of the rows can be mapped, there is nothing to fit")
        held = held_out(known, by_pair, options.folds, seed=0) if options.folds > 1 else []
        coefficients = replace(fit(known), uncertainty_factor=uncertainty_factor(held))
        text = render(document(coefficients, len(known), options.table))
        options.out.write_text(text, encoding="utf-8")
    except (QeilError, OSError) as error:
        sys.stderr.write(f"fit: {error}\n")
        return 1
    sys.stdout.write(f"{options.out}: fitted on {len(known)} rows\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
