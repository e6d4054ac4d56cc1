"""What an agent does not use it does not import: boards without models start sooner and hold less."""

from __future__ import annotations

import inspect
import subprocess
import sys

from agent.service.board import make_board
from agent.service.decoding.decoders import Decoders
from agent.service.no_language import NoDecoders
from agent.service.planning.plan import Plan
from agent.service.planning.planner_process import PlannerProcess
from agent.service.planning.split_planner import SplittingPlanner
from agent.storage import share, yaml_files
from tests.fakes import FakeClock

UNUSED = (
    "agent.service.decoding", "agent.sampling", "agent.evaluation", "agent.workload", "agent.placement.solve",
    "agent.service.planning.planner.", "agent.service.planning.split_planner", "agent.backends.thread_lane",
    "agent.backends.decoder_lane",
)  # fmt: skip
POLICY = yaml_files.load_policy(share.find_policy("balanced"))
PROFILE = yaml_files.load_profile(share.find_profile("jetson-orin-nano"))
BOARD = make_board(PROFILE, (), lambda _: PROFILE)


def test_an_agent_that_has_no_model_yet_has_not_imported_what_plans_and_writes():
    program = f"import sys, agent.service.app; print([m for m in sys.modules if f'{{m}}.'.startswith({UNUSED!r})])"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120)
    assert found.stdout.strip() == "[]"


def test_a_board_without_language_models_answers_what_one_with_none_left_would():
    none = Decoders((), BOARD, None, FakeClock(), None, None, None, None)
    asked = {name for name, _ in inspect.getmembers(NoDecoders, inspect.isfunction)}
    for name in asked:
        assert inspect.signature(getattr(NoDecoders, name)) == inspect.signature(getattr(Decoders, name)), name
    for name in ("text_models", "latencies", "in_flight"):
        assert getattr(NoDecoders(), name)() == getattr(none, name)()
    assert NoDecoders().statuses() == ()


def test_without_models_the_first_plan_is_made_without_a_planner(tmp_path):
    process = PlannerProcess(BOARD, tmp_path, dict)
    assert (
        process.first(POLICY, "d", ()) == Plan("d", ()) == SplittingPlanner(BOARD, tmp_path, dict).plan(POLICY, "d", ())
    )
    assert process._here is None
    assert not process.uncut


def test_without_models_what_former_plans_kept_is_forgotten_all_the_same(tmp_path):
    left = tmp_path / "apart" / "0123" / "weights"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"w")
    assert PlannerProcess(BOARD, tmp_path, dict).first(POLICY, "d", ()) == Plan("d", ())
    assert not left.exists()
