"""What only a process lane can promise: crashes, hangs and parents that vanish cost one lane."""

from __future__ import annotations

import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from agent.backends import segments, transfer
from agent.backends.lane import WINDOW, ProcessLane
from agent.backends.thread_lane import ThreadLane
from agent.errors import DeadlineExceeded, LaneDied, ModelLoadFailed
from agent.ports import LaneSpec, LoadSpec
from agent.schema.device import Runtime
from agent.service.clock import SystemClock
from tests.backends.conftest import FACE, MAGIKA, NSFW, ORT, PATIENCE_S, QUICK, Models, Rig, ended, ramp, until


def test_kill_9_with_50_calls_in_flight_fails_every_one_with_the_signals_name(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane(simulated=True)
    process_rig.load(lane, models.add_one)
    lane.inject("hang")
    pending = [process_rig.submit(lane, {"x": ramp()}) for _ in range(50)]

    os.kill(lane.pid(), signal.SIGKILL)

    for future in pending:
        with pytest.raises(LaneDied, match="npu: its process was ended by SIGKILL"):
            future.result(PATIENCE_S)
    assert until(lambda: process_rig.deaths == ["npu: its process was ended by SIGKILL"])
    assert not lane.alive()
    assert lane.pid() is None


def test_a_segmentation_fault_costs_the_lane_only(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane(simulated=True)
    process_rig.load(lane, models.add_one, simulation=QUICK)
    lane.inject("crash")

    with pytest.raises(LaneDied, match="SIGSEGV"):
        process_rig.run(lane, {"x": ramp()})


def test_a_crash_dumps_no_memory_which_would_delay_the_end_of_the_channel(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)

    assert int(Path(f"/proc/{lane.pid()}/coredump_filter").read_text(), 16) == 0x10


def test_a_stopped_process_costs_the_deadline_and_keeps_its_slots(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)
    os.kill(lane.pid(), signal.SIGSTOP)

    late = [process_rig.submit(lane, {"x": ramp()}, within_s=0.2) for _ in range(30)]

    for future in late:
        with pytest.raises(DeadlineExceeded):
            future.result(PATIENCE_S)
    # Those that the process may still write for are held; those that never left are forgotten.
    assert until(lambda: lane.queue_length() == WINDOW)
    os.kill(lane.pid(), signal.SIGCONT)
    np.testing.assert_array_equal(process_rig.run(lane, {"x": ramp()}).outputs["y"], ramp() + 1)
    assert until(lambda: lane.queue_length() == 0)


def test_the_cause_of_a_death_quotes_the_last_line_printed(process_rig: Rig, tmp_path: Path) -> None:
    library = tmp_path / "libcrash.so"
    source = tmp_path / "crash.c"
    source.write_text(
        "#include <stdio.h>\n#include <stdlib.h>\n"
        "void* tflite_plugin_create_delegate(char** k, char** v, size_t n, void* e)"
        '{ fprintf(stderr, "\\033[1;31mvendor driver:\\tbad state 7\\033[m\\r\\n\\033[0m\\n"); abort(); }\n'
        "void tflite_plugin_destroy_delegate(void* d) {}\n"
    )
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    lane = process_rig.lane()
    with pytest.raises(LaneDied, match="SIGABRT; last words: vendor driver: bad state 7"):
        process_rig.load(lane, FACE, runtime=Runtime(backend="litert", provider="external", plugin=str(library)))


def test_restarts_leak_neither_descriptors_nor_shared_memory(process_rig: Rig, models: Models) -> None:
    def used() -> tuple[int, int, int]:
        gc.collect()
        maps = Path("/proc/self/maps").read_text(encoding="ascii")
        children = [c for c in psutil.Process().children() if c.status() != psutil.STATUS_ZOMBIE]
        return len(list(Path("/proc/self/fd").iterdir())), maps.count("memfd:"), len(children)

    def once() -> None:
        lane = process_rig.lane()
        process_rig.load(lane, models.add_one)
        process_rig.run(lane, {"x": ramp()})
        os.kill(lane.pid(), signal.SIGKILL)
        assert until(lambda: not lane.alive())
        process_rig.lanes.clear()

    once()
    assert until(lambda: used()[2] == 0)
    before = used()

    for _ in range(8):
        once()

    assert until(lambda: used() <= before), (before, used())


def test_the_process_ends_with_its_parent_even_in_the_middle_of_a_call(models: Models) -> None:
    program = f"""
import os, sys, signal
from pathlib import Path
from agent.backends.lane import ProcessLane
from agent.ports import LaneSpec, LoadSpec
from agent.schema.device import Runtime
from agent.service.clock import SystemClock
import numpy as np
clock = SystemClock()
lane = ProcessLane(LaneSpec("npu", 1, simulated=True), clock)
lane.start(print)
runtime = Runtime(backend="onnx", provider="CPUExecutionProvider")
lane.load(LoadSpec("m", Path({str(models.add_one)!r}), "onnx", runtime, 1), 60).result()
lane.renew_permit(clock.monotonic_s() + 60)
lane.inject("hang")
lane.submit("m", {{"x": np.zeros((1, 2048), np.float32)}}, None, clock.monotonic_s() + 60)
while lane.vitals().busy_since_s is None:
    pass
print(lane.pid(), flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=False, timeout=PATIENCE_S)
    pid = int(done.stdout)

    assert done.returncode == -signal.SIGKILL
    assert until(lambda: ended(pid))


def test_a_lane_started_by_a_thread_outlives_that_thread(process_rig: Rig, models: Models) -> None:
    lanes: list[Any] = []
    starter = threading.Thread(target=lambda: lanes.append(process_rig.lane()))
    starter.start()
    starter.join()

    process_rig.load(lanes[0], models.add_one)

    np.testing.assert_array_equal(process_rig.run(lanes[0], {"x": ramp()}).outputs["y"], ramp() + 1)


def test_the_parent_imports_no_runtime() -> None:
    program = (
        "import sys, agent.backends.lane, agent.backends.factory, agent.backends.probe;"
        "print([m for m in ('onnxruntime', 'onnx', 'ai_edge_litert', 'tflite_runtime') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True)

    assert done.stdout.strip() == "[]"


def test_the_process_imports_no_schemas(process_rig: Rig) -> None:
    program = "import sys, agent.backends.worker; print('pydantic' in sys.modules, 'agent.ports' in sys.modules)"

    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True)

    assert done.stdout.strip() == "False False"


def test_a_process_without_a_model_imports_nothing_that_only_models_need_and_can_be_given_one(
    process_rig: Rig, models: Models
) -> None:
    program = "import sys, agent.backends.waiting; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True, text=True)
    assert done.stdout.strip() == "False"

    lane = process_rig.lane()
    assert until(lambda: lane.vitals() is not None)
    idle_bytes = lane.vitals().rss_bytes
    process_rig.load(lane, models.add_one)

    np.testing.assert_array_equal(process_rig.run(lane, {"x": ramp()}).outputs["y"], ramp() + 1)
    assert until(lambda: lane.vitals().rss_bytes > idle_bytes)


def test_the_process_runs_where_and_as_large_as_the_spec_says(process_rig: Rig, models: Models) -> None:
    core = min(os.sched_getaffinity(0))
    lane = process_rig.lane(cpu_affinity=(core,), memory_limit_bytes=8 * 2**30, nice=3)
    process_rig.load(lane, models.add_one)

    assert os.sched_getaffinity(lane.pid()) == {core}
    assert psutil.Process(lane.pid()).nice() == min(19, os.getpriority(os.PRIO_PROCESS, 0) + 3)
    assert psutil.Process(lane.pid()).rlimit(psutil.RLIMIT_AS) == (8 * 2**30, 8 * 2**30)


def test_a_model_that_exceeds_the_memory_limit_is_refused_and_the_lane_lives(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane(memory_limit_bytes=700 * 2**20)
    process_rig.load(lane, models.add_one, "small")
    limit = psutil.Process(lane.pid()).memory_info().vms + 2**20
    psutil.Process(lane.pid()).rlimit(psutil.RLIMIT_AS, (limit, limit))

    with pytest.raises(ModelLoadFailed, match="big: "):
        process_rig.load(lane, NSFW, "big")
    np.testing.assert_array_equal(process_rig.run(lane, {"x": ramp()}, "small").outputs["y"], ramp() + 1)


def test_inputs_written_in_place_are_not_copied(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.five_megabytes)

    inputs = lane.reserve("m")
    assert inputs is not None
    lease = segments.lease_of(inputs["x"])
    inputs["x"][:] = 41.0
    reply = process_rig.run(lane, inputs)

    np.testing.assert_array_equal(reply.outputs["y"], np.full((1, 1_310_720), 42, np.float32))
    assert segments.lease_of(reply.outputs["y"]) is lease


def test_a_slot_returns_when_nobody_refers_to_it_any_more(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.five_megabytes)
    ring = lane._models.loaded["m"].ring

    kept = [process_rig.run(lane, {"x": np.zeros((1, 1_310_720), np.float32)}).outputs["y"] for _ in range(6)]
    held = ring.slots - len(ring.free)
    kept.clear()

    assert 0 < held <= ring.slots // 2 + 1
    assert until(lambda: len(ring.free) == ring.slots)  # the reader thread lets go of the last reply when it sleeps


def test_no_slot_is_reserved_for_what_cannot_be_written_in_place(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.free, "free")
    process_rig.load(lane, models.strings, "strings")
    process_rig.load(lane, models.add_one, "one")

    assert lane.reserve("free") is None
    assert lane.reserve("free", {"x": (10**6, 10**3)}) is None
    assert lane.reserve("free", {"x": (2, 3)})["x"].shape == (2, 3)
    assert lane.reserve("one", {"x": (7,)}) is None
    assert lane.reserve("strings", {"s": (1,)}) is None
    assert lane.reserve("absent") is None


def test_clients_that_keep_slots_never_stop_the_lane(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)

    reserved = [lane.reserve("m") for _ in range(20)]

    assert reserved[-1] is None
    np.testing.assert_array_equal(process_rig.run(lane, {"x": ramp()}).outputs["y"], ramp() + 1)


def test_more_input_than_may_cross_is_the_requests_error(
    process_rig: Rig, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.free)
    monkeypatch.setattr(transfer, "MAX_SEGMENT_BYTES", 100_000)

    with pytest.raises(Exception, match="bytes of inputs exceed"):
        process_rig.run(lane, {"x": ramp((300, 300))})
    np.testing.assert_array_equal(process_rig.run(lane, {"x": ramp((2, 2))}).outputs["y"], ramp((2, 2)) + 1)


def test_runs_go_on_while_another_model_loads(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.add_one)

    during = []
    for number in range(20):  # a busy machine may give this thread no time before a load is over
        loading = lane.load(LoadSpec(f"late{number}", MAGIKA, "onnx", ORT, 1), PATIENCE_S)
        during.append(0)
        while not loading.done():
            process_rig.run(lane, {"x": ramp()})
            during[-1] += 1
        assert loading.result(PATIENCE_S).actual == ("CPUExecutionProvider",)
        if during[-1] > 1:
            break

    assert during[-1] > 1, during


def test_a_lane_starts_once(process_rig: Rig) -> None:
    lane = process_rig.lane()

    with pytest.raises(LaneDied, match="a lane starts once"):
        lane.start(print)


def test_a_process_that_cannot_be_started_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    lane = ProcessLane(LaneSpec("npu", 1), SystemClock())

    with pytest.raises(LaneDied, match="npu: its process cannot be started: No such file"):
        lane.start(print)
    lane.stop(0.1)


@pytest.mark.parametrize("end", ["stop", "kill", "crash"])
@pytest.mark.parametrize("kind", [ProcessLane, ThreadLane])
def test_a_lane_of_its_own_ends_its_reader_thread(kind: type[ProcessLane | ThreadLane], end: str) -> None:
    def used() -> tuple[int, int]:
        return threading.active_count(), len(list(Path("/proc/self/fd").iterdir()))

    def live_and_die() -> None:
        lane = kind(LaneSpec("npu", 1), SystemClock())
        lane.start(lambda cause: None)
        pid = lane.pid()
        if end == "crash" and pid is not None:
            os.kill(pid, signal.SIGKILL)
        elif end == "stop":
            lane.stop(PATIENCE_S)
        else:
            lane.kill("the end")
        assert until(lambda: not lane.alive())

    before = used()
    live_and_die()

    assert until(lambda: gc.collect() >= 0 and used() <= before)


def test_slots_grow_to_what_clients_send_and_calls_under_way_keep_theirs(process_rig: Rig, models: Models) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.free)
    small = lane._models.loaded["m"].ring
    kept = lane.reserve("m", {"x": (2, 2)})
    assert kept is not None
    kept["x"][:] = 1.0

    for _ in range(transfer.GROWS_AFTER):
        np.testing.assert_array_equal(process_rig.run(lane, {"x": ramp((200, 100))}).outputs["y"], ramp((200, 100)) + 1)
    futures = [process_rig.submit(lane, {"x": ramp((200, 100)) * n}) for n in range(20)]
    for n, future in enumerate(futures):
        np.testing.assert_array_equal(future.result(PATIENCE_S).outputs["y"], ramp((200, 100)) * n + 1)
    ring = lane._models.loaded["m"].ring

    assert min(ring.input_bytes, ring.output_bytes) >= 80_000 > small.input_bytes
    np.testing.assert_array_equal(process_rig.run(lane, kept).outputs["y"], np.full((2, 2), 2, np.float32))


def test_slots_do_not_grow_beyond_their_bound_or_without_memory(
    process_rig: Rig, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    lane = process_rig.lane()
    process_rig.load(lane, models.free)
    small = lane._models.loaded["m"].ring
    create = segments.create

    def full(name: str, nbytes: int) -> object:
        if name == "tensors":
            raise OSError(12, "no memory")
        return create(name, nbytes)

    for bound in (1_000_000, 64_000_000):
        monkeypatch.setattr(transfer, "MAX_GROWN_BYTES", bound)
        monkeypatch.setattr(segments, "create", full if bound == 64_000_000 else create)
        for _ in range(transfer.GROWS_AFTER + 1):
            big = ramp((200, 100))
            np.testing.assert_array_equal(process_rig.run(lane, {"x": big}).outputs["y"], big + 1)
        assert lane._models.loaded["m"].ring is small
