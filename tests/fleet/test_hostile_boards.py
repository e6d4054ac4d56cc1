"""One board that says impossible things: lists of all boards, sums and rollouts go on as if it were not there."""

from __future__ import annotations

import json

import pytest
from starlette.responses import JSONResponse

from agent.fleet.inventory import Inventory
from agent.fleet.messages import MAX_NUMBER, MessageRefused, Told, parse
from agent.fleet.retention import Keeper
from agent.schema.fleet import Retention
from tests.fleet.test_rollouts import Fleet

NOW_S = 1.8e9
HUGE = 10**400
"""JSON writes it, no float holds it."""


def model(**fields) -> dict:
    return {"requests": 1, "failed": 0, "energy_j": 1.0, "provenance": "measured", **fields}


def said(part: str, **fields) -> tuple[str, dict]:
    return part, {"v": 1, **fields}


def state(**fields) -> tuple[str, dict]:
    return said("state", online=True, boot=1, conn=1, **fields)


def window(boot: int = 1, seq: int = 0, **fields) -> tuple[str, dict]:
    return said("tlm/agent", boot=boot, cls="tlm", seq0=seq, rows=[fields])


@pytest.mark.parametrize(
    "messages",
    [
        [state(cond=5)],
        [state(cond=None)],
        [state(cond={"type": "x"}, policy=[], profile={}, agent=3)],
        [window(accelerators={"npu": {"temperature_c": {"last": HUGE}}})],
        [window(models={"a": model(energy_j=HUGE), "b": model(requests=-HUGE)})],
        [window(models={"a": model(energy_j=1e308), "b": model(energy_j=1e308)})],
        [window(models={"a": model(energy_j=1e99, requests=5e-324)})],
        [window(models={"a": model(provenance=[])})],
        [window(boot=boot, seq=MAX_NUMBER - 2) for boot in range(1100)],
        [said("bundle", ver=HUGE, in_force_ver=HUGE, status={})],
    ],
    ids=["cond-number", "cond-null", "types", "hot", "joules", "infinite", "tiny", "provenance", "numbers", "bundle"],
)
def test_all_boards_are_listed_whatever_one_says(store, messages):
    store.take([Told(("acme", "good"), "state", {"v": 1, "online": True, "boot": 1, "conn": 1})], NOW_S)
    store.take([parse(f"qeil/v1/acme/bad/up/{part}", json.dumps(m).encode()) for part, m in messages], NOW_S)
    inventory = Inventory(store.engine, 60.0, 0.0, lambda: NOW_S + 100.0)
    found = [entry.as_json() for entry in inventory.boards()]
    assert [entry["board"] for entry in found] == ["bad", "good"]
    JSONResponse([found, inventory.overview(None), inventory.rows(("acme", "bad"), "tlm", 10)])
    assert inventory.missing_rows() >= 0
    Keeper(store.engine, Retention(rows_days=1e-4), lambda: NOW_S + 200.0).round()


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
@pytest.mark.parametrize("where", ["agent", "profile"])
def test_half_a_character_is_refused_as_no_answer_could_repeat_it(text, where):
    with pytest.raises(MessageRefused, match="malformed"):
        parse("qeil/v1/acme/bad/up/state", json.dumps(state(**{where: text})[1]).encode())


def test_whole_characters_are_taken_however_they_are_written():
    for ascii_only in (True, False):
        payload = json.dumps(state(agent="° 😀")[1], ensure_ascii=ascii_only).encode()
        assert parse("qeil/v1/acme/b1/up/state", payload).document["agent"] == "° 😀"


@pytest.mark.parametrize(
    "end",
    [
        {"status": []}, {"status": {"kept": 1}}, {"status": "reverted", "code": "\0" * 9},
        {"status": "refused", "code": "\ud800"},
        {"status": "reverted", "code": ["x"], "figures": {"energy": {"m": HUGE}}},
    ],
)  # fmt: skip
def test_a_rollout_goes_on_over_the_others_whatever_one_reports(store, end):
    fleet = Fleet(store, 20)
    good = fleet.ends
    fleet.ends = lambda board: end if board == "b0003" else good(board)
    key = fleet.begin(rings=(1.0,), ramp_boards=20, silent_s=60.0)
    found = fleet.run(key, turns=60)
    assert found["status"] == "done"
    assert found["boards"]["kept"] == 19
