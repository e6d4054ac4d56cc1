"""Priors of the fit: how far each level of coefficients may stray from its relatives, in log units.

Levels run from what everything shares (`c`) over kind, family and silicon to one software path on one silicon family
at one precision. Set by hand; scaling groups of them by 0.6 and 1.6 changed held-out errors little, so they were kept.
The spread of `host` is small by judgement: one old board must not set the host power of its whole class.
c compute efficiency, d depthwise, m bandwidth efficiency, i issue cycles, e element-wise passes over a prompt, l link
of weights, x link of tensors, k kernel launch, q per query, a architecture's operation counts, t tail over mean;
on/busy/idle/base/dram/host are terms of power. A decoder's operations follow from its sizes, so it has no a.model.
"""

from __future__ import annotations

TIME: dict[str, float] = {
    "c": 2.0, "c.kind": 0.7, "c.kin": 0.4, "c.silicon": 0.3, "c.phase": 0.5, "c.fam": 0.5, "c.path": 0.5,
    "c.path.phase": 0.4, "c.here": 0.3, "c.prec": 0.4, "c.here.prec": 0.2, "c.task": 0.3, "c.path.task": 0.3,
    "c.mode": 0.15,
    "d": 1.0, "d.kind": 0.5, "d.path": 0.5, "d.prec": 0.3, "d.here": 0.3,
    "m": 1.0, "m.kind": 0.3, "m.silicon": 0.3, "m.fam": 0.3, "m.path": 0.4, "m.here": 0.3, "m.phase": 0.3,
    "m.prec": 0.2,
    "i": 1.0, "i.fam": 0.4, "i.path": 0.4, "i.kin": 0.3, "i.prec": 0.3,
    "l": 1.0, "l.kin": 0.5, "l.silicon": 0.3, "l.board": 0.3, "l.mode": 0.5,
    "x": 1.0, "x.kin": 0.4, "x.task": 0.3,
    "k": 1.5, "k.kind": 0.7, "k.kin": 0.4, "k.fam": 0.5, "k.path": 0.6, "k.path.phase": 0.4, "k.here": 0.4,
    "k.prec": 0.3, "k.task": 0.3,
    "q": 1.5, "q.kind": 0.7, "q.path": 0.7, "q.board": 0.5, "q.phase": 0.5,
    "v": 1.0, "v.kind": 0.5, "v.path": 0.7, "v.here": 0.3,
    "e": 1.5, "e.kind": 0.7, "e.path": 0.5, "e.here": 0.3,
    "w": 1.0, "w.kind": 0.7, "w.path": 0.5, "w.prec": 0.3,
    "q.host": 0.4, "a.site": 0.1, "a.release": 0.35,
    "a.model": 0.1, "a.model.path": 0.1, "a.board": 0.1,
    "t": 1.0, "t.task": 0.3, "t.path": 0.1, "t.here": 0.1, "t.host": 0.1,
}  # fmt: skip

POWER: dict[str, float] = {
    "on": 1.5, "on.kind": 0.5, "on.kin": 0.4, "on.silicon": 0.4, "on.fam": 0.4, "on.path": 0.3, "on.here": 0.2,
    "on.prec": 0.3, "on.here.prec": 0.15, "on.task": 0.15, "on.mode": 0.2, "on.board": 0.2,
    "on.site": 0.3, "on.task.mode": 0.2,
    "busy": 0.7, "busy.fam": 0.4, "busy.silicon": 0.3,
    "base": 0.4, "idle": 0.1, "base.silicon": 0.2,
    "dram": 0.7, "dram.silicon": 0.3,
    "host": 0.3, "host.path": 0.2,
}  # fmt: skip

_TOP = {
    "c",
    "c.kind",
    "d",
    "m",
    "m.kind",
    "i",
    "l",
    "x",
    "v",
    "w",
    "e",
    "k",
    "k.kind",
    "q",
    "q.kind",
    "t",
    "on",
    "busy",
    "base",
    "idle",
}
_ARCHITECTURE = {"a.model", "a.model.path"}

TIME_SCALE = 0.08
POWER_SCALE = 0.05
"""Smallest residual spread that the fit believes: two publications of one thing differ by as much."""


def minimum_rows(spreads: dict[str, float]) -> dict[str, int]:
    """Rows that a coefficient needs to exist: two, so that none is the property of a single row; three per model."""
    return {name: 3 if name in _ARCHITECTURE else 2 for name in spreads if name not in _TOP}
