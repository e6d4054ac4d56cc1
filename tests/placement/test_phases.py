"""A request of two phases as one problem: pairs of accelerators, the cache that crosses, memory in two places."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from agent.errors import PlacementError
from agent.placement.candidates import room_bytes
from agent.placement.phases import aligned, merge_stages, pair_name, request_tables
from agent.placement.state import State
from agent.placement.tables import Tables, make_tables
from agent.schema.device import DeviceProfile, Link
from agent.schema.policy import Rule
from agent.schema.workload import Workload
from agent.workload.catalogue import resolve_name
from tests.placement.test_costing import board, load, quantity, stage, unit
from tests.service.world import POLICY

LINK = Link.model_validate(
    {"between": ["ram", "vram"], "bandwidth_bytes_per_s": quantity(1e8), "overhead_s": quantity(1e-3),
     "energy_j_per_byte": quantity(1e-9)}
)  # fmt: skip
TWO = board(unit("gpu", memory_domain="vram"), unit("npu", base_power_w=quantity(0.5)), domains=("ram", "vram"),
            links=(LINK,))  # fmt: skip
ONE = board(unit("gpu"), unit("npu", base_power_w=quantity(0.5)))


def phase(name: str, flops: float, count: int = 3, **changes) -> Workload:
    stages = [stage(f"layer{i}", flops=flops, weight=1e7, **{"kv_bytes": 2e5, **changes}) for i in range(count)]
    return load(*stages, phase=name, format="catalogue")


PREFILL, DECODE = phase("prefill", 1e9), phase("decode", 1e7)


def request(profile: DeviceProfile, tokens: int = 8, policy=POLICY, state=None, prefill=PREFILL, decode=DECODE):
    made = [make_tables(w, profile, policy, state=state) for w in (prefill, decode)]
    return made, request_tables((prefill, made[0]), (decode, made[1]), tokens, profile, policy, state)


def at(tables: Tables, *names: str) -> list[int]:
    return [tables.problem.accelerators.index(name) for name in names]


def test_a_request_on_one_accelerator_is_its_prefill_and_all_its_decode_steps():
    (prefill, decode), tables = request(ONE, tokens=8)
    for index, name in enumerate(("gpu", "npu")):
        expected = prefill.problem.sums([index] * 3) + 8 * decode.problem.sums([index] * 3)
        assert tables.problem.sums(at(tables, name, name, name)) == pytest.approx(expected)
    assert tables.places == (("gpu", "gpu"), ("gpu", "npu"), ("npu", "gpu"), ("npu", "npu"))


def test_the_cache_that_prefill_wrote_crosses_the_link_once_for_each_stage():
    (prefill, decode), tables = request(TWO, tokens=8)
    energy, latency, _, _ = tables.problem.sums(at(tables, *["gpu>npu"] * 3))[:, 0]
    apart = prefill.problem.sums([0] * 3)[:, 0] + 8 * decode.problem.sums([1] * 3)[:, 0]
    assert latency - apart[1] == pytest.approx(3 * (1e5 / 1e8 + 1e-3))
    assert energy - apart[0] == pytest.approx(3 * 1e5 * 1e-9)


def test_a_stage_without_a_cache_hands_nothing_over():
    pair = (phase("prefill", 1e9, kv_bytes=0.0), phase("decode", 1e7, kv_bytes=0.0))
    (prefill, decode), tables = request(TWO, 8, prefill=pair[0], decode=pair[1])
    latency = tables.problem.sums(at(tables, *["gpu>npu"] * 3))[1, 0]
    assert latency == pytest.approx(prefill.problem.sums([0] * 3)[1, 0] + 8 * decode.problem.sums([1] * 3)[1, 0])


def test_the_period_of_a_request_is_that_of_its_busier_phase():
    (prefill, decode), tables = request(TWO, tokens=1)
    row = at(tables, *["gpu>npu"] * 3)
    seconds = (prefill.pace.period_s([0] * 3)[0], decode.pace.period_s([1] * 3)[0] + 3 * (1e5 / 1e8 + 1e-3))
    assert tables.pace.period_s(row)[0] == pytest.approx(max(seconds))
    assert tables.pace.period_s(row)[0] < tables.problem.objectives(row)[0, 1]


def held(names: tuple[tuple[str, str], ...], profile: DeviceProfile) -> dict[str, float]:
    """Bytes by domain, from first principles: weights and cache once in each domain, and the largest arena there."""
    used = {d.name: 0.0 for d in profile.memory_domains}
    arena = dict(used)
    for pair in names:
        for domain in {profile.accelerator(n).memory_domain for n in pair}:
            used[domain] += 1e7 + 2e5
            arena[domain] = 4e6
    return {name: used[name] + arena[name] for name in used}


@pytest.mark.parametrize("free", [(1e9, 1e9), (7e8, 6.4e8), (6.35e8, 6.35e8), (6.35e8, 6.5e8)])
def test_nothing_is_admitted_that_does_not_fit_both_memories_and_nothing_refused_on_one_accelerator(free):
    state = State(free_bytes=dict(zip(("ram", "vram"), (b - 5e8 for b in free), strict=True)))
    pair = [phase(p, f, arena_bytes=4e6) for p, f in (("prefill", 1e9), ("decode", 1e7))]
    _, tables = request(TWO, 8, state=state, prefill=pair[0], decode=pair[1])
    room = {d: room_bytes(TWO, d, POLICY, state) for d in ("ram", "vram")}
    for row in product(range(4), repeat=3):
        names = tuple(tables.places[i] for i in row)
        fits = all(bytes_ <= room[d] for d, bytes_ in held(names, TWO).items())
        admitted = bool(tables.problem.feasible(row)[0])
        assert fits or not admitted
        if len({n for pair_ in names for n in pair_}) == 1:
            assert admitted == fits
    if min(room.values()) < 3.3e7:
        assert bool(np.any(tables.problem.allowed[:, 1])) == (max(room.values()) >= 3.46e7)


def test_an_accelerator_barred_in_one_phase_takes_the_other():
    half = unit("npu", runtimes=[{"backend": "native", "provider": "V", "unsupported_operators": ["Only"]}])
    decode = load(*(s.model_copy(update={"operators": ("Only",)}) for s in DECODE.stages), phase="decode",
                  format="catalogue")  # fmt: skip
    _, tables = request(board(unit("gpu"), half, unit("cpu", runtimes=[])), decode=decode)
    assert tables.places == (("gpu", "gpu"), ("npu", "gpu"))
    assert dict(tables.excluded) == {
        "cpu": "no runtime for catalogue models (has none)", "npu": "decode: V does not support Only",
    }  # fmt: skip


def test_more_pairs_than_a_problem_takes_are_refused_with_what_to_do():
    many = board(*(unit(f"u{i}") for i in range(9)))
    with pytest.raises(PlacementError, match="9 × 9 pairs of accelerators, at most 64"):
        request(many)
    rules = (Rule(model="*", accelerator="u0"),)
    assert len(request(many, policy=POLICY.model_copy(update={"forbidden": rules}))[1].places) == 64


def test_phases_on_two_memories_that_cannot_hold_the_model_are_left_out_aloud():
    state = State(free_bytes={"ram": 1.25e8, "vram": 1.25e8})
    _, tables = request(TWO, state=state)
    assert tables.problem.allowed.any(axis=0).tolist() == [True, False, False, True]
    assert any("neither of which holds the whole model" in note for note in tables.notes)


def test_one_phase_here_and_the_other_there_where_neither_memory_holds_the_model_is_refused():
    barred = [{"backend": "native", "provider": "V", "unsupported_operators": [name]} for name in ("Pre", "Step")]
    profile = board(unit("gpu", memory_domain="vram", runtimes=[barred[1]]), unit("npu", runtimes=[barred[0]]),
                    domains=("ram", "vram"))  # fmt: skip
    pair = [
        load(*(s.model_copy(update={"operators": (name,)}) for s in w.stages), phase=w.phase, format="catalogue")
        for w, name in ((PREFILL, "Pre"), (DECODE, "Step"))
    ]
    state = State(free_bytes={"ram": 1.25e8, "vram": 1.25e8})
    assert request(profile, prefill=pair[0], decode=pair[1])[1].places == (("gpu", "npu"),)
    with pytest.raises(PlacementError, match=r"memory ram and vram bind; memory\.max_cpq 0\.9056 in the policy"):
        request(profile, state=state, prefill=pair[0], decode=pair[1])


# ------------------------------------------------------------------------------------------- alignment


@pytest.mark.parametrize("name", ["llama-3.2-1b", "gpt2-125m", "gpt-oss-20b", "rwkv7-1.5b"])
def test_both_phases_of_a_decoder_are_cut_at_the_same_places_and_lose_nothing(name):
    entry = resolve_name(name)
    whole = [entry.workload(phase=p, max_stages=512) for p in ("prefill", "decode")]
    cut = aligned(*whole)
    assert [s.name for s in cut[0].stages][1:] == [s.name for s in cut[1].stages][1:]
    assert 12 <= len(cut[0].stages) <= 24
    for before, after in zip(whole, cut, strict=True):
        for amount in ("flops", "weight_bytes", "idle_weight_bytes", "activation_bytes", "kv_bytes", "nodes"):
            totals = [sum(getattr(s, amount) for s in w.stages) for w in (before, after)]
            assert totals[0] == pytest.approx(totals[1])
        assert after.stages[-1].output_bytes == before.stages[-1].output_bytes


def test_phases_of_different_layers_cannot_be_one_request():
    with pytest.raises(PlacementError, match="different layers; plan them one by one"):
        aligned(PREFILL, load(*(stage(f"other{i}") for i in range(3)), phase="decode"))


def test_merged_stages_keep_the_largest_arena_and_add_work_of_a_kind():
    merged = merge_stages([stage("a", arena_bytes=5.0), stage("b", arena_bytes=9.0, precision="int8"), stage("c")])
    assert (merged.name, merged.arena_bytes, merged.weight_bytes) == ("a", 9.0, 3e6)
    assert [(w.precision, w.flops) for w in merged.work] == [("fp32", 2e8), ("int8", 1e8)]


def test_a_pair_on_one_accelerator_has_its_name():
    assert (pair_name("gpu", "gpu"), pair_name("gpu", "npu")) == ("gpu", "gpu>npu")
