"""A second accelerator that nobody named: when the agent takes one for a model, and when it goes over."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from agent.errors import ModelLoadFailed
from agent.llm.sizes import read_sizes
from agent.schema.settings import DecoderOptions, DecoderSecond, ModelEntry
from agent.service.board import make_board
from agent.service.decoding import decoder_choice
from agent.service.decoding import decoders as module
from agent.service.decoding.decoder_choice import DecoderChoice, as_settings_say, choose, decoder_hosts
from agent.storage import share, yaml_files
from agent.workload.inspect import inspect_in_child
from tests.llm.reference import write_model
from tests.service.test_decoder_keeper import REPORT
from tests.service.test_decoder_second import SHARED
from tests.service.test_decoders import POLICY, World

PAYS = DecoderChoice("cpu-eco", DecoderSecond(accelerator="cpu"), "cpu computes the prompts")
PROFILE = yaml_files.load_profile(share.find_profile("generic-x86"))
HOSTS = ["cpu", "cpu-eco"]


def known(profile):
    """The same board with figures from a datasheet."""

    def sure(figures):
        return {name: value.model_copy(update={"provenance": "datasheet"}) for name, value in figures.items()}

    units = [
        a.model_copy(
            update={
                "peak_flops_per_s": sure(a.peak_flops_per_s), "energy_j_per_flop": sure(a.energy_j_per_flop),
            }
        )
        for a in profile.accelerators
    ]  # fmt: skip
    return profile.model_copy(update={"accelerators": tuple(units)})


@pytest.fixture(scope="module")
def sizes(tmp_path_factory):
    from agent.llm.importer import import_gguf

    base = tmp_path_factory.mktemp("model")
    return read_sizes(import_gguf(write_model(base / "m.gguf", context=64), base / "tiny").folder)


@pytest.fixture(scope="module")
def workloads(sizes):
    return inspect_in_child(sizes.graph(), "onnx", {"past": 512, "sequence": 512}, 60.0)


@pytest.fixture
def chosen(sizes, workloads, monkeypatch):
    monkeypatch.setattr(decoder_choice, "inspect_in_child", lambda *_: workloads)

    def ask(profile=PROFILE, hosts=HOSTS, fits=lambda _: None, *, of=sizes, fixed=False):
        return choose(of, of.graph(), profile, POLICY, hosts, fits, fixed=fixed)

    return ask


def test_every_way_is_priced_and_the_reason_said(chosen):
    found = chosen(known(PROFILE))
    names = {row.accelerator for row in found.considered}
    assert {"cpu", "cpu-eco", "cpu>cpu-eco", "cpu-eco>cpu", "cpu-eco:1+cpu"} <= names
    assert all(row.predicted_ms > 0 and row.predicted_energy_j > 0 for row in found.considered)
    assert found.considered[0].state == "chosen"
    assert found.considered[0].reason == found.why


def test_the_reason_is_shown_also_where_nothing_was_priced(chosen):
    (row,) = chosen(hosts=["cpu"]).shown
    assert (row.accelerator, row.state, row.predicted_ms) == ("cpu", "chosen", None)
    assert row.reason == "cpu alone: no other accelerator of this board runs decoders"
    priced = chosen(known(PROFILE))
    assert priced.shown == priced.considered


@pytest.mark.parametrize(
    ("options", "accelerator", "reason"),
    [
        (DecoderOptions(sharing="never"), "cpu", "cpu alone: decoder.sharing is never"),
        (DecoderOptions(second=DecoderSecond(accelerator="cpu-eco")), "cpu-eco+cpu",
         "cpu-eco+cpu: decoder.second asks for it (prompts there, writing here)"),
        (DecoderOptions(second=DecoderSecond(accelerator="cpu-eco", layers=1)), "cpu-eco+cpu",
         "cpu-eco+cpu: decoder.second asks for it (the first 1 layers there)"),
    ],
)  # fmt: skip
def test_what_the_owner_decided_is_the_reason_shown(options, accelerator, reason):
    found = as_settings_say("cpu", options)
    assert found.second is None
    assert [(row.accelerator, row.reason) for row in found.shown] == [(accelerator, reason)]


def test_what_is_but_assumed_pays_for_nobody(chosen, monkeypatch):
    sure, unsure = chosen(known(PROFILE)), chosen(PROFILE)
    assert unsure.second is None
    assert unsure.first == "cpu"
    if sure.second is not None:
        assert "is assumed; calibrate" in unsure.why


def test_a_board_with_one_accelerator_for_decoders_needs_no_plan(chosen):
    found = chosen(hosts=["cpu"])
    assert (found.second, found.considered) == (None, ())
    assert "no other accelerator of this board runs decoders" in found.why


def test_a_graph_that_gives_its_cache_back_is_not_shared(chosen, sizes):
    found = chosen(known(PROFILE), of=replace(sizes, shared_cache=False))
    assert "gives its cache back" in found.why


def test_a_graph_that_cannot_be_priced_is_served_by_one(chosen, monkeypatch):
    def fails(*_):
        raise ModelLoadFailed("no graph")

    monkeypatch.setattr(decoder_choice, "inspect_in_child", fails)
    assert chosen().why == "cpu alone: the phases cannot be priced (no graph)"


def test_a_board_without_figures_of_a_phase_is_served_by_one(chosen, workloads, monkeypatch):
    monkeypatch.setattr(decoder_choice, "inspect_in_child", lambda *_: workloads[:1])
    assert "no time or energy of cpu for both phases" in chosen().why


class Pays:
    """A planner that finds a pair."""

    def __init__(self, monkeypatch):
        from agent.placement.decoder_pairs import Cost, Pick, Way

        none = Cost(0.0, 0.0)
        alone, pair = Way("cpu", None, None, Cost(2.0, 2.0), none), Way("cpu-eco", "cpu", None, Cost(1.0, 1.0), none)
        monkeypatch.setattr(decoder_choice, "pick", lambda *_, **__: Pick(pair, "it pays", (pair, alone)))


def test_a_pair_that_pays_is_taken_unless_it_costs_texts(chosen, monkeypatch):
    Pays(monkeypatch)
    found = chosen(known(PROFILE))
    assert (found.first, found.second, found.why) == ("cpu-eco", DecoderSecond(accelerator="cpu"), "it pays")
    found = chosen(known(PROFILE), fits=lambda _: "only 1 texts fit")
    assert (found.first, found.second) == ("cpu", None)
    assert found.why == "cpu alone: cpu>cpu-eco would pay, but only 1 texts fit"
    assert found.considered[0].accelerator == "cpu"
    assert "what cpu takes is assumed" in chosen(PROFILE).why


def test_the_named_accelerator_comes_first():
    board = make_board(PROFILE, (), lambda _: None, 2)
    assert decoder_hosts(board, None) == HOSTS
    assert decoder_hosts(board, "cpu-eco") == ["cpu-eco", "cpu"]


# ---------------------------------------------------------------------- going over


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *_, **__: PAYS)
    made = World(tmp_path, monkeypatch)
    (tmp_path / "m" / "genai_config.json").write_text(SHARED)
    made.decoders.start()
    joined("decoder-choice")
    yield made
    for lane in made.lanes:
        lane.hang_up()


def joined(name):
    for thread in threading.enumerate():
        if thread.name == name:
            thread.join()


def test_a_model_goes_over_to_the_pair_that_pays(world):
    assert len(world.lanes) == 1
    world.tick()
    joined("decoder-change")
    old, first, second = world.lanes
    assert old.stopped
    first.loading.set_result(REPORT)
    second.loading.set_result(REPORT)
    world.tick()
    assert (world.status.placement, world.status.state) == ("cpu+cpu-eco", "ready")
    pair = world.decoders._served["smol"].pair
    world.tick()
    assert world.decoders._served["smol"].pair is pair


def test_a_text_under_way_is_finished_where_it_began(world):
    handle, _ = world.write()
    world.tick()
    assert len(world.lanes) == 1
    handle.cancel()
    world.tick()
    assert len(world.lanes) == 3


def test_where_the_pair_does_not_fit_any_more_the_model_stays(world, monkeypatch):
    served = world.decoders._served["smol"]
    served.room_bytes = 0.0
    world.tick()
    assert len(world.lanes) == 1
    assert served.choice.second is None
    assert "needs" in served.choice.why


def test_never_means_that_nobody_shares(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "choose", lambda *_, **__: pytest.fail("planned"))
    entry = ModelEntry(name="smol", path=tmp_path / "m", decoder=DecoderOptions(sharing="never"))
    world = World(tmp_path, monkeypatch, entries=[entry])
    world.decoders.start()
    joined("decoder-choice")
    world.tick()
    assert len(world.lanes) == 1
    (row,) = world.status.candidates
    assert (row.accelerator, row.state, row.reason) == ("cpu", "chosen", "cpu alone: decoder.sharing is never")
