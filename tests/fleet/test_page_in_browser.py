"""The fleet's page in a real Chromium, over five thousand boards."""

from __future__ import annotations

import json
import time

import pytest

from agent.fleet import tables
from agent.fleet.messages import parse
from tests.browsing import Visit, browser, missing, visitors
from tests.fleet.served import Served

__all__ = ["browser"]
BOARDS = 5000


def said(board: str, part: str, **fields):
    return parse(f"qeil/v1/acme/{board}/up/{part}", json.dumps({"v": 1, **fields}).encode())


def window(n: int, now_s: float) -> dict:
    model = {"requests": 10, "failed": 0, "provenance": "modelled", "energy_j": 3.0 + n % 7}
    lane = {"state": "ready", "temperature_c": {"last": 40.0 + n % 30}}
    return {"ts": now_s, "mono": 1.0, "tq": "ntp", "mode": "ready", "models": {"m": model}, "accelerators": {"a": lane}}


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    served = Served(tmp_path_factory.mktemp("page"))
    now_s = time.time()
    batch = []
    for n in range(BOARDS):
        cond = [{"type": "outbox_full", "since": "today", "cause": "<b>no room</b>"}] if n % 50 == 1 else []
        birth = {"agent": "1.0", "profile": "jetson" if n % 2 else "pi", "policy": {"name": "calm"}, "cond": cond}
        batch.append(said(f"b{n:04}", "state", online=n % 100 != 0, boot=1, conn=1, **birth))
        batch.append(said(f"b{n:04}", "tlm/agent", boot=1, cls="tlm", seq0=0, rows=[window(n, now_s)] * 2))
    served.store.take(batch, now_s)
    with served.store.engine.begin() as db:
        plan = json.dumps({"rings": [0.01, 1.0]})
        whole = {"tenant": "acme", "name": "calm", "ver": 7, "envelope": "{}", "plan": plan, "status": "running"}
        whole |= {"id": "r1", "ring": 0, "by_whom": "anna", "approvals": "[]", "created_s": 1.0}
        db.execute(tables.rollouts.insert().values(**whole))
        for n, status in enumerate(["kept"] * 6 + ["reverted"] * 2 + ["offered"] * 2):
            db.execute(tables.rollout_boards.insert().values(rollout="r1", board=f"b{n:04}", cohort=n, status=status))
    served.url = served.start()
    yield served
    served.stop()


@pytest.fixture
def visit(browser, fleet):
    with visitors(browser, fleet.url) as start:

        def unlocked(unlock: bool = True, **options) -> Visit:
            visitor = start(**options)
            if unlock:
                visitor.page.fill("#token", fleet.tokens["read"])
                visitor.page.click("#door button")
                visitor.page.wait_for_selector("#list tbody tr")
            return visitor

        yield unlocked


def test_five_thousand_boards_are_shown_by_state_without_a_complaint(visit, fleet):
    visitor = visit()
    page = visitor.page
    assert page.inner_text("#health") == "works"
    assert "5000 boards" in page.inner_text("#found")
    counts = page.inner_text("#counts")
    assert "50 offline" in counts
    assert "100 with conditions" in counts
    assert "4850 online" in counts
    assert page.get_attribute("#canvas", "aria-label").startswith("5000 boards: 50 offline")
    assert page.locator("#list tbody tr").count() == 100
    assert "median" in page.inner_text("#spread-temperature")
    assert "5000 boards" in page.inner_text("#spread-energy")
    assert visitor.complaints == []
    assert all(url.startswith(fleet.url) for url in visitor.asked)


def test_typing_narrows_the_list_and_a_board_shows_what_is_known_of_it(visit):
    visitor = visit()
    page = visitor.page
    page.fill("#search", "jetson troubled b0051")
    assert page.inner_text("#found") == "1 board"
    page.click("#list a")
    page.wait_for_selector("#one-facts table")
    assert page.inner_text("#one-title") == "Board acme/b0051"
    assert "<b>no room</b>" in page.inner_text("#one-facts")
    page.wait_for_selector("#one-temperature svg[role=img]")
    assert visitor.complaints == []


def test_rollouts_show_where_their_boards_are(visit):
    text = visit().page.inner_text("#rollout-list")
    assert "calm 7" in text
    assert "ring 1 of 2" in text
    assert "2 reverted" in text


def test_without_a_good_token_nothing_is_shown(visit):
    page = visit(unlock=False).page
    page.wait_for_selector("#door", state="visible")
    page.fill("#token", "nonsense")
    page.click("#door button")
    page.wait_for_selector("#refused:not(:empty)")
    assert page.inner_text("#health") == "locked"
    assert page.locator("#list tr").count() == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_no_barrier_is_left_for_people_and_their_tools(visit, scheme, width):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-playwright-python", "pip install axe-playwright-python")
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 844}).page
    page.goto(page.url.partition("#")[0] + "#board=acme%2Fb0051")
    page.wait_for_selector("#one-temperature svg[role=img]")
    found = Axe().run(page).response["violations"]
    assert [(v["id"], v["impact"], [n["html"][:90] for n in v["nodes"]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
