"""The simulated accelerator's heat, against the closed form; its faults."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.backends import process
from agent.backends.artifact import LoadOrder, SimulatedUnit
from agent.backends.faults import Faults, spoil
from agent.backends.head_start import with_huge_pages
from agent.backends.simulated import HeatModel

UNIT = SimulatedUnit(
    duration_s=2.0, energy_j=20.0, idle_power_w=1.0, thermal_resistance_k_per_w=5.0, heat_capacity_j_per_k=4.0,
    ambient_c=25.0,
)  # fmt: skip


def test_idle_settles_at_ambient_plus_power_times_resistance() -> None:
    heat = HeatModel(UNIT, 0.0)

    temperature_c, power_w = heat.reading(1e6)

    assert temperature_c == pytest.approx(30.0)
    assert power_w == pytest.approx(1.0)


def test_a_run_heats_along_the_exponential_and_its_joules_are_counted() -> None:
    heat = HeatModel(UNIT, 0.0)
    heat.begin(UNIT, 0.0)

    temperature_c, power_w = heat.reading(2.0)

    assert temperature_c == pytest.approx(75.0 - 50.0 * math.exp(-2.0 / 20.0))
    assert power_w == pytest.approx(10.0)
    assert heat.reading(2.0) == (temperature_c, 1.0)


@given(st.lists(st.floats(0.001, 3.0), min_size=1, max_size=20))
def test_how_often_one_looks_does_not_change_the_heat(pauses: list[float]) -> None:
    watched, unwatched = HeatModel(UNIT, 0.0), HeatModel(UNIT, 0.0)
    watched.begin(UNIT, 0.0)
    unwatched.begin(UNIT, 0.0)
    now_s = 0.0

    for pause in pauses:
        now_s += pause
        seen_c, _ = watched.reading(now_s)

    assert seen_c == pytest.approx(unwatched.reading(now_s)[0])


def test_a_run_of_no_time_is_idle() -> None:
    unit = SimulatedUnit(0.0, 5.0, 1.0, 5.0, 4.0, 25.0)
    heat = HeatModel(unit, 0.0)
    heat.begin(unit, 0.0)

    assert heat.reading(1.0)[1] == pytest.approx(1.0)


def test_faults_last_for_the_runs_they_were_armed_for() -> None:
    faults = Faults()
    faults.arm("wrong", 2, 0.0)

    assert [faults.next() for _ in range(3)] == ["wrong", "wrong", None]
    faults.before(None)


def test_spoilt_outputs_keep_their_form_and_lose_their_values() -> None:
    numbers, flags, words = np.arange(4, dtype=np.int8), np.array([True, False]), np.array(["a", "b"], object)

    spoilt = spoil([numbers, flags, words])

    assert [s.dtype for s in spoilt] == [numbers.dtype, flags.dtype, words.dtype]
    assert [s.tolist() for s in spoilt] == [[4, 3, 2, 1], [False, True], ["b", "a"]]


@pytest.mark.parametrize(
    ("returncode", "line", "sentence"),
    [
        (None, "", "its process does not end"),
        (3, "boom", "its process exited with code 3; last words: boom"),
        (3, "\x1b[31mboom\x1b[0m", "its process exited with code 3; last words: boom"),
        (-11, "", "its process was ended by SIGSEGV"),
        (-63, "", "its process was ended by signal 63"),
    ],
)
def test_the_end_of_a_process_is_one_sentence(returncode: int | None, line: str, sentence: str) -> None:
    assert process.describe(returncode, line) == sentence


def test_the_environment_keeps_the_drivers_variables_and_loses_the_thread_ones() -> None:
    inherited = {"PATH": "/bin", "ADSP_LIBRARY_PATH": "/dsp", "OMP_NUM_THREADS": "64", "LD_PRELOAD": "x",
                 "ORT_LOGGING": "1", "PYTHONSTARTUP": "x"}  # fmt: skip

    kept = process.environment(inherited, 3)

    assert (kept["PATH"], kept["ADSP_LIBRARY_PATH"], kept["OMP_NUM_THREADS"]) == ("/bin", "/dsp", "3")
    assert not {"LD_PRELOAD", "ORT_LOGGING", "PYTHONSTARTUP"} & set(kept)


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ({}, "glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.check=1"}, "glibc.malloc.check=1:glibc.malloc.hugetlb=1"),
        ({"GLIBC_TUNABLES": "glibc.malloc.hugetlb=0"}, "glibc.malloc.hugetlb=0"),
    ],
)
def test_large_pages_are_asked_for_unless_the_owner_said_otherwise(given: dict[str, str], wanted: str) -> None:
    assert with_huge_pages({"PATH": "/bin", **given}) == {"PATH": "/bin", "GLIBC_TUNABLES": wanted}


def test_an_order_survives_its_message() -> None:
    order = LoadOrder("m", "/m.onnx", "onnx", "XEP", "plugin", {"a": "b"}, 2, 1, UNIT)

    assert LoadOrder.from_json(order.to_json()) == order
