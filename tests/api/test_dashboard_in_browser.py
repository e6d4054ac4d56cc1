"""The page in a real Chromium, against a real agent: what a person sees, hears and can do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.browsing import Visit, browser, missing, visitors
from tests.integration.agent_process import MAGIKA, ROOT, models, running

__all__ = ["browser"]
MAX_TRANSFERRED_BYTES = 250_000
PATIENCE_MS = 120_000
POLICY = (ROOT / "policies" / "balanced.yaml").read_text()


@pytest.fixture(scope="module")
def agent(tmp_path_factory):
    """An agent with this machine's CPU, a simulated accelerator and a policy of its own."""
    folder = tmp_path_factory.mktemp("dashboard")
    policy = folder / "policy.yaml"
    policy.write_text(POLICY)
    simulated = [{"name": "npu0", "like": "jetson-orin-nano-super/gpu", "max_slowdown": 100_000}]
    with running(folder, policy=str(policy), models=models(MAGIKA), simulated_accelerators=simulated) as process:
        yield process


@pytest.fixture
def visit(browser, agent):
    with visitors(browser, agent.url) as start:
        yield start


def test_the_page_shows_the_agent_without_a_complaint_and_asks_nobody_else(visit, agent):
    visitor = visit()
    page = visitor.page
    page.wait_for_selector("#accelerator-cards article")
    page.wait_for_selector("#placement-rows tr")
    page.wait_for_selector("#mode:text-is('ready')")
    page.wait_for_selector("#link:text-is('live')")
    assert "npu0" in page.inner_text("#accelerator-cards")
    assert "magika" in page.inner_text("#model-cards")
    assert "serves magika: predicted" in page.inner_text("#placement-why")
    assert "because policy balanced weighs energy" in page.inner_text("#placement-front .why")
    assert "because policy balanced" in page.text_content("#placement-front circle.is-chosen title")
    assert "balanced" in page.inner_text("#policy-name")
    assert visitor.complaints == []
    assert all(url.startswith(agent.url) for url in visitor.asked)
    assert 0 < visitor.bytes < MAX_TRANSFERRED_BYTES


def test_a_change_of_mode_reads_as_one(visit):
    page = visit().page
    page.wait_for_selector("#event-list time")
    assert "starting → ready" in page.inner_text("#event-list")
    assert "provenance" not in page.inner_text("#event-list")


def test_a_long_list_of_events_is_scrolled_from_the_keyboard(visit):
    page = visit(viewport={"width": 390, "height": 844}).page
    page.wait_for_selector("#placement-rows tr")
    page.focus("#event-list")
    assert page.evaluate("document.activeElement.id") == "event-list"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
def test_no_barrier_is_left_for_people_and_their_tools(visit, scheme, width):
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        missing("axe-playwright-python", "pip install axe-playwright-python")
    page = visit(color_scheme=scheme, viewport={"width": width, "height": 844}).page
    page.wait_for_selector("#placement-rows tr")
    page.wait_for_selector("#chart-temperature svg[role=img]", timeout=PATIENCE_MS)
    page.click("#try-send")
    page.wait_for_selector("#try-result table")
    found = Axe().run(page).response["violations"]
    assert [(v["id"], v["impact"], [n["html"][:90] for n in v["nodes"]]) for v in found] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_live_figures_change_by_themselves_without_the_page_asking(visit, agent):
    page = visit().page
    page.wait_for_selector("#model-cards tbody tr")
    page.route("**/overview*", lambda route: route.abort())  # what the page asks for now and then; figures come unasked
    with agent.client() as client:
        metadata = client.get("/v2/models/magika")
        for _ in range(2):  # the figure of the first one may be that of an earlier test
            shown = page.inner_text("#model-cards td:last-child").strip()
            client.infer("magika", random_inputs(metadata))
            assert page.wait_for_function(
                "n => Number(document.querySelector('#model-cards td:last-child').innerText) > Number(n)", arg=shown
            )


def random_inputs(metadata):
    import numpy as np

    types = {"FP32": np.float32, "INT32": np.int32, "INT64": np.int64}
    return {
        i["name"]: np.zeros([max(1, size) for size in i["shape"]], types[i["datatype"]]) for i in metadata["inputs"]
    }


def test_a_figure_that_nobody_knows_has_its_reason_as_text(browser, agent):
    status = agent.status()
    accelerator, model = status["accelerators"][0], status["models"][0]
    silent = {"temperature_c": "its cable is off", "power_w": "its cable is off"}
    unasked = {"p50_ms": "nobody asked yet", "energy_j": "no joule was told", "accelerated_fraction": "it is silent"}
    for row, why in ((accelerator, silent), (model, unasked)):
        row.update(dict.fromkeys(why), unknown=why)
    with visitors(browser, agent.url) as start:
        page = start().page
        page.route("**/events", lambda route: route.fulfill(
            body=f"data: {json.dumps(status)}\n\n", content_type="text/event-stream"
        ))  # fmt: skip
        page.reload()
        page.wait_for_selector("#accelerator-cards article dd:text-is('its cable is off')")
        card = page.inner_text("#accelerator-cards article >> nth=0")
        assert "Temperature, Power" in card
        row = page.inner_text("#model-cards tbody tr >> nth=0")
        for words in ("nobody asked yet", "no joule was told", "share of the graph unknown: it is silent"):
            assert words in row


def test_an_edit_of_the_policy_on_disk_appears_with_what_it_changed(visit, agent):
    page = visit().page
    page.wait_for_selector("#policy-changes *")
    try:
        (agent.folder / "policy.yaml").write_text(re.sub(r"hard_c: \d+", "hard_c: 91", POLICY))
        page.wait_for_selector("#policy-changes td:has-text('thermal.hard_c')", timeout=PATIENCE_MS)
        row = page.inner_text("#policy-changes tbody tr")
        assert "88" in row
        assert "91" in row
        page.wait_for_selector("#event-list li:has-text('policy accepted')")
    finally:
        (agent.folder / "policy.yaml").write_text(POLICY)


def test_a_request_can_be_tried_with_the_keyboard_alone(visit):
    page = visit().page
    page.wait_for_selector("#try-model option", state="attached")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.focus("#try-send")
    page.keyboard.press("Enter")
    page.wait_for_selector("#try-result table")
    result = page.inner_text("#try-result")
    assert "FP32" in result
    assert "modelled" in result or "measured" in result


def test_a_request_that_fails_says_why(visit):
    page = visit().page
    page.wait_for_selector("#try-model option", state="attached")
    page.select_option("#try-input", "own")
    page.fill("#try-own", '{"inputs": [')
    page.click("#try-send")
    page.wait_for_selector("#try-result .bad")
    assert "not valid JSON" in page.inner_text("#try-result")


def test_the_last_hour_is_drawn_and_read_out(visit):
    page = visit().page
    page.wait_for_selector("#chart-temperature svg[role=img]", timeout=PATIENCE_MS)
    spoken = page.get_attribute("#chart-temperature svg[role=img]", "aria-label")
    assert re.match(r"Temperature: npu0 [\d.]+ to [\d.]+ °C, last [\d.]+", spoken)
    page.hover("#chart-temperature svg[role=img]")
    page.wait_for_selector("#chart-temperature .readout:has-text('npu0')")


def test_an_agent_that_is_gone_is_said_to_be_gone(browser, tmp_path: Path):
    with running(tmp_path, models=[]) as process:
        visitor = Visit(browser, process.url)
        visitor.page.wait_for_selector("#link.good")
        visitor.page.wait_for_selector("#chart-latency .empty:has-text('No request was answered')", timeout=PATIENCE_MS)
        process.stop()
        visitor.page.wait_for_selector("#link.warn")
        visitor.page.wait_for_selector("#link:has-text('unreachable')")
        assert "unreachable" in visitor.page.inner_text("#link")
        visitor.context.close()
