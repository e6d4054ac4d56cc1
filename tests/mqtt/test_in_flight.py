"""Outcomes of what was handed over, in whichever order number and answer come."""

from __future__ import annotations

from agent.mqtt.in_flight import InFlight, Publication


def test_an_answer_settles_the_message_once():
    in_flight = InFlight()
    assert in_flight.handed_over(5, 77) is None
    assert in_flight.finished(5, 0) == Publication(77, 0)
    assert in_flight.lose() == []


def test_an_answer_that_overtakes_the_number_is_kept_for_it():
    in_flight = InFlight()
    assert in_flight.finished(5, 0x87) is None
    assert in_flight.handed_over(5, 77) == Publication(77, 0x87)
    assert in_flight.handed_over(5, 78) is None


def test_nobody_is_told_about_the_retained_state():
    in_flight = InFlight()
    assert in_flight.handed_over(1, None) is None
    assert in_flight.finished(1, 0) is None
    assert in_flight.finished(2, 0) is None
    assert in_flight.handed_over(2, None) is None
    in_flight.handed_over(3, None)
    assert in_flight.lose() == []
    assert in_flight.handed_over(4, None) is None


def test_a_lost_connection_settles_everything_and_what_comes_after():
    in_flight = InFlight()
    in_flight.handed_over(1, 10)
    in_flight.handed_over(2, 20)
    assert in_flight.lose() == [Publication(10, None), Publication(20, None)]
    assert in_flight.handed_over(3, 30) == Publication(30, None)
