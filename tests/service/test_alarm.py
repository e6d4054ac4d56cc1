"""Alarm: calls back at the next of several times, on a thread that is there only while it is needed."""

from __future__ import annotations

import math
import threading

from agent.service.clock import SystemClock
from agent.service.serving.alarm import Alarm


def test_it_calls_when_the_earliest_time_has_come_and_again_when_it_is_told_to():
    clock, called, third = SystemClock(), [], threading.Event()

    def due(now_s):
        called.append(now_s)
        if len(called) == 3:
            third.set()
            return math.inf
        return now_s + 0.01

    alarm = Alarm(clock, due)
    begun_s = clock.monotonic_s()
    alarm.remind(begun_s + 3600)
    alarm.remind(begun_s + 0.02)
    alarm.remind(begun_s + 1800)
    assert third.wait(20)
    assert called[0] >= begun_s + 0.02
    assert called[1] >= called[0] + 0.01


def test_a_time_named_after_its_thread_has_ended_is_kept():
    clock, threads, called = SystemClock(), [], threading.Event()

    def due(now_s):
        threads.append(threading.current_thread())
        called.set()
        return math.inf

    alarm = Alarm(clock, due)
    for _ in range(2):
        called.clear()
        alarm.remind(clock.monotonic_s())
        assert called.wait(20)
        threads[-1].join(20)
        assert not threads[-1].is_alive()
    assert len(set(threads)) == 2
