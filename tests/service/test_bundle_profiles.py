"""A device profile of a bundle: its figures come into force, other hardware is refused, a revert takes them back."""

from __future__ import annotations

import pytest

from agent.errors import ConfigError
from agent.service.board import make_board
from agent.service.board_figures import BoardFigures, differing, with_figures
from agent.service.planning.planner_process import PlannerProcess
from agent.storage import share, yaml_files
from tests.service.bundle_world import Board
from tests.service.world import POLICY

PI = yaml_files.load_profile(share.find_profile("raspberry-pi-4"))
CPU = PI.accelerators[0]


def changed(**fields):
    """The same board with other figures of its first accelerator."""
    return PI.model_copy(update={"accelerators": (CPU.model_copy(update=fields), *PI.accelerators[1:])})


def hungry(factor: float = 2.0):
    base = CPU.base_power_w
    return changed(base_power_w=base.model_copy(update={"value": base.value * factor}))


@pytest.fixture
def board(tmp_path):
    return Board(tmp_path)


def text(profile) -> bytes:
    return profile.model_dump_json().encode()  # JSON is YAML


def offer(board, ver: int, profile, **fields) -> None:
    name = profile.name
    board.offer(ver, "figures", {f"profiles/{name}.yaml": text(profile)}, policy=None, profile=name, **fields)


def test_figures_of_a_bundle_are_in_force_and_a_start_brings_them_back(board):
    offer(board, 1, hungry())
    assert board.status == "kept"
    assert board.agent.layer.profile == hungry()
    board.boot().resume()
    assert board.agent.layer.profile == hungry()
    board.offer(2)
    assert board.agent.layer.profile is None


def test_a_profile_of_other_hardware_is_refused_and_the_old_one_serves(board):
    board.unfit = lambda profile: f"{profile.name} is another board"
    offer(board, 1, hungry())
    assert (board.status, board.bundles.record.code) == ("refused", "profile_differs")
    assert "another board" in board.bundles.record.message
    assert board.agent.layer.profile is None


def test_a_profile_that_is_named_and_not_there_is_refused(board):
    board.offer(1, "other", profile="nowhere")
    assert (board.status, board.bundles.record.code) == ("refused", "invalid")


def test_joules_that_the_profile_itself_models_prove_nothing_about_it(board):
    """A fifth more, and only on paper: figures that are right must not be reverted for being higher."""
    board.costs["own"], board.provenance = 0.0, "modelled"
    board.after_switch = lambda: board.costs.update(own=0.2)
    offer(board, 1, hungry())
    assert board.status == "kept"
    assert board.bundles.record.trial["proven"] is False


def test_joules_that_were_measured_still_revert_it(board):
    board.after_switch = lambda: board.costs.update(own=0.2)
    offer(board, 1, hungry())
    assert (board.status, board.bundles.record.code) == ("reverted", "worse_energy")
    assert board.agent.layer.profile is None


def test_the_same_hardware_with_other_figures_fits():
    made = make_board(PI, [], lambda _: PI, cores=4)
    assert differing(made, hungry()) is None
    assert with_figures(made, hungry()).profile.accelerators[0].base_power_w == hungry().accelerators[0].base_power_w


@pytest.mark.parametrize(
    ("profile", "said"),
    [
        (PI.model_copy(update={"name": "another"}), "it is a profile of another; this board has raspberry-pi-4"),
        (changed(name="gpu9"), "accelerators: there is no cpu"),
        (changed(threads=3), "threads of cpu differs"),
        (changed(runtimes=()), "runtimes of cpu differs"),
        (PI.model_copy(update={"zones": ()}), "zones differ"),
    ],
)
def test_what_lanes_and_sensors_are_made_of_must_be_the_same(profile, said):
    made = make_board(PI, [], lambda _: PI, cores=4)
    assert said in differing(made, profile)


def test_a_board_follows_the_bundle_and_goes_back():
    made = make_board(PI, [], lambda _: PI, cores=4)
    brought = [None]
    figures = BoardFigures(made, lambda: brought[0], lambda profile: profile)
    assert figures.now() is made
    brought[0] = hungry()
    first = figures.now()
    assert first.profile.accelerators[0].base_power_w.value == 2 * CPU.base_power_w.value
    assert figures.now() is first
    brought[0] = None
    assert figures.now() is made
    assert figures.problem(hungry()) is None


def test_a_damaged_calibration_refuses_the_profile():
    def damaged(_):
        raise ConfigError("calibration.json: run qeil calibrate again")

    made = make_board(PI, [], lambda _: PI, cores=4)
    assert "run qeil calibrate again" in BoardFigures(made, lambda: None, damaged).problem(hungry())


@pytest.mark.slow
def test_the_planner_plans_with_the_figures_of_now(tmp_path):
    made = make_board(PI, [], lambda _: PI, cores=4)
    now = [made]
    planner = PlannerProcess(made, tmp_path, dict)
    planner.follow(lambda: now[0])
    policy = POLICY
    try:
        planner.plan(policy, "d", ())
        before = planner.pid
        planner.plan(policy, "d", ())
        assert planner.pid == before
        now[0] = with_figures(made, hungry())
        planner.plan(policy, "d", ())
        assert planner.pid != before
    finally:
        planner.close()
