"""Linear program: the greatest worth under upper bounds, by the simplex method on a dense tableau.

For the handful of variables of a board's settings, where a general solver's set-up costs more than the solution
(Dantzig, Linear Programming and Extensions, 1963; Bland's rule against cycles: Math. Oper. Res. 2, 1977).
"""

from __future__ import annotations

import numpy as np

from agent.physics.arguments import Array

_NOTHING = 1e-9
"""Numbers of a tableau below this are rounding."""


def maximise(worth: Array, rows: Array, bounds: Array) -> Array:
    """Return x >= 0 with the greatest worth·x under rows·x <= bounds.

    worth: (variables,); rows: (constraints, variables); bounds: (constraints,), >= 0, so that x = 0 is allowed.
    ValueError where a bound is negative or the worth has no bound.
    """
    if np.any(bounds < 0):
        raise ValueError("bounds must be >= 0")
    count, variables = rows.shape
    # The first column that pays, and of ties the lowest, cannot cycle.
    tableau = np.zeros((count + 1, variables + count + 1))
    tableau[:count, :variables] = rows
    tableau[:count, variables:-1] = np.eye(count)
    tableau[:count, -1] = bounds
    tableau[-1, :variables] = -worth
    basis = np.arange(variables, variables + count)
    while (pays := tableau[-1, :-1] < -_NOTHING).any():
        entering = int(pays.argmax())
        leaving = _leaving(tableau[:-1, entering], tableau[:-1, -1], basis)
        tableau[leaving] /= tableau[leaving, entering]
        others = tableau[:, entering].copy()
        others[leaving] = 0.0
        tableau -= others[:, None] * tableau[leaving]
        basis[leaving] = entering
    found = np.zeros(variables + count)
    found[basis] = tableau[:-1, -1]
    return np.maximum(0.0, found[:variables])


def _leaving(column: Array, values: Array, basis: Array) -> int:
    """The constraint that binds first; of several the one with the lowest variable."""
    rising = column > _NOTHING
    if not rising.any():
        raise ValueError("the worth has no bound")
    reach = np.full(column.size, np.inf)
    reach[rising] = values[rising] / column[rising]
    ties = np.flatnonzero(reach <= reach.min() + _NOTHING)
    return int(ties[basis[ties].argmin()])
