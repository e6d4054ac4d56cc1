"""Three quick ends in a row begin safe mode; an end in order, or a start that lasts, forgets them."""

from __future__ import annotations

import pytest

from agent.service import assembly
from agent.service.board import Board
from agent.service.serving.starts import Starts, cpu_only
from agent.storage import share
from tests.fakes import FakeClock
from tests.service.world import POLICY, profile


def test_starts_that_end_at_once_lead_to_safe_mode_and_one_that_lasts_leads_out(tmp_path):
    clock = FakeClock()
    assert [Starts(tmp_path, clock).safe for _ in range(4)] == [False, False, False, True]
    starts = Starts(tmp_path, clock)
    assert starts.safe
    told = starts.condition()
    assert (told.type, "4 times" in told.cause) == ("safe_mode", True)
    starts.look()
    assert Starts(tmp_path, clock).safe
    starts = Starts(tmp_path, clock)
    clock.advance(120.0)
    starts.look()
    assert not Starts(tmp_path, clock).safe


def test_an_end_in_order_forgets_quick_ones(tmp_path):
    clock = FakeClock()
    for _ in range(2):
        Starts(tmp_path, clock)
    Starts(tmp_path, clock).ended()
    starts = Starts(tmp_path, clock)
    assert not starts.safe
    assert starts.condition() is None


@pytest.mark.parametrize("text", ["{", "[]", '{"quick_ends": "many"}', "{}"])
def test_a_damaged_count_counts_as_none(tmp_path, text):
    (tmp_path / "starts.json").write_text(text)
    assert not Starts(tmp_path, FakeClock()).safe


def test_a_state_folder_that_cannot_be_written_does_not_keep_the_agent_from_starting(tmp_path):
    (tmp_path / "state").write_text("a file")
    starts = Starts(tmp_path / "state", FakeClock())
    starts.ended()
    assert not starts.safe
    assert (tmp_path / "state").read_text() == "a file"


def test_only_the_hosts_own_processor_is_left():
    units = profile("cpu", "npu")
    npu = units.accelerators[1].model_copy(update={"kind": "npu"})
    board = Board(units.model_copy(update={"accelerators": (units.accelerators[0], npu)}), frozenset(), 4)
    assert [a.name for a in cpu_only(board).profile.accelerators] == ["cpu"]
    simulated = Board(units, frozenset({"cpu"}), 4)
    assert [a.name for a in cpu_only(simulated).profile.accelerators] == ["npu"]
    alone = Board(units.model_copy(update={"accelerators": (npu,)}), frozenset(), 4)
    assert cpu_only(alone) is alone


def test_safe_mode_prefers_the_last_policy_in_force_to_the_file(tmp_path):
    path = share.find_policy("quiet")
    assert assembly.last_good_policy(path, tmp_path, safe=True).policy.name == "quiet"
    assembly.remember_policy(tmp_path, POLICY)
    assert assembly.last_good_policy(path, tmp_path, safe=True).policy.name == "test"
    assert assembly.last_good_policy(path, tmp_path).policy.name == "quiet"
