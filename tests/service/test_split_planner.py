"""Plans with splits: cut once, remembered, pruned; first where worth it, held ready where the settings name them."""

from __future__ import annotations

import json
import os

import pytest

from agent.errors import ModelLoadFailed
from agent.placement.state import State
from agent.placement.tables import make_tables
from agent.schema.policy import Rule
from agent.schema.settings import ModelEntry
from agent.service.board import Board
from agent.service.planning import split_store
from agent.service.planning.split_planner import SplitPlanner, SplittingPlanner
from agent.service.planning.split_store import SplitStore
from agent.service.serving.admitted import recognise, seen
from agent.service.serving.artifacts import open_artifact
from agent.service.serving.split_meter import Handover, SplitMeter
from agent.workload import micro_tflite
from tests.service.world import POLICY, profile
from tests.workload.runnable import convolutions, saved

ALL = POLICY.model_copy(update={"standby": "all"})


@pytest.fixture
def path(tmp_path):
    return saved(convolutions(), tmp_path)


def planner(tmp_path, handovers=dict) -> SplittingPlanner:
    return SplittingPlanner(Board(profile("a", "b"), frozenset({"b"}), 2), tmp_path / "state", handovers)


def planned(tmp_path, path, policy=POLICY, splits=(), **options):
    entry = ModelEntry(name="net", path=path, splits=splits)
    return planner(tmp_path, **options).plan(policy, "d", [entry], State()).models[0]


def test_a_named_split_is_cut_and_kept_whatever_the_standby(tmp_path, path):
    model = planned(tmp_path, path, splits=("a+b",))
    split = next(c for c in model.candidates if c.stages)
    assert (split.accelerator, split.kept) == ("a+b", True)
    assert [s.accelerator for s in split.stages] == ["a", "b"]
    assert all(s.load.path.is_file() for s in split.stages)
    assert split.stages[1].receives == split.stages[0].sends
    assert split.stages[1].load.simulation is not None
    assert split.stages[1].crossing_bytes > 0
    assert [s.load.model for s in split.stages] == [f"net/{i}of2-{split.split}" for i in (1, 2)]
    assert model.candidates[0].stages == ()


def test_each_stage_is_admitted_with_the_weights_it_shares(tmp_path, path):
    """A lane loads just the files that were cut, as it does with a whole model."""
    split = next(c for c in planned(tmp_path, path, splits=("a+b",)).candidates if c.stages)
    for stage in split.stages:
        assert stage.admitted.path == stage.load.path
        assert [w.path.name for w in stage.admitted.weights] == ["weights.bin"]
        assert seen(stage.admitted) == recognise(stage.admitted)


@pytest.mark.parametrize(
    ("label", "words"), [("a+tpu", "'tpu' cannot run it"), ("a", "is no split"), ("a+b+a+b+a+b+a", "is no split")]
)
def test_a_named_split_that_cannot_be_is_in_the_plan_with_its_reason(tmp_path, path, label, words):
    model = planned(tmp_path, path, splits=(label,))
    assert words in dict(model.rejected)[label]
    assert dict(model.splits_refused) == {label: dict(model.rejected)[label]}
    assert all(not c.stages for c in model.candidates)


def test_a_named_split_over_a_lost_accelerator_says_so_and_asks_nobody_to_correct_the_settings(tmp_path, path):
    entry = ModelEntry(name="net", path=path, splits=("a+b", "a+tpu"))
    model = planner(tmp_path).plan(POLICY, "d", [entry], State(lost=frozenset({"b"}))).models[0]
    assert dict(model.rejected)["a+b"] == "'b' does not run it: it does not answer"
    assert [label for label, _ in model.splits_refused] == ["a+tpu"]


def test_a_named_split_over_a_forbidden_accelerator_is_refused_with_the_policys_word(tmp_path, path):
    policy = POLICY.model_copy(update={"forbidden": (Rule(model="*", accelerator="b"),)})
    model = planned(tmp_path, path, policy=policy, splits=("a+b",))
    assert dict(model.splits_refused)["a+b"].startswith("'b' does not run it: ")
    assert "forbid" in dict(model.splits_refused)["a+b"]


def test_equal_accelerators_are_not_worth_a_split(tmp_path, path):
    model = planned(tmp_path, path)
    assert all(not c.stages for c in model.candidates)
    assert not (tmp_path / "state" / "splits").exists()


def test_within_one_piece_of_silicon_nothing_is_costed_stage_by_stage_unless_a_split_is_named(
    tmp_path, path, monkeypatch
):
    calls = []

    def counted(*given, **options):
        calls.append(given)
        return make_tables(*given, **options)

    monkeypatch.setattr("agent.service.planning.split_planner.make_tables", counted)
    board = profile("a", "b")
    one = [a.model_copy(update={"silicon": "soc"}) for a in board.accelerators]
    made = SplittingPlanner(Board(board.model_copy(update={"accelerators": one}), frozenset(), 2), tmp_path / "s", dict)
    made.plan(POLICY, "d", [ModelEntry(name="net", path=path)])
    assert calls == []
    made.plan_uncut(POLICY, "d", [ModelEntry(name="net", path=path, splits=("a+b",))])
    assert len(calls) == 1


def test_a_split_that_is_worth_it_comes_first(tmp_path, path, monkeypatch):
    monkeypatch.setattr("agent.placement.split_points.beats", lambda *_, **__: True)
    monkeypatch.setattr("agent.placement.split_points.best", lambda t, o, s, m, d: _along(t, o, s, m))
    model = planned(tmp_path, path)
    assert model.candidates[0].accelerator == "a+b"
    assert {c.accelerator for c in model.candidates[1:]} == {"a", "b"}


def _along(tables, objective, sizes, most):
    from agent.placement import split_points

    return split_points.along(tables, ["a", "b"], objective, sizes, most)


def test_a_litert_model_is_one_stage(tmp_path):
    micro = micro_tflite.write(tmp_path)[0]
    entry = ModelEntry(name="m", path=tmp_path / micro.file, splits=("a+b",))
    model = planner(tmp_path).plan(POLICY, "d", [entry]).models[0]
    assert ("a+b", "a model of this kind is one stage") in model.rejected


def test_measured_hand_overs_replace_what_was_predicted(tmp_path, path):
    near = planned(tmp_path, path, splits=("a+b",))
    seen = {("a", "b"): Handover(9, 0.5, 0.1), ("b", "tpu"): Handover(1, 1.0, 0.0)}
    far = planned(tmp_path, path, splits=("a+b",), handovers=lambda: seen)
    before, after = (next(c for c in m.candidates if c.stages).stages[1].handover_s for m in (near, far))
    assert after - before == pytest.approx(0.4)


def test_a_split_is_made_once_and_a_refusal_is_remembered(tmp_path, path, monkeypatch):
    store = SplitStore(tmp_path / "splits")
    artifact = open_artifact(path)
    made = store.get(artifact, 1, after=(2,))
    with pytest.raises(ModelLoadFailed, match="no such tensor"):
        store.get(artifact, 1, boundaries=(("nothing",),))

    def never(*_: object) -> None:
        raise AssertionError("cut again")

    monkeypatch.setattr(split_store, "split_in_child", never)
    assert store.get(artifact, 1, after=(2,)) == made
    with pytest.raises(ModelLoadFailed, match="no such tensor"):
        store.get(artifact, 1, boundaries=(("nothing",),))


@pytest.mark.parametrize("damage", ["garbage", "{}", json.dumps({"version": 1}), "missing stage"])
def test_a_damaged_entry_is_made_again(tmp_path, path, damage):
    store = SplitStore(tmp_path / "splits")
    artifact = open_artifact(path)
    made = store.get(artifact, 1, after=(2,))
    if damage == "missing stage":
        made.split.stages[0].path.unlink()
    else:
        next(made.split.stages[0].path.parent.glob("*.json")).write_text(damage)
    assert store.get(artifact, 1, after=(2,)).split.stages[0].path.is_file()


@pytest.mark.parametrize("name", ["*-1of2.onnx", "*-2of2.onnx", "weights.bin"])
def test_a_file_of_a_split_that_is_another_one_than_was_cut_is_cut_again(tmp_path, path, name):
    artifact = open_artifact(path)
    made = SplitStore(tmp_path / "splits").get(artifact, 1, after=(2,))
    file = next(made.split.stages[0].path.parent.glob(name))
    right, times = file.read_bytes(), file.stat()
    file.write_bytes(bytes([right[0] ^ 1]) + right[1:])
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = SplitStore(tmp_path / "splits").get(artifact, 1, after=(2,))
    assert file.read_bytes() == right
    assert [f.contents for f in again.files] == [f.contents for f in made.files]


def test_what_was_not_used_for_longest_goes_first_and_what_is_in_use_never(tmp_path):
    store = SplitStore(tmp_path / "splits", max_bytes=15_000)
    assert store.prune(()) == 0
    for age, name in enumerate(["old", "mid", "new"]):
        folder = tmp_path / "splits" / name
        folder.mkdir(parents=True)
        (folder / "weights.bin").write_bytes(b"x" * 8192)
        os.utime(folder, (age, age))
    removed = store.prune([tmp_path / "splits" / "old" / "s.onnx"])
    assert removed >= 8192
    assert (tmp_path / "splits" / "old").is_dir()
    assert not (tmp_path / "splits" / "mid").exists()


def test_a_meter_forgets_the_split_that_was_not_used_for_longest(monkeypatch):
    monkeypatch.setattr("agent.service.serving.split_meter.MAX_SPLITS", 2)
    meter = SplitMeter()
    for model in ("m1", "m2", "m1", "m3"):
        meter.ran(model, "a+b", 0, 0.1, None)
    assert meter.stages("m2", "a+b") == {}
    assert meter.stages("m1", "a+b")[0].requests == 2


def test_a_planner_of_splits_needs_no_stage_for_an_unreadable_model(tmp_path):
    entry = ModelEntry(name="m", path=tmp_path / "none.onnx", splits=("a+b",))
    model = planner(tmp_path).plan(POLICY, "d", [entry]).models[0]
    assert model.candidates == ()
    assert isinstance(planner(tmp_path)._splits, SplitPlanner)


def test_a_start_waits_for_no_cut_and_the_next_plan_makes_it(tmp_path, path):
    made, entry = planner(tmp_path), ModelEntry(name="m", path=path, splits=["a+b"])
    first, uncut = made.plan_uncut(POLICY, "d", (entry,))
    assert uncut
    assert ("a+b", split_store.LATER) in first.models[0].rejected
    assert first.models[0].splits_refused == ()
    assert not (tmp_path / "state" / "splits").exists()
    later = made.plan(POLICY, "d", (entry,), State(), first)
    assert "a+b" in [c.accelerator for c in later.models[0].candidates]
    again, uncut = planner(tmp_path).plan_uncut(POLICY, "d", (entry,))
    assert not uncut
    assert "a+b" in [c.accelerator for c in again.models[0].candidates]
