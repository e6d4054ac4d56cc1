"""A search in a process of its own: the same front, and what happens when that process is not there."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
import time

import pytest

from agent.errors import PlacementError
from agent.placement.warm import replan
from agent.service.planning import search_child
from agent.service.planning.search_child import answer, receive, send
from agent.service.planning.search_process import HereSearch, SearchProcess
from tests.placement.problems import random_problem

PROBLEM = random_problem(3, 6, 3, room=9.0)
NOWHERE = random_problem(3, 6, 3, room=0.001)
WARM = [[0] * 6]


@pytest.fixture
def search():
    made = SearchProcess()
    yield made
    made.close()


def test_a_front_from_the_process_is_the_front(search):
    search.start()
    found = search(PROBLEM, WARM, 0.05)
    assert PROBLEM.feasible(found.assignments()).all()
    assert found.points().tolist() == PROBLEM.objectives(found.assignments()).tolist()
    assert search.pid is not None


def test_where_nothing_fits_the_reason_comes_back(search):
    with pytest.raises(PlacementError, match="no placement fits"):
        search(NOWHERE, WARM, 0.05)


def test_a_process_that_died_is_replaced_and_the_agent_searches_itself_where_there_is_none(search):
    search(PROBLEM, WARM, 0.02)
    first = search.pid
    os.kill(first, signal.SIGKILL)
    os.waitid(os.P_PID, first, os.WEXITED | os.WNOWAIT)
    assert len(search(PROBLEM, WARM, 0.02).front)
    assert search.pid not in (None, first)
    broken = SearchProcess(program="agent.service.there_is_no_such_module")
    assert len(broken(PROBLEM, WARM, 0.02).front)
    broken.close()


def test_a_process_that_does_not_answer_is_given_up(search):
    search.start()
    os.kill(search.pid, signal.SIGSTOP)
    impatient = search.pid
    search._patience_s = 0.05
    assert len(search(PROBLEM, WARM, 0.02).front)
    search._patience_s = 30.0
    assert len(search(PROBLEM, WARM, 0.02).front)
    assert search.pid != impatient


def test_what_cannot_be_started_is_no_reason_not_to_plan(search, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    search.start()
    assert search.pid is None
    assert len(search(PROBLEM, WARM, 0.02).front)


def test_a_stop_ends_a_search_in_progress_and_there_is_none_after_it(search):
    search.start()
    errors = []

    def long() -> None:
        try:
            search(PROBLEM, WARM, 60.0)
        except PlacementError as error:
            errors.append(error.message)

    os.kill(search.pid, signal.SIGSTOP)
    thread = threading.Thread(target=long)
    thread.start()
    while not search._use.locked():
        time.sleep(0.001)
    search.close()
    thread.join(10.0)
    assert errors == ["the agent is stopping"]
    with pytest.raises(PlacementError, match="stopping"):
        search(PROBLEM, WARM, 0.02)
    search.start()
    assert search.pid is None


def test_an_answer_of_another_kind_is_a_fault(search, monkeypatch):
    monkeypatch.setattr(SearchProcess, "_asked", lambda *_: 7)
    with pytest.raises(TypeError, match="answered with int"):
        search(PROBLEM, WARM, 0.02)


class Pipes:
    """Stdin and stdout of the child in memory."""

    def __init__(self, *requests: object) -> None:
        self.buffer = io.BytesIO()
        for request in requests:
            send(self.buffer.write, request)
        self.buffer.seek(0)


def test_the_child_answers_until_its_input_ends_and_lowers_its_priority(monkeypatch, tmp_path):
    lowered = []
    out = Pipes()
    monkeypatch.setattr(sys, "stdin", Pipes((PROBLEM, WARM, 0.02), (NOWHERE, WARM, 0.02)))
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(os, "nice", lowered.append)
    monkeypatch.setattr(os, "dup2", lambda *_: None)
    search_child.main()
    out.buffer.seek(0)
    assert len(receive(out.buffer.read).front)
    assert receive(out.buffer.read).startswith("no placement fits")
    assert lowered == [search_child.NICE]


def test_an_answer_is_the_front_or_the_reason():
    assert len(answer((PROBLEM, WARM, 0.02)).front)
    assert isinstance(answer((NOWHERE, WARM, 0.02)), str)
    here = HereSearch()(PROBLEM, WARM, 0.02)
    assert here.method == replan(PROBLEM, WARM, budget_s=0.02, clock=time.monotonic).method
