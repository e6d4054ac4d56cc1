"""Load times are kept over starts, and a load that takes long is told of in status, in steps, until it ends."""

from __future__ import annotations

from pathlib import Path

from agent.ports import LoadSpec
from agent.schema.device import Runtime
from agent.service.mail import ConditionEvent
from agent.service.serving.canaries import CAUSE, Canaries
from agent.service.serving.lane_watch import LONG_LOAD_S, LaneWatch
from agent.service.serving.load_times import MOST_REMEMBERED, LoadTimes
from tests.service.world import World


class Hands:
    """A clock that is set by hand."""

    now_s = 100.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


def load(path: Path, engines: Path | None = None) -> LoadSpec:
    runtime = Runtime(backend="onnx", provider="OpenVINOExecutionProvider")
    return LoadSpec("m", path, "onnx", runtime, 1, engines=engines)


def timed(times: LoadTimes, clock: Hands, spec: LoadSpec, seconds: float) -> None:
    loading = times.begin("npu", spec)
    clock.now_s += seconds
    times.end(loading)


def test_the_next_start_expects_what_this_one_took(tmp_path):
    (tmp_path / "m.onnx").write_bytes(bytes(1000))
    clock = Hands()
    times = LoadTimes(tmp_path, clock)
    assert times.begin("npu", load(tmp_path / "m.onnx")).told.expected_s is None
    timed(times, clock, load(tmp_path / "m.onnx"), 42.0)
    times.save()

    again = LoadTimes(tmp_path, clock).begin("npu", load(tmp_path / "m.onnx"))
    assert (again.told.expected_s, again.told.provenance) == (42.0, "measured")
    (tmp_path / "m.onnx").write_bytes(bytes(2000))
    other = LoadTimes(tmp_path, clock).begin("npu", load(tmp_path / "m.onnx"))
    assert (other.told.expected_s, other.told.provenance) == (84.0, "modelled")


def test_a_load_from_what_was_kept_is_timed_by_itself(tmp_path):
    (tmp_path / "m.onnx").write_bytes(bytes(1000))
    engines = tmp_path / "engines"
    clock = Hands()
    times = LoadTimes(tmp_path, clock)
    timed(times, clock, load(tmp_path / "m.onnx", engines), 42.0)
    engines.mkdir()
    (engines / "1.blob").touch()
    timed(times, clock, load(tmp_path / "m.onnx", engines), 2.0)
    assert times.begin("npu", load(tmp_path / "m.onnx", engines)).told.expected_s == 2.0


def test_damage_and_an_unwritable_folder_cost_the_expectation_alone(tmp_path):
    (tmp_path / "load_times.json").write_text('{"loads": [{"unit": 1}]}')
    clock = Hands()
    times = LoadTimes(tmp_path, clock)
    timed(times, clock, load(tmp_path / "none.onnx"), 1.0)
    assert times.begin("npu", load(tmp_path / "none.onnx")).told.expected_s == 1.0
    nowhere = LoadTimes(tmp_path / "load_times.json", clock)
    timed(nowhere, clock, load(tmp_path / "none.onnx"), 1.0)
    nowhere.save()


def test_what_is_remembered_is_bounded(tmp_path):
    clock = Hands()
    times = LoadTimes(tmp_path, clock)
    for number in range(MOST_REMEMBERED + 1):
        timed(times, clock, load(tmp_path / f"{number}.onnx"), 1.0)
    assert times.begin("npu", load(tmp_path / "0.onnx")).told.expected_s is None
    assert times.begin("npu", load(tmp_path / "1.onnx")).told.expected_s == 1.0


class Watched(World):
    """A world whose lane watch tells conditions, and in which a lane's loads take as long as the test says."""

    def __init__(self, folder: Path):
        super().__init__(models={"m": ["gpu0"]}, accelerators=("gpu0",), started=False)
        self.told: dict[str, str | None] = {}
        keeper = self.keepers["gpu0"]
        keeper.times = LoadTimes(folder, self.clock)
        keeper.engines = folder / "engines"
        recovery = self.supervisor.in_force.policy.recovery
        watch = LaneWatch(Canaries(self.clock), self.keepers, self.dispatcher, lambda *_: None, self._tell)
        self.supervisor.after_tick = lambda now_s: watch.look(recovery, now_s)
        self.prepare = lambda lane, _: setattr(lane, "hold_loads", True)
        keeper.start(recovery, self.clock.now_s)

    def _tell(self, kind, cause, consequence, mend):
        self.told[kind] = cause
        self.supervisor.post(ConditionEvent(kind, cause, consequence, mend))

    def placement(self):
        return self.snapshot.models[0].candidates[0]


def test_a_load_that_takes_long_is_told_of_until_it_ends_and_the_next_one_has_an_end_in_sight(tmp_path):
    world = Watched(tmp_path)
    world.tick(LONG_LOAD_S - 1.0)
    assert world.told == {}
    assert 0 < world.placement().loading_s < LONG_LOAD_S
    assert world.placement().expected_load_s is None

    world.tick(2.0)
    assert "not known before" in world.condition("loading:m@gpu0").cause
    world.tick(LONG_LOAD_S)
    assert "for 10 s" in world.told["loading:m@gpu0"]
    assert world.lane("gpu0").pending_loads[0][0].engines == tmp_path / "engines"
    world.lane("gpu0").release_loads()
    world.tick(0.5)
    assert world.condition("loading:m@gpu0") is None
    assert world.placement().loading_s is None

    world.lane("gpu0").kill("to begin again")
    world.tick(LONG_LOAD_S + 3.0)
    assert "as measured last time" in world.condition("loading:m@gpu0").cause
    assert world.placement().expected_load_provenance == "measured"


def test_an_accelerator_without_a_process_is_not_said_to_load(tmp_path):
    world = Watched(tmp_path)
    keeper = world.keepers["gpu0"]
    for _ in range(100):
        if keeper.health.phase == "open":
            break
        if keeper.lane.alive():
            keeper.lane.kill(f"{CAUSE}: m is off")
        world.tick(0.2)
    assert keeper.health.phase == "open"
    world.told.clear()
    for _ in range(3):
        world.tick(LONG_LOAD_S)
        if keeper.health.phase == "open":
            assert not any(world.told.values())
