"""Logs: one line per event on whatever standard error is, JSON where no terminal is."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import structlog

from agent.service import logs
from agent.service.journal import field
from agent.service.without import without


def test_an_event_is_one_json_line_with_level_and_time(capsys):
    logs.configure("info", human=False)
    structlog.get_logger("t").info("lane died", accelerator="cpu")
    structlog.get_logger("t").debug("unseen")
    document = json.loads(capsys.readouterr().err)
    assert (document["event"], document["accelerator"], document["level"]) == ("lane died", "cpu", "info")
    assert document["timestamp"].endswith("Z")
    logs.configure("warning")


def test_without_its_socket_the_journal_gets_the_priority_before_the_same_json(capsys, tmp_path):
    logs.configure("info", human=False, journal=True, address=tmp_path / "none")
    log = structlog.get_logger("t")
    log.info("mode")
    log.warning("lane died")
    log.error("supervisor died")
    lines = capsys.readouterr().err.splitlines()
    assert [line[:3] for line in lines] == ["<6>", "<4>", "<3>"]
    assert json.loads(lines[1][3:])["event"] == "lane died"
    logs.configure("warning")


def test_people_get_words(capsys):
    logs.configure("info", human=True)
    structlog.get_logger("t").warning("policy rejected", cause="x")
    assert "policy rejected" in capsys.readouterr().err
    logs.configure("warning")


def test_the_level_changes_for_loggers_that_are_in_use_already(capsys):
    logs.configure("warning", human=False)
    log = structlog.get_logger("t")
    log.info("before")
    logs.set_level("debug")
    assert logs.level() == "debug"
    log.debug("during")
    logs.set_level("error")
    log.warning("after")
    log.exception("always", exc_info=False)
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["during", "always"]
    logs.configure("warning")


def test_the_journal_gets_the_facts_as_fields_and_nothing_is_written_twice(capsys, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        logs.configure("info", human=False, journal=True, address=tmp_path / "socket")
        structlog.get_logger("t").warning("lane died", accelerator="gpu0", cause="SIGSEGV\nin libcuda", ms=1.5, no=None)
        datagram = journald.recv(65536)
    assert b"PRIORITY=4\n" in datagram
    assert b"SYSLOG_IDENTIFIER=qeil\n" in datagram
    assert b"\nQEIL_EVENT=lane died\n" in datagram
    assert b"\nQEIL_ACCELERATOR=gpu0\n" in datagram
    assert b"QEIL_CAUSE\n\x12\0\0\0\0\0\0\0SIGSEGV\nin libcuda\n" in datagram
    assert b"QEIL_MS=1.5\n" in datagram
    assert b"QEIL_NO=" not in datagram
    message = datagram.split(b"\n")[0].removeprefix(b"MESSAGE=")
    assert json.loads(message)["event"] == "lane died"
    assert capsys.readouterr().err == ""
    logs.configure("warning")


def test_what_is_too_large_for_the_journal_is_written_as_a_line(capsys, tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        logs.configure("info", human=False, journal=True, address=tmp_path / "socket")
        structlog.get_logger("t").info("big", text="x" * 200_000)
    assert capsys.readouterr().err.startswith("<6>{")
    logs.configure("warning")


def test_names_of_fields_are_what_journald_takes():
    assert field("energy-j") == "QEIL_ENERGY_J"
    assert len(field("x" * 100)) == 64


def test_a_service_does_not_hold_what_only_terminals_need_and_may_still_import_it():
    program = "import sys, agent.service.logs, agent.service.app; assert 'rich' not in sys.modules; import rich"
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=60).returncode == 0


def test_a_package_that_is_imported_already_stays(monkeypatch):
    monkeypatch.setitem(sys.modules, "made-up", logs)
    with without("made-up"):
        assert sys.modules["made-up"] is logs
    with without("never-there"):
        assert sys.modules["never-there"] is None
    assert "never-there" not in sys.modules
