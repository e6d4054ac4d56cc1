"""Operating points: what is switched together, which combinations there are, and what a lower clock costs."""

from __future__ import annotations

import pytest

from agent.placement.ways import MAX_WAYS, Way, ways
from agent.schema.device import OperatingPoint
from tests.placement.test_costing import board, cost, load, quantity, stage, unit

SLOW, FAST = {"name": "slow", "clock_share": 0.5}, {"name": "fast"}


def labels(profile, *names: str) -> list[tuple[str, ...]]:
    found, _ = ways(profile, names)
    return [tuple(way.label(name) for name in names) for way in found]


def test_a_power_mode_of_the_board_sets_all_accelerators_that_have_it():
    profile = board(unit("gpu", operating_points=[SLOW, FAST]), unit("cpu", operating_points=[SLOW]), unit("npu"))
    assert labels(profile, "gpu", "cpu", "npu") == [("gpu", "cpu", "npu"), ("gpu@slow", "cpu@slow", "npu")]


def test_independent_accelerators_are_set_independently():
    other = {"name": "eco", "clock_share": 0.5}
    profile = board(unit("gpu", operating_points=[SLOW]), unit("cpu", operating_points=[other]))
    assert set(labels(profile, "gpu", "cpu")) == {
        ("gpu", "cpu"), ("gpu@slow", "cpu"), ("gpu", "cpu@eco"), ("gpu@slow", "cpu@eco"),
    }  # fmt: skip


def test_one_silicon_is_never_at_two_points_at_once():
    units = (
        unit("trt", silicon="chip", operating_points=[SLOW]),
        unit("cuda", silicon="chip", operating_points=[{"name": "eco", "clock_share": 0.7}]),
    )
    assert labels(board(*units), "trt", "cuda") == [("trt", "cuda"), ("trt@slow", "cuda"), ("trt", "cuda@eco")]


def test_a_group_that_a_later_accelerator_joins_is_one_group():
    units = (
        unit("a", operating_points=[SLOW]), unit("b", operating_points=[{"name": "eco", "clock_share": 0.7}]),
        unit("c", operating_points=[SLOW, {"name": "eco", "clock_share": 0.7}]),
    )  # fmt: skip
    assert ("a@slow", "b@eco", "c") not in labels(board(*units), "a", "b", "c")


def test_only_accelerators_that_take_part_are_switched():
    profile = board(unit("gpu", operating_points=[SLOW]), unit("cpu"))
    assert labels(profile, "cpu") == [("cpu",)]


def test_a_point_at_the_power_cap_of_the_accelerator_is_its_full_figures():
    capped = {"name": "15w", "power_cap_w": quantity(15.0)}
    profile = board(unit("gpu", power_cap_w=quantity(15.0), operating_points=[capped]))
    assert labels(profile, "gpu") == [("gpu",)]
    assert labels(board(unit("gpu", operating_points=[capped])), "gpu") == [("gpu",), ("gpu@15w",)]


def test_too_many_combinations_are_cut_short_aloud():
    units = [
        unit(f"u{i}", operating_points=[{"name": f"p{i}{j}", "clock_share": 0.5 + j / 10} for j in range(3)])
        for i in range(4)
    ]
    found, notes = ways(board(*units), [u["name"] for u in units])
    assert len(found) == 13 <= MAX_WAYS
    assert "256 combinations of operating points: only the 13" in notes[0]
    assert all(len(way.points) <= 1 for way in found)


def test_an_accelerator_without_a_point_keeps_its_name():
    assert Way().label("gpu") == "gpu"
    assert Way({"gpu": OperatingPoint(name="x")}).label("gpu") == "gpu@x"


def test_a_lower_clock_saves_switching_energy_down_to_the_voltage_floor_and_not_below():
    work = load(stage(flops=1e9, weight=0, activations=1))
    profile = board(unit("a", voltage_floor_clock_share=0.5))
    joules = [
        cost(work, profile, point=OperatingPoint(name="p", clock_share=share)).switching_j for share in (1.0, 0.5, 0.25)
    ]
    assert joules[1] == pytest.approx(joules[0] * 0.5**0.8)
    assert joules[2] == pytest.approx(joules[1])


def test_without_a_voltage_floor_a_lower_clock_saves_nothing_and_says_so():
    slow = OperatingPoint(name="slow", clock_share=0.5)
    found = cost(load(), board(unit("a")), point=slow)
    assert found.switching_j == pytest.approx(cost(load(), board(unit("a"))).switching_j)
    assert any("voltage floor unknown" in note for note in found.notes)
