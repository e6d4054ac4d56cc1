"""Names of metrics follow Prometheus' rules, and the Grafana file asks only for metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent.service import metrics
from tests.fleet.served import Served
from tests.service.world import World

FOLDER = Path(__file__).resolve().parent.parent / "deploy" / "grafana"
DASHBOARD, FLEET = (json.loads((FOLDER / name).read_text()) for name in ("qeil.json", "fleet.json"))
UNITS = ("seconds", "joules", "celsius", "watts", "bytes")
BARE = ("ms", "percent", "count", "millijoules", "kb", "mb")


@pytest.fixture(scope="module")
def families():
    world = World()
    found = metrics.collect(world.supervisor.snapshot, world.dispatcher, 0)
    return (*found, metrics.latencies(world.dispatcher, {}))


def test_names_have_the_prefix_and_si_units_and_counters_end_in_total(families):
    for family in families:
        words = family.name.split("_")
        assert words[0] == "qeil"
        assert re.fullmatch(r"[a-z][a-z0-9_]*", family.name)
        assert (words[-1] == "total") == (family.kind == "counter"), family.name
        assert not set(words) & set(BARE), family.name
        assert family.help[0].isupper() or family.help[0].isdigit(), family.name
        assert not family.help.endswith(".")
        if set(words) & set(UNITS):
            assert (words[-2] if words[-1] == "total" else words[-1]) in UNITS, family.name


def test_the_dashboard_asks_only_for_metrics_that_there_are(families):
    known = {name for family in families for name in family.names()}
    asked = set(re.findall(r"qeil_[a-z_]+", json.dumps(DASHBOARD)))
    assert asked <= known
    assert len(asked) >= 10


def test_the_fleets_dashboard_asks_only_for_what_a_controller_tells(tmp_path):
    served = Served(tmp_path)
    told = set(re.findall(r"^# TYPE (\S+)", served.operations.metrics({}).decode(), re.MULTILINE))
    served.stop()
    asked = set(re.findall(r"qeil_[a-z_]+", json.dumps(FLEET)))
    assert asked <= told
    assert len(asked) >= 10


@pytest.mark.parametrize("dashboard", [DASHBOARD, FLEET], ids=["board", "fleet"])
def test_panels_are_numbered_once_and_do_not_overlap(dashboard):
    panels = dashboard["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    cells = [
        (x, y)
        for p in panels
        for x in range(p["gridPos"]["x"], p["gridPos"]["x"] + p["gridPos"]["w"])
        for y in range(p["gridPos"]["y"], p["gridPos"]["y"] + p["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24
