"""A second process for a model: when it may be, and how the two are brought together."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.errors import BadInput, PlacementError
from agent.llm.sizes import read_sizes
from agent.schema.settings import DecoderOptions, DecoderSecond, ModelEntry
from agent.service.decoding.decoder_second import check_second, second_bytes
from tests.service.test_decoder_keeper import REPORT
from tests.service.test_decoders import GENAI, World

SHARED = GENAI[:-1] + ', "search": {"past_present_share_buffer": true}}'


@pytest.fixture
def world(tmp_path, monkeypatch):
    options = DecoderOptions(accelerator="cpu", second=DecoderSecond(accelerator="cpu-eco", layers=1))
    made = World(tmp_path, monkeypatch, entries=[ModelEntry(name="smol", path=tmp_path / "m", decoder=options)])
    (tmp_path / "m" / "genai_config.json").write_text(SHARED)
    made.decoders.start()
    yield made
    for lane in made.lanes:
        lane.hang_up()


def connected(first, second):
    first.met.sendall(b"x")
    second.met.settimeout(5)
    return second.met.recv(1) == b"x"


def test_both_processes_meet_when_both_have_loaded(world):
    first, second = world.lanes
    first.loading.set_result(REPORT)
    world.tick()
    assert first.met is None
    second.loading.set_result(REPORT)
    world.tick()
    assert connected(first, second)
    met = first.met
    world.tick()
    assert first.met is met


@pytest.mark.parametrize("which", [0, 1])
def test_whoever_dies_the_next_one_is_brought_together_with_the_other(world, which):
    for lane in world.lanes:
        lane.loading.set_result(REPORT)
    world.tick()
    world.lanes[which].kill("gone")
    for _ in range(100):
        world.tick()
    (heir,) = [lane for lane in world.lanes[2:] if lane.loading is not None]
    heir.loading.set_result(REPORT)
    world.tick()
    pair = [heir, world.lanes[1 - which]]
    assert connected(*pair)
    assert connected(*reversed(pair))


def test_a_process_that_dies_before_they_meet_is_no_error(world):
    first, second = world.lanes
    first.loading.set_result(REPORT)
    second.loading.set_result(REPORT)
    first.dead = True
    world.tick()
    assert second.met is None


def test_heat_on_either_accelerator_pauses_both(world):
    world.keepers["cpu-eco"].verdict = world.verdict(permit=False, capacity=0.5)
    world.tick()
    assert all(lane.permits[-1] == 0.0 for lane in world.lanes)
    assert world.decoders._shares["smol"] == 0.5


def test_status_and_stop_know_both(world):
    for lane in world.lanes:
        lane.loading.set_result(REPORT)
    world.tick()
    assert world.status.placement == "cpu-eco+cpu"
    assert world.decoders.text_models()[0].second_pid == 7
    world.decoders.stop(1.0)
    assert all(lane.stopped for lane in world.lanes)


@pytest.mark.parametrize(
    ("second", "changes", "error", "says"),
    [
        ({"accelerator": "cpu"}, {}, PlacementError, "name another one"),
        ({"accelerator": "b", "layers": 2}, {}, BadInput, "1 to 1 work"),
        ({"accelerator": "b"}, {"shared_cache": False}, BadInput, "gives the cache back"),
    ],
)
def test_what_cannot_be_shared_says_why(tmp_path, second, changes, error, says):
    (tmp_path / "genai_config.json").write_text(SHARED)
    sizes = replace(read_sizes(tmp_path), **changes)
    with pytest.raises(error, match=says):
        check_second(sizes, DecoderSecond(**second), "cpu")


def test_prompts_need_the_weights_twice_and_layers_do_not(tmp_path):
    (tmp_path / "genai_config.json").write_text(SHARED)
    (tmp_path / "w.bin").write_bytes(bytes(1000))
    sizes = read_sizes(tmp_path)
    whole, part = (second_bytes(sizes, DecoderSecond(accelerator="b", layers=n)) for n in (None, 1))
    assert whole - part == pytest.approx(1150)


def loaded(world):
    for lane in world.lanes[:2]:
        lane.loading.set_result(REPORT)
    world.tick()
    return world.lanes[0], world.lanes[1]


def test_a_process_that_waits_for_one_at_work_does_not_hang(world):
    first, second = loaded(world)
    first.busy_since_s = world.clock.monotonic_s()
    for _ in range(100):
        second.busy_since_s = world.clock.monotonic_s()  # one short call after another
        world.tick()
    assert not first.dead
    second.busy_since_s = None
    for _ in range(100):
        world.tick()
    assert first.dead


def test_a_process_that_waits_for_one_without_a_core_does_not_hang(world):
    first, second = loaded(world)
    first.busy_since_s = world.clock.monotonic_s()
    for _ in range(100):
        second.waited_s += 0.1
        world.tick()
    assert not first.dead


def test_a_helper_that_hangs_is_the_one_that_is_killed(world):
    first, second = loaded(world)
    first.busy_since_s = second.busy_since_s = world.clock.monotonic_s()
    for _ in range(100):
        world.tick()
        if second.dead:
            break
    assert (first.dead, second.dead) == (False, True)


def test_what_a_process_waited_before_its_turn_was_seen_counts_too(world):
    first, _ = loaded(world)
    first.busy_since_s = world.clock.monotonic_s()
    world.clock.advance(30.0)  # the agent itself got no core either
    first.waited_s += 30.0
    world.tick()
    assert not first.dead
