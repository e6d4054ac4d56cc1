"""The report in a real Chromium: on a phone and on paper every figure is in sight, and the legend covers no point."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from tests.browsing import browser
from tests.integration.agent_process import ROOT

__all__ = ["browser"]
RECORDING = ROOT / "benchmarks" / "data" / "sampling" / "additions-2027"
COMPARED = "greedy,majority,beta,csvet,csvet-majority,standard,greedy-v1,qeil"
CUT = """[...document.querySelectorAll('td, th')].filter(cell => {
  const box = cell.getBoundingClientRect();
  return box.width > 0 && (box.right > document.documentElement.clientWidth + 1 || box.left < -1);
}).map(cell => cell.textContent)"""


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    target = tmp_path_factory.mktemp("report") / "r.html"
    asked = ["--replay", str(RECORDING), "--compare", COMPARED, "--worth-samples", "800", "--report", str(target)]
    result = CliRunner().invoke(evaluate_command, asked)
    assert result.exit_code == 0, result.output
    return target


@pytest.mark.parametrize(("width", "media"), [(390, "screen"), (700, "print")])
def test_no_figure_is_cut_off(browser, page, width, media):
    tab = browser.new_page(viewport={"width": width, "height": 844})
    tab.emulate_media(media=media)
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    assert tab.evaluate(CUT) == []
    tab.close()


def test_on_a_phone_every_figure_of_a_wide_table_stands_beside_its_name(browser, page):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(page.as_uri())
    shown = "cell => getComputedStyle(cell, '::before').content.replaceAll('\"', '').trim()"
    names = tab.evaluate(f"[...document.querySelector('table.wide tbody tr').cells].map({shown})")
    heads = tab.evaluate(
        "[...document.querySelectorAll('table.wide')[0].querySelectorAll('th')].map(h => h.textContent)"
    )
    assert names == heads
    tab.close()


def test_the_legend_stands_below_the_points(browser, page):
    tab = browser.new_page(viewport={"width": 390, "height": 844})
    tab.goto(page.as_uri())
    box = "document.querySelector('figure svg').querySelector('{}').getBoundingClientRect()"
    legend = tab.evaluate(f"{box.format('#legend_1')}.top")
    axes = tab.evaluate(f"{box.format('#patch_2')}.bottom")
    assert legend >= axes
    tab.close()
