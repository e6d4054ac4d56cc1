from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from agent.backends.decoder_lane import LaneUsage
from agent.control.text_guard import SUFFIX_KEY
from agent.control.thermal_governor import Level, ThermalVerdict
from agent.errors import BadInput, NotFound, Overloaded, PlacementError
from agent.schema.guard import TextGuard
from agent.schema.settings import DecoderOptions, ModelEntry
from agent.schema.text import TextDone, TextPiece, TextRequest
from agent.service.board import make_board
from agent.service.decoding import decoders as module
from agent.service.decoding.decoder_power import DecoderPower
from agent.service.decoding.decoders import Decoders
from agent.service.serving.serving_state import InForce
from agent.storage import share, yaml_files
from tests.fakes import FakeClock
from tests.service.test_decoder_keeper import REPORT, FakeDecoder

POLICY = yaml_files.load_policy(share.find_policy("balanced"))
SCREENING = POLICY.model_copy(
    update={"guard": POLICY.guard.model_copy(update={"texts": TextGuard(absurd_suffix="reject", absurd_suffix_nats=7)})}
)
GENAI = (
    '{"model": {"decoder": {"num_hidden_layers": 2, "num_key_value_heads": 2, "head_size": 16, "filename": "m.onnx"},'
    ' "vocab_size": 300, "context_length": 64, "eos_token_id": 0}}'
)


class World:
    """Decoders whose lanes do what the test says; nothing reads a graph."""

    def __init__(self, tmp_path, monkeypatch, *, free_bytes=8_000_000_000, entries=None, power=True, policy=POLICY):
        self.clock, self.lanes, self.refuse_start, self.mode = FakeClock(), [], False, "ready"
        self.policy, self.woken = policy, []

        def watts(*_):
            if not power:
                raise PlacementError("no coefficient")
            return DecoderPower(10.0, 5.0)

        monkeypatch.setattr(module, "modelled_power", watts)
        folder = tmp_path / "m"
        folder.mkdir()
        (folder / "genai_config.json").write_text(GENAI)
        board = make_board(yaml_files.load_profile(share.find_profile("generic-x86")), (), lambda _: None, 2)
        made = entries or [ModelEntry(name="smol", path=folder)]
        self.decoders = Decoders(
            made, board, lambda spec, program: FakeDecoder(self), self.clock,
            lambda: InForce(self.policy, "digest", None), lambda: self.mode, lambda: free_bytes,
            lambda: self.woken.append(self.clock.monotonic_s()),
        )  # fmt: skip
        cpu = next(a.name for a in board.profile.accelerators if a.kind == "cpu")
        self.keepers = {a.name: SimpleNamespace(verdict=self.verdict()) for a in board.profile.accelerators}
        self.cpu = cpu

    @staticmethod
    def verdict(permit=True, capacity=1.0):
        return ThermalVerdict(permit, capacity, Level.NOMINAL, "")

    def ready(self):
        self.decoders.start()
        for thread in threading.enumerate():
            if thread.name == "decoder-power":
                thread.join()
        self.lanes[0].loading.set_result(REPORT)
        self.tick()
        return self

    def tick(self):
        self.clock.advance(0.1)
        self.decoders.tick(self.keepers, self.clock.monotonic_s())

    def write(self, **changes):
        events = []
        handle = self.decoders.write(TextRequest(**{"model": "smol", "prompt": "x", **changes}), events.append)
        return handle, events

    @property
    def status(self):
        return self.decoders.statuses()[0]


@pytest.fixture
def world(tmp_path, monkeypatch):
    return World(tmp_path, monkeypatch)


def test_a_model_is_loading_until_its_process_says_otherwise(world):
    assert world.status.state == "loading"
    world.ready()
    assert (world.status.state, world.status.placement, world.status.actual) == ("ready", world.cpu, "CPU")
    (model,) = world.decoders.text_models()
    assert (model.name, model.ready, model.context_tokens, model.rows) == ("smol", True, 64, 16)


def test_joules_are_modelled_watts_times_measured_seconds(world):
    _, events = world.ready().write()
    job = world.lanes[0].jobs[1][1]
    job(1, TextPiece(0, 5, "a", "stop"))
    job(1, LaneUsage(7, 0, 7, 1, 1.0, 0.2, 0.4))
    done = events[-1]
    assert isinstance(done, TextDone)
    assert done.usage.energy_j == pytest.approx(0.2 * 10.0 + 0.4 * 5.0)
    assert (done.usage.provenance, done.usage.prompt_tokens, done.placement) == ("modelled", 7, world.cpu)
    assert (world.status.requests, world.status.provenance) == (1, "modelled")
    assert world.status.total_energy_j == done.usage.energy_j


def test_joules_are_unknown_where_no_power_is_known(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, power=False).ready()
    _, events = world.write()
    job = world.lanes[0].jobs[1][1]
    job(1, TextPiece(0, 5, "a", "stop"))
    job(1, LaneUsage(7, 0, 7, 1, 1.0, 0.2, 0.4))
    usage = events[-1].usage
    assert (usage.energy_j, usage.provenance, usage.energy_reason) == (None, "unknown", "no coefficient")


def test_the_loss_of_a_process_calls_for_a_tick(world):
    world.ready()
    assert world.woken == []
    world.lanes[0].kill("killed")
    assert len(world.woken) == 1


def test_joules_are_unknown_where_a_process_was_lost_with_its_account(world):
    handle, events = world.ready().write()
    handle.stream.replays = 1
    job = world.lanes[0].jobs[1][1]
    job(1, TextPiece(0, 5, "a", "stop"))
    job(1, LaneUsage(7, 0, 7, 1, 1.0, 0.2, 0.4))
    usage = events[-1].usage
    assert (usage.energy_j, usage.provenance) == (None, "unknown")
    assert "lost" in usage.energy_reason


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [({"model": "smal"}, NotFound, "did you mean 'smol'"), ({"samples": 17}, BadInput, "16 at once")],
)
def test_what_cannot_be_written_is_refused(world, changes, error, says):
    with pytest.raises(error, match=says):
        world.ready().write(**changes)


def test_a_bound_of_the_policy_refuses_for_as_long_as_a_text_takes(tmp_path, monkeypatch):
    narrow = POLICY.model_copy(update={"admission": POLICY.admission.model_copy(update={"max_concurrent_requests": 1})})
    world = World(tmp_path, monkeypatch, policy=narrow).ready()
    world.write()
    world.clock.advance(6.0)
    world.lanes[0].says(1, (0, 5, "stop"), done=True)
    world.write()
    with pytest.raises(Overloaded, match="1 requests are in flight") as caught:
        world.write()
    assert caught.value.retry_after_s == pytest.approx(6.0)


def test_an_agent_that_drains_takes_no_more_texts(world):
    world.ready().mode = "draining"
    with pytest.raises(Overloaded, match="shutting down"):
        world.write()


def test_heat_takes_the_permit_and_refuses_new_texts(world):
    world.ready().keepers[world.cpu].verdict = world.verdict(permit=False, capacity=0.0)
    world.tick()
    assert world.lanes[0].permits[-1] == 0.0
    with pytest.raises(Overloaded):
        world.write()


def test_a_model_that_does_not_fit_says_what_would(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, free_bytes=1_000_000)
    world.decoders.start()
    assert world.status.state == "unavailable"
    assert "may be used" in world.status.reason
    with pytest.raises(Overloaded, match="may be used"):
        world.write()


def test_models_are_not_promised_the_same_memory_twice(tmp_path, monkeypatch):
    options = DecoderOptions(rows=1, context_tokens=64, prefix_cache_bytes=500_000_000)
    entries = [ModelEntry(name=n, path=tmp_path / "m", decoder=options) for n in ("one", "two")]
    world = World(tmp_path, monkeypatch, free_bytes=1_200_000_000, entries=entries)
    world.decoders.start()
    assert [s.state for s in world.decoders.statuses()] == ["loading", "unavailable"]


@pytest.mark.parametrize(
    ("options", "says"), [({"accelerator": "npu9"}, "runs no decoder"), ({"mode": "quick"}, "no mode 'quick'")]
)
def test_options_that_cannot_be_met_are_the_reason(tmp_path, monkeypatch, options, says):
    entries = [ModelEntry(name="smol", path=tmp_path / "m", decoder=DecoderOptions(**options))]
    world = World(tmp_path, monkeypatch, entries=entries)
    world.decoders.start()
    assert says in world.status.reason


def test_a_text_that_is_given_up_is_not_in_flight_any_more(world):
    handle, _ = world.ready().write()
    assert world.decoders.in_flight() == 1
    handle.cancel()
    assert world.decoders.in_flight() == 0
    _, events = world.write()
    world.decoders.fail_all(Overloaded("over"))
    world.decoders.stop(0.1)
    assert isinstance(events[-1], Overloaded)
    assert all(lane.stopped for lane in world.lanes)


def test_a_prompt_that_the_model_finds_absurd_is_refused_with_its_name_and_told(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, policy=SCREENING).ready()
    found = []
    world.decoders.found = lambda request, sentence, reaction: found.append((request.prompt, sentence, reaction))
    assert world.lanes[0].order.screen
    _, events = world.write(prompt="absurd")
    fields, job = world.lanes[0].jobs[1]
    assert fields["screen"] == ("reject", 7.0)
    job(1, BadInput(f"it is absurd {SUFFIX_KEY}"))
    assert events[0].message == "model 'smol': prompt: it is absurd (policy guard.texts.absurd_suffix)"
    assert events[0].context["code"] == "suffix"
    assert found == [("absurd", "it is absurd", "reject")]


def test_another_refusal_of_a_screened_prompt_stays_what_it_is(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, policy=SCREENING).ready()
    _, events = world.write()
    world.lanes[0].jobs[1][1](1, BadInput("no template"))
    assert events[0].message == "no template"


def test_a_flagged_prompt_is_told_and_a_graph_that_cannot_screen_is_said_in_status(tmp_path, monkeypatch):
    world = World(tmp_path, monkeypatch, policy=SCREENING).ready()
    found = []
    world.decoders.found = lambda request, sentence, reaction: found.append((sentence, reaction))
    world.write()
    job = world.lanes[0].jobs[1][1]
    job(1, TextPiece(0, 5, "a", "stop"))
    job(1, LaneUsage(7, 0, 7, 1, 1.0, 0.2, 0.4, found="absurd", unscreened=True))
    assert found == [("absurd", "flag")]
    assert "has no effect" in world.status.reason


def test_without_the_screen_no_prompt_is_listened_to(world):
    world.ready().write()
    assert not world.lanes[0].order.screen
    assert world.lanes[0].jobs[1][0]["screen"] is None
