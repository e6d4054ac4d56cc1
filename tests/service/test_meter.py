"""What a model's meter says of its joules."""

from __future__ import annotations

from agent.service.serving.meter import Meter


def answered(meter: Meter, energy_j: float | None, provenance: str) -> None:
    meter.answered("cpu", 0.002, 0.001, energy_j, provenance, 0)


def test_joules_are_the_median_of_the_recent_answers_not_the_last_one():
    meter = Meter()
    for energy_j in (1.0, 1.0, 9.0):
        answered(meter, energy_j, "measured")
    reading = meter.read()
    assert reading.energy_j == 1.0
    assert reading.provenance == "measured"
    assert reading.total_energy_j == 11.0


def test_one_modelled_answer_makes_the_median_modelled_and_one_unknown_makes_it_unknown():
    meter = Meter()
    answered(meter, 1.0, "measured")
    answered(meter, 2.0, "modelled")
    assert meter.read().provenance == "modelled"
    answered(meter, None, "unknown")
    assert (meter.read().energy_j, meter.read().provenance) == (None, "unknown")


def test_without_an_answer_joules_are_unknown():
    meter = Meter()
    meter.failed()
    assert (meter.read().energy_j, meter.read().provenance) == (None, "unknown")
