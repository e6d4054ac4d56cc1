"""Logs: one line per event on whatever standard error is, JSON where no terminal is."""

from __future__ import annotations

import json

import structlog

from agent.service import logs


def test_an_event_is_one_json_line_with_level_and_time(capsys):
    logs.configure("info", human=False)
    structlog.get_logger("t").info("lane died", accelerator="cpu")
    structlog.get_logger("t").debug("unseen")
    document = json.loads(capsys.readouterr().err)
    assert (document["event"], document["accelerator"], document["level"]) == ("lane died", "cpu", "info")
    assert document["timestamp"].endswith("Z")
    logs.configure("warning")


def test_the_journal_gets_the_priority_before_the_same_json(capsys):
    logs.configure("info", human=False, journal=True)
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
