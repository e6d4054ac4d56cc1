"""What keeps a model from loading is told in one line: the cause first, then what to do, then the runtime's words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.ports import LaneSpec
from agent.service.serving import load_faults
from tests.fakes import load_spec
from tests.service.world import World

LANE = LaneSpec("gpu0", 1)


@pytest.mark.parametrize(
    "words",
    ["m: std::bad_alloc", "Failed to allocate memory for requested buffer of size 4294967296", "CUDA out of memory"],
)
def test_too_little_memory_is_named_with_the_limit_that_can_be_raised(words):
    free = load_faults.told(words, LANE, load_spec("m"))
    assert free.startswith("m: gpu0 has too little memory for it; free some, or take a smaller model (")
    limited = load_faults.told(words, replace(LANE, memory_limit_bytes=700), load_spec("m"))
    assert "raise lanes.gpu0.memory_limit_bytes (700)" in limited
    assert words.removeprefix("m: ") in limited


@pytest.mark.parametrize(
    "words", ["/x.so: file too short", "invalid ELF header", "undefined symbol: CreateEpFactories"]
)
def test_a_plugin_that_is_no_library_is_named_with_the_key_that_names_it(words):
    load = load_spec("m")
    load = replace(load, runtime=load.runtime.model_copy(update={"plugin": "/x.so"}))
    said = load_faults.told(f"m: {words}", LANE, load)
    assert (
        said == f"m: /x.so is no library that onnx can load; correct `plugin` of gpu0 in the device profile ({words})"
    )
    assert load_faults.told(words, LANE, load_spec("m")) == words


def test_the_runtimes_own_words_are_cut_to_one_short_line():
    said = load_faults.told("bad_alloc\n" + "x " * 500, LANE, load_spec("m"))
    assert len(said) < 2 * load_faults.MAX_QUOTED
    assert "\n" not in said


def test_a_model_that_ends_its_limited_lane_is_refused_with_the_limit():
    assert load_faults.ended("SIGSEGV", LANE) == "loading it ends the lane: SIGSEGV"
    said = load_faults.ended("SIGSEGV", replace(LANE, memory_limit_bytes=700))
    assert said.endswith("it may need more than lanes.gpu0.memory_limit_bytes (700)")


def test_status_shows_the_explained_reason():
    def prepare(lane, generation):
        if lane.spec.accelerator == "gpu0":
            lane.refuse = {"m": "m: std::bad_alloc"}

    world = World(prepare=prepare)
    world.tick(1.0)
    (model,) = world.snapshot.models
    row = next(c for c in model.candidates if c.accelerator == "gpu0")
    assert row.state == "refused"
    assert row.reason.startswith("m: gpu0 has too little memory for it")
