"""Linear program: the greatest worth under upper bounds, by the simplex method on a condensed tableau.

For the handful of variables of a board's settings, where the set-up of a general solver, and of array operations too,
costs more than the solution (Dantzig, Linear Programming and Extensions, 1963; the condensed tableau: Tucker, in
Combinatorial Analysis, 1960; Bland's rule against cycles: Math. Oper. Res. 2, 1977).
"""

from __future__ import annotations

from collections.abc import Sequence

_NOTHING = 1e-9
"""Numbers of a tableau below this are rounding."""


def maximise(worth: Sequence[float], rows: Sequence[Sequence[float]], bounds: Sequence[float]) -> list[float]:
    """Return x >= 0 with the greatest worth·x under rows·x <= bounds.

    worth: one per variable; rows: one per constraint, of one number per variable; bounds: one per constraint, >= 0, so
    that x = 0 is allowed. ValueError where a bound is negative or the worth has no bound.
    """
    if any(bound < 0 for bound in bounds):
        raise ValueError("bounds must be >= 0")
    variables = len(worth)
    # Columns of what is 0 now, the bound at the end; the worth is the last row.
    tableau = [[*row, bound] for row, bound in zip(rows, bounds, strict=True)]
    tableau.append([*(-value for value in worth), 0.0])
    outside, basis = list(range(variables)), list(range(variables, variables + len(bounds)))
    # The variable with the lowest number that pays, and of ties the lowest, cannot cycle.
    while pays := [at for at, value in enumerate(tableau[-1][:-1]) if value < -_NOTHING]:
        column = min(pays, key=outside.__getitem__)
        row = _leaving(tableau, column, basis)
        _exchange(tableau, row, column)
        outside[column], basis[row] = basis[row], outside[column]
    found = [0.0] * variables
    for variable, line in zip(basis, tableau, strict=False):
        if variable < variables:
            found[variable] = max(0.0, line[-1])
    return found


def _leaving(tableau: Sequence[Sequence[float]], column: int, basis: Sequence[int]) -> int:
    """The constraint that binds first; of several the one with the lowest variable."""
    reach = [(line[-1] / line[column], at) for at, line in enumerate(tableau[:-1]) if line[column] > _NOTHING]
    if not reach:
        raise ValueError("the worth has no bound")
    first = min(reach)[0] + _NOTHING
    return min((at for step, at in reach if step <= first), key=basis.__getitem__)


def _exchange(tableau: list[list[float]], row: int, column: int) -> None:
    """The variable of the row and that of the column change places."""
    line = tableau[row]
    pivot = line[column]
    line[column] = 1.0
    line = tableau[row] = [value / pivot for value in line]
    for at, other in enumerate(tableau):
        factor = other[column]
        if at != row and factor != 0.0:
            other[column] = 0.0
            tableau[at] = [value - factor * by for value, by in zip(other, line, strict=True)]
