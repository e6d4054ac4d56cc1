"""`qeil report`: one file, nothing from elsewhere, and only what was written down."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from agent.cli.main import run
from agent.cli.report import report_command, seconds
from agent.cli.report_page import page
from agent.errors import BadInput
from agent.storage.outbox import Outbox
from tests.fakes import FakeClock

WALL_S = 1_790_000_000.0


def window(n: int, **model) -> dict:
    row = {"state": "ready", "placement": "npu0", "requests": 10, "failed": 1, "replayed": 0, "provenance": "modelled",
           "energy_j": 0.9, "p50_ms": 2.0 + n, **model}  # fmt: skip
    summary = {"n": 9, "min": 40.0, "mean": 41.0 + n, "max": 42.0, "last": 42.0}
    return {
        "ts": WALL_S + 10 * n, "mono": 10.0 * n, "window_s": 10.0, "mode": "ready",
        "accelerators": {"npu0": {"state": "ready", "temperature_c": summary}, "cpu": {"state": "ready"}},
        "models": {"<m>": row},
    }  # fmt: skip


@pytest.fixture
def board(tmp_path):
    outbox = Outbox(tmp_path / "outbox.db", 1, 1_000_000, 1.0, FakeClock())
    for n in range(20):
        outbox.append("tlm", window(n))
    outbox.append("evt", {"ts": WALL_S + 55, "event": "lane_died", "accelerator": "npu0", "cause": "SIGKILL & more"})
    outbox.flush()
    config = tmp_path / "agent.yaml"
    config.write_text(f"version: 1\nstate_dir: {tmp_path}\nboard: edge-07\n")
    return config


class Tags(HTMLParser):
    """Opened and closed elements must match."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in {"src", "href"}]
        if tag not in {"meta"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        pass

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_one_file_that_loads_nothing(board, tmp_path):
    out = tmp_path / "r.html"
    result = CliRunner().invoke(report_command, ["--config", str(board), "--out", str(out)], standalone_mode=False)
    assert result.output.startswith(f"{out}: 20 windows, 1 events")
    text = out.read_text()
    tags = Tags()
    tags.feed(text)
    assert tags.open == []
    assert tags.addresses == []
    assert "edge-07" in text
    assert "&lt;m&gt;" in text
    assert "SIGKILL &amp; more" in text
    assert 'aria-label="Temperature: npu0 41 to 60 °C"' in text
    assert "<td>200</td><td>20</td><td>0</td><td>npu0</td><td>0.1</td><td>modelled</td>" in text


def test_what_nothing_measures_is_said_and_not_drawn(board):
    text = page("b", [window(0)], [])
    assert 'Power, W</h2><p class="dim">no figures' in text
    assert 'Events</h2><p class="dim">none' in text


def test_the_same_event_in_a_row_is_one_line_and_a_flood_is_cut():
    same = [{"ts": WALL_S + n, "event": "lane_died", "accelerator": "npu0"} for n in range(5)]
    assert "<td>lane died × 5</td>" in page("b", [window(0)], same)
    flood = [{"ts": WALL_S + n, "event": "mode", "new": str(n)} for n in range(250)]
    assert "and 50 earlier ones" in page("b", [window(0)], flood)


def test_a_missing_stretch_breaks_the_line():
    text = page("b", [window(0), window(1), window(50)], [])
    line = re.search(r'aria-label="Temperature.*?class="line"[^>]* d="([^"]+)"', text, re.DOTALL).group(1)
    assert re.findall(r"[ML]", line) == ["M", "L", "M"]


def test_only_the_period_is_taken(board):
    result = CliRunner().invoke(
        report_command, ["--config", str(board), "--last", "1m", "--json"], standalone_mode=False
    )
    document = json.loads(result.output)
    assert len(document["windows"]) == 7
    assert document["events"] == []


def test_unknown_joules_stay_unknown():
    counts = {"requests": 3, "failed": 0, "replayed": 0}
    model = {"state": "ready", "placement": None, **counts, "provenance": "unknown"}
    text = page("b", [{**window(0), "models": {"m": model}}], [])
    assert "<td>–</td><td>–</td><td>unknown</td>" in text


@pytest.mark.parametrize(("text", "expected"), [("90m", 5400.0), ("24h", 86400.0), (" 7d ", 604800.0), ("5s", 5.0)])
def test_periods_are_read(text, expected):
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "0h", "24", "-1h", "1w", "1.5h"])
def test_what_is_no_period_is_refused(text):
    with pytest.raises(BadInput, match="for example 24h"):
        seconds(text)


def test_a_board_without_telemetry_is_told_in_one_line(tmp_path, capsys):
    config = tmp_path / "agent.yaml"
    config.write_text(f"version: 1\nstate_dir: {tmp_path}/none\n")
    assert run(["report", "--config", str(config)]) == 1
    assert "no telemetry has been written" in capsys.readouterr().err
