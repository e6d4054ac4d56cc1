"""`qeil top` in a terminal of 80×24, as over ssh: what a stranger can read there, and that it leaves no trace."""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from datetime import datetime

import pyte
import pytest
from click.testing import CliRunner
from structlog.testing import capture_logs

from agent.api.server import HttpServer
from agent.cli.main import cli
from agent.cli.top import ENTER, LEAVE
from agent.cli.top_screen import screen
from agent.schema.settings import HttpSettings
from tests.fakes_service import SNAPSHOT, FakeService

NOW = datetime(2026, 1, 2, 13, 14, 15)  # noqa: DTZ001 - shown as it is


class FakeInsight:
    def __init__(self):
        self.events = [{"n": 1, "ts": 1_790_000_000.0, "event": "lane_died", "accelerator": "gpu0", "cause": "SIGKILL"}]

    def overview(self, after_point, after_event):
        point = {"n": 7, "ts": 1.0, "accelerators": {}, "models": {"add1": {"requests_per_s": 12.34}}}
        return {
            "points": [point] if after_point < 7 else [],
            "events": [e for e in self.events if e["n"] > after_event],
            "accelerators": {"cpu": {"busy_share": 0.42, "time_to_trip_s": 240.0, "trend": "rising"}},
        }


@pytest.fixture
def served():
    service = FakeService()
    lane = dataclasses.replace(SNAPSHOT.accelerators[0], temperature_c=61.5)
    service.status = dataclasses.replace(SNAPSHOT, accelerators=(lane,))
    server = HttpServer(service, HttpSettings(port=0), insight=FakeInsight())
    server.start()
    with capture_logs():  # its lines are none of the command's output
        yield server.url, service
    server.stop(2.0)


class Terminal:
    """A pseudo-terminal with a screen that can be read."""

    def __init__(self, *arguments: str, width: int = 80, height: int = 24) -> None:
        self.screen = pyte.Screen(width, height)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        self.controller, user = pty.openpty()
        self._size(user, width, height)
        self.before = termios.tcgetattr(user)
        command = [sys.executable, "-m", "agent.cli.main", "top", *arguments]
        # A run in the background of a shell ignores interrupts, and so would its children.
        heard = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
        self.process = subprocess.Popen(command, stdin=user, stdout=user, stderr=user, start_new_session=True, **heard)
        self.user = user

    @staticmethod
    def _size(descriptor: int, width: int, height: int) -> None:
        fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def resize(self, width: int, height: int) -> None:
        self.screen.resize(height, width)
        self._size(self.user, width, height)

    def type(self, keys: bytes) -> None:
        os.write(self.controller, keys)

    def text(self) -> str:
        return "\n".join(self.screen.display)

    def wait_for(self, done, timeout_s: float = 60.0) -> None:
        deadline = time.monotonic() + timeout_s
        while not done(self) and time.monotonic() < deadline:
            ready, _, _ = select.select([self.controller], [], [], 0.1)
            if ready:
                data = os.read(self.controller, 65536)
                self.raw += data
                self.stream.feed(data)
        assert done(self), self.text()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(60)
        os.close(self.controller)
        os.close(self.user)


@pytest.fixture
def terminal():
    opened: list[Terminal] = []

    def start(*arguments, **size) -> Terminal:
        opened.append(Terminal(*arguments, **size))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_a_stranger_can_read_the_screen_and_q_gives_the_terminal_back(served, terminal):
    url, service = served
    top = terminal("--url", url)
    top.wait_for(lambda t: "edge-01" in t.text() and "add1" in t.text())
    shown = top.screen.display
    assert shown[0].startswith("qeil edge-01  READY  policy balanced (d1)")
    row = next(line for line in shown if line.startswith("cpu "))
    for figure in ("ready", "42 %", "61.5", "~4 min", "12.50", "yes"):
        assert figure in row
    row = next(line for line in shown if line.startswith("add1"))
    for figure in ("ready", "cpu", "0.10", "0.20", "12.3", "0.003", "modelled"):
        assert figure in row
    assert any("lane died" in line and "gpu0, SIGKILL" in line for line in shown)
    assert "q quit" in shown[23]
    service.status = dataclasses.replace(service.status, agent=dataclasses.replace(SNAPSHOT.agent, mode="degraded"))
    top.wait_for(lambda t: "DEGRADED" in t.text())
    top.type(b"q")
    top.wait_for(lambda t: t.process.poll() == 0)
    assert top.raw.decode(errors="replace").count(ENTER) == 1
    assert LEAVE in top.raw.decode(errors="replace")
    assert termios.tcgetattr(top.user) == top.before


def test_it_follows_the_size_of_its_window(served, terminal):
    top = terminal("--url", served[0])
    top.wait_for(lambda t: "q quit" in t.screen.display[23])
    top.resize(100, 40)
    top.wait_for(lambda t: "q quit" in t.screen.display[39])
    top.resize(60, 12)
    top.wait_for(lambda t: "q quit" in t.screen.display[11] and "edge-01" in t.screen.display[0])
    assert top.process.poll() is None


def test_an_agent_that_goes_away_is_asked_again_and_an_interrupt_restores_the_terminal(served, terminal):
    url, _ = served
    top = terminal("--url", url, "--interval", "0.2")
    top.wait_for(lambda t: "q quit" in t.screen.display[23])
    os.kill(top.process.pid, signal.SIGINT)
    top.wait_for(lambda t: t.process.poll() is not None)
    assert LEAVE in top.raw.decode(errors="replace")
    assert termios.tcgetattr(top.user) == top.before


def test_a_restarted_agent_is_followed(terminal):
    server = HttpServer(FakeService(), HttpSettings(port=0), insight=FakeInsight())
    server.start()
    port = server.port
    top = terminal("--url", server.url, "--interval", "0.2")
    top.wait_for(lambda t: "q quit" in t.screen.display[23])
    server.stop(1.0)
    top.wait_for(lambda t: "trying again" in t.text())
    again = HttpServer(FakeService(), HttpSettings(port=port), insight=FakeInsight())
    again.start()
    top.wait_for(lambda t: "q quit ·" in t.screen.display[23])
    assert "trying again" not in top.text()
    again.stop(1.0)


def test_once_and_pipes_print_one_screen_without_escapes(served, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    for arguments in (["top", "--once", "--url", served[0]], ["top", "--url", served[0]]):
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 0, result.output
        assert "edge-01" in result.output
        assert "\x1b" not in result.output
        assert "q quit" not in result.output
        assert "…" not in result.output
    monkeypatch.setenv("COLUMNS", "40")
    result = CliRunner().invoke(cli, ["top", "--once", "--url", served[0]])
    assert max(len(line) for line in result.output.splitlines()) == 40


def test_json_is_status_and_overview(served):
    document = json.loads(CliRunner().invoke(cli, ["top", "--json", "--url", served[0]]).output)
    assert document["status"]["agent"]["board"] == "edge-01"
    assert document["overview"]["events"][0]["event"] == "lane_died"


def test_an_agent_without_overview_is_shown_all_the_same():
    server = HttpServer(FakeService(), HttpSettings(port=0))
    server.start()
    try:
        result = CliRunner().invoke(cli, ["top", "--once", "--url", server.url])
        assert "no events yet" in result.output
    finally:
        server.stop(1.0)


def crowd(accelerators: int, models: int, conditions: int) -> dict:
    status = json.loads(json.dumps(dataclasses.asdict(SNAPSHOT)))
    lane, model = status["accelerators"][0], status["models"][0]
    status["accelerators"] = [{**lane, "name": f"accelerator-{n}"} for n in range(accelerators)]
    status["models"] = [{**model, "name": f"model-with-a-long-name-{n}"} for n in range(models)]
    one = {"type": "lane_down:gpu0", "since": "", "cause": "c" * 90, "consequence": "", "mend": "wait"}
    status["conditions"] = [one] * conditions
    return status


@pytest.mark.parametrize("size", [(80, 24), (40, 10), (200, 60), (20, 3), (80, 16)])
@pytest.mark.parametrize("many", [(0, 0, 0), (1, 1, 1), (30, 3, 2), (3, 30, 2), (30, 30, 30)])
def test_any_number_of_rows_fits_any_window(size, many):
    width, height = size
    lines = screen(crowd(*many), FakeInsight().overview(0, 0), width, height, NOW)
    assert len(lines) == height
    assert all(sum(len(span.text) for span in line) <= width for line in lines)
    text = "\n".join("".join(s.text for s in line) for line in lines)
    if size == (80, 24):
        assert ("more accelerators" in text) == (many[0] == 30)
        assert ("more models" in text) == (many[1] == 30)
        assert "lane died" in text


def test_without_a_width_nothing_is_cut():
    lines = ["".join(s.text for s in line) for line in screen(crowd(1, 1, 1), {}, None, 24, NOW, live=False)]
    assert len(lines) == 24
    assert any(line.endswith("c" * 90) for line in lines)
    assert lines[0].endswith(f"  {NOW:%H:%M:%S}")
    assert "   " not in lines[0]
    assert lines[-1].startswith("“–”")


def test_what_is_wrong_is_said_in_words_and_not_only_in_colour():
    status = crowd(2, 2, 0)
    status["accelerators"][0].update(state="quarantined", permit=False, restarts=3, last_fault="SIGSEGV")
    status["accelerators"][1].update(capacity_share=0.5, simulated=True, name="npu0")
    status["models"][0].update(state="unavailable", reason="no runtime for it", placement=None)
    status["models"][1].update(energy_j=None, p50_ms=None, failed=4)
    lines = screen(status, {}, 100, 24, NOW)
    text = "\n".join("".join(s.text for s in line) for line in lines)
    for words in ("quarantined", "no ", "3 SIGSEGV", "at 50%", "npu0 sim", "no runtime for it", "unknown  4"):
        assert words in text


def dashed() -> dict:
    """Two accelerators without sensors, a model that nobody asked yet."""
    status = crowd(2, 1, 0)
    for row, name in zip(status["accelerators"], ("cpu", "gpu0"), strict=True):
        row.update(name=name, temperature_c=None, power_w=None)
        row["unknown"] = {"temperature_c": "no temperature sensor: the profile has no zone",
                          "power_w": "no power sensor: no rail of the profile covers it"}  # fmt: skip
    unasked = dict.fromkeys(("p50_ms", "p99_ms", "energy_j"), "no request yet")
    status["models"][0].update(name="magika", unknown=unasked, **dict.fromkeys(unasked))
    return status


def test_each_dash_has_its_reason_below_the_tables():
    lines = ["".join(s.text for s in line) for line in screen(dashed(), FakeInsight().overview(0, 0), 80, 24, NOW)]
    at = next(i for i, line in enumerate(lines) if line.startswith("– "))
    assert lines[at : at + 4] == [
        "– cpu, gpu0 °C: no temperature sensor: the profile has no zone",
        "– cpu, gpu0 W: no power sensor: no rail of the profile covers it",
        "– magika p50, p99, J: no request yet",
        next(line for line in lines if "lane died" in line),
    ]


def test_reasons_wrap_and_what_has_no_room_is_said_to_be_missing():
    status = dashed()
    long = "no sensor measured it, and the device profile lacks a figure to model it with (qeil explain MODEL)"
    status["models"][0]["unknown"] = {"energy_j": long}
    wide = ["".join(s.text for s in line) for line in screen(status, {}, 80, 24, NOW)]
    at = next(i for i, line in enumerate(wide) if line.startswith("– magika J"))
    assert f"{wide[at]} {wide[at + 1].strip()}" == f"– magika J: {long}"
    small = ["".join(s.text for s in line) for line in screen(status, {}, 80, 16, NOW)]
    assert "– … 1 more reason why figures are unknown: qeil status" in small


def test_a_line_says_each_thing_once_and_no_half_sentences():
    status = crowd(1, 1, 0)
    status["accelerators"][0].update(restarts=2, last_fault="its process is stopped")
    events = [
        {"n": 1, "ts": 1.0, "event": "mode", "old": "ready", "new": "degraded"},
        {"n": 2, "ts": 2.0, "event": "planned", "model": "m", "cause": "m was timed: 7 ms"},
    ]
    narrow, wide = (
        ["".join(s.text for s in line) for line in screen(status, {"events": events}, width, 24, NOW)]
        for width in (80, 120)
    )
    assert any(line.endswith("mode  ready → degraded") for line in narrow)
    assert any(line.endswith("planned  m was timed: 7 ms") for line in narrow)
    assert next(line for line in narrow if line.startswith("accelerator-0")).endswith(" 2")
    assert any(line.endswith("2 its process is stopped") for line in wide)
