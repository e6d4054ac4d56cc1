"""Servers of the serving benchmark: the agent and its peers, each started as its manual says, with the same threads.

Peers live in environments of their own under `.venv-peers/`, made on first use; one that does not install is left out
with the reason.
"""

from __future__ import annotations

import compileall
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
from serving_client import base64_request, binary_request, json_request, wait_until_answered

ROOT = Path(__file__).resolve().parent.parent
PEERS = ROOT / ".venv-peers"

SETTLE_S, RESTING = 20.0, 0.1

MLSERVER_MODEL = """
import os
import numpy as np
import onnxruntime as ort
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceResponse

class OnnxModel(MLModel):
    async def load(self):
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(self.settings.parameters.uri, options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._output = self._session.get_outputs()[0].name
        return True

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        (y,) = self._session.run([self._output], {self._input: x})
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output(self._output, y)])
"""

LITSERVE_SERVER = """
import base64, os, sys
import numpy as np
import onnxruntime as ort
import litserve as ls

class Api(ls.LitAPI):
    def setup(self, device):
        options = ort.SessionOptions()
        options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
        options.inter_op_num_threads = 1
        self._session = ort.InferenceSession(sys.argv[1], options, ["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0]
        self._kind = np.int32 if "int32" in self._input.type else np.float32

    def decode_request(self, request):
        return np.frombuffer(base64.b64decode(request["data"]), self._kind).reshape(request["shape"])

    def predict(self, x):
        return self._session.run(None, {self._input.name: x})[0]

    def encode_response(self, output):
        return {"data": base64.b64encode(np.ascontiguousarray(output)).decode(), "shape": list(output.shape)}

if __name__ == "__main__":
    ls.LitServer(Api(), accelerator="cpu", workers_per_device=1).run(port=int(sys.argv[2]), log_level="error")
"""
PYTRITON_SERVER = """
import json, os, sys
import numpy as np
import onnxruntime as ort
from pytriton.decorators import batch
from pytriton.model_config import ModelConfig, Tensor
from pytriton.triton import Triton, TritonConfig

KINDS = {"tensor(float)": np.float32, "tensor(int32)": np.int32}

def bind(triton, name, path):
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(os.environ["BENCH_THREADS"])
    options.inter_op_num_threads = 1
    session = ort.InferenceSession(path, options, ["CPUExecutionProvider"])
    given, made = session.get_inputs()[0], session.get_outputs()[0]

    @batch
    def infer(**inputs):
        return {made.name: session.run(None, inputs)[0]}

    # Triton's own names: batch first, every further dimension free
    tensors = [[Tensor(name=t.name, dtype=KINDS[t.type], shape=(-1,) * (len(t.shape) - 1))] for t in (given, made)]
    triton.bind(model_name=name, infer_func=infer, inputs=tensors[0], outputs=tensors[1],
                config=ModelConfig(max_batch_size=1))  # nobody here batches

http, grpc, metrics = (int(port) for port in sys.argv[1:4])
config = TritonConfig(http_address="127.0.0.1", http_port=http, grpc_port=grpc, metrics_port=metrics)
with Triton(config=config) as triton:
    for name, path in json.loads(sys.argv[4]):
        bind(triton, name, path)
    triton.serve()
"""


@dataclass(frozen=True)
class Model:
    """One model of the benchmark and an input for it."""

    name: str
    path: Path
    input_name: str
    datatype: str
    x: np.ndarray


@dataclass
class Running:
    """A started server: where each model answers, how long that took, and its processes."""

    name: str
    requests: dict[str, tuple[int, bytes]]
    ready_s: float
    processes: list[subprocess.Popen[bytes]]
    grpc_port: int | None = None

    def pss_mb(self) -> float:
        """Proportional set size of the whole process tree."""
        return sum(one.memory_full_info().pss for one in self._tree()) / 2**20

    def settle(self) -> None:
        """Wait until the whole tree computes less than a tenth of a core for a second, or SETTLE_S have gone by."""
        until_s = time.perf_counter() + SETTLE_S
        before_s = self._cpu_s()
        while time.perf_counter() < until_s:
            time.sleep(1.0)
            now_s = self._cpu_s()
            if now_s - before_s < RESTING:
                return
            before_s = now_s

    def _cpu_s(self) -> float:
        spent_s = 0.0
        for one in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):  # its work is done
                spent_s += sum(one.cpu_times()[:2])
        return spent_s

    def _tree(self) -> list[psutil.Process]:
        roots = [psutil.Process(process.pid) for process in self.processes]
        return [one for root in roots for one in [root, *root.children(recursive=True)]]

    def stop(self) -> None:
        """End the whole process group, politely first."""
        for process in self.processes:
            _signal(process, signal.SIGTERM)
        for process in self.processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            _signal(process, signal.SIGKILL)


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _start(command: list[str], folder: Path, threads: int, log: str) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        "BENCH_THREADS": str(threads),
        "PYTHONPATH": str(folder),
        "OMP_NUM_THREADS": str(threads),
    }
    output = (folder / log).open("wb")
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True)


def _ready(name: str, models: list[Model], ports: dict[str, int], make: Callable[[Model], bytes],
           processes: list[subprocess.Popen[bytes]], since_s: float) -> Running:  # fmt: skip
    requests = {m.name: (ports[m.name], make(m)) for m in models}
    running = Running(name, requests, 0.0, processes)
    try:
        running.ready_s = max(wait_until_answered(port, request, since_s) for port, request in requests.values())
    except TimeoutError:
        running.stop()
        raise
    return running


def start_agent(models: list[Model], folder: Path) -> Running:
    """`qeil run` with its defaults: threads on all cores, the models pinned to the CPU provider as the peers' are."""
    folder.mkdir(parents=True, exist_ok=True)
    policy = (ROOT / "policies/balanced.yaml").read_text()
    assert "pinned: []" in policy
    policy = policy.replace("pinned: []", 'pinned: [{model: "*", accelerator: cpu}]')
    (folder / "policy.yaml").write_text(policy)
    port = free_port()
    settings = {
        "version": 1, "state_dir": str(folder / "state"), "policy": str(folder / "policy.yaml"), "log_level": "warning",
        "http": {"port": port},
        "models": [{"name": m.name, "path": str(m.path), "version": "1"} for m in models],
    }  # fmt: skip
    (folder / "agent.yaml").write_text(json.dumps(settings))
    compileall.compile_dir(ROOT / "agent", quiet=2)  # as pip does where it installs, and did with the peers
    since_s = time.perf_counter()
    command = [sys.executable, "-m", "agent.cli.main", "run", "--config", str(folder / "agent.yaml")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=(folder / "log").open("wb"), stderr=subprocess.STDOUT, start_new_session=True
    )
    make = lambda m: binary_request(f"/v2/models/{m.name}/infer", m.input_name, m.x, m.datatype)  # noqa: E731
    return _ready("qeil", models, dict.fromkeys((m.name for m in models), port), make, [process], since_s)


def peer_python(name: str, packages: list[str], base: str = sys.executable) -> Path:
    """Interpreter of a peer's own environment, made on first use; CalledProcessError where it does not install."""
    home = PEERS / name
    python = home / "bin/python"
    if not (home / "ready").exists():
        print(f"installing {name}: {' '.join(packages)}", file=sys.stderr)
        subprocess.run([base, "-m", "venv", str(home)], check=True)
        pip = [str(python), "-m", "pip", "--quiet", "--disable-pip-version-check", "install"]
        subprocess.run([*pip, *packages], check=True, stderr=subprocess.DEVNULL)
        (home / "ready").touch()
    return python


def start_mlserver(models: list[Model], folder: Path, threads: int, workers: int) -> Running:
    """MLServer with a runtime of five lines around the same session; JSON, as its REST end takes no raw tensors."""
    python = peer_python("mlserver", ["mlserver==1.7.1", "uvloop<0.22", "onnxruntime", "tritonclient[grpc]"])
    folder.mkdir(parents=True, exist_ok=True)
    port, grpc = free_port(), free_port()
    settings = {"http_port": port, "grpc_port": grpc, "metrics_port": free_port(), "parallel_workers": workers}
    (folder / "settings.json").write_text(json.dumps(settings))
    (folder / "onnx_model.py").write_text(MLSERVER_MODEL)
    for model in models:
        home = folder / model.name
        home.mkdir(exist_ok=True)
        described = {
            "name": model.name,
            "implementation": "onnx_model.OnnxModel",
            "parameters": {"uri": str(model.path)},
        }
        (home / "model-settings.json").write_text(json.dumps(described))
    since_s = time.perf_counter()
    process = _start([str(python.parent / "mlserver"), "start", str(folder)], folder, threads, "log")
    make = lambda m: json_request(f"/v2/models/{m.name}/infer", m.input_name, m.x, m.datatype)  # noqa: E731
    name = "MLServer, in process" if workers == 0 else "MLServer, default"
    running = _ready(name, models, dict.fromkeys((m.name for m in models), port), make, [process], since_s)
    running.grpc_port = grpc
    return running


def start_litserve(models: list[Model], folder: Path, threads: int) -> Running:
    """LitServe, one server per model, tensors as base64 in JSON."""
    python = peer_python("litserve", ["litserve==0.2.19", "onnxruntime", "numpy"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.py").write_text(LITSERVE_SERVER)
    since_s = time.perf_counter()
    ports = {m.name: free_port() for m in models}
    processes = [
        _start([str(python), "server.py", str(m.path), str(ports[m.name])], folder, threads, f"{m.name}.log")
        for m in models
    ]
    return _ready("LitServe", models, ports, lambda m: base64_request("/predict", m.x), processes, since_s)


def start_pytriton(models: list[Model], folder: Path, threads: int) -> Running:
    """NVIDIA's Triton with its Python backend, tensors as raw bytes as the agent takes them.

    Its processes embed an early libpython of each version, which the standard library of a later one does not fit; so
    the interpreter is the distribution's, where there is one.
    """
    base = shutil.which("python3", path="/usr/bin") or sys.executable
    python = peer_python("pytriton", ["nvidia-pytriton==0.7.0", "onnxruntime", "numpy"], base)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "server.py").write_text(PYTRITON_SERVER)
    ports = [free_port() for _ in range(3)]
    since_s = time.perf_counter()
    served = json.dumps([(m.name, str(m.path)) for m in models])
    process = _start([str(python), "server.py", *map(str, ports), served], folder, threads, "log")
    make = lambda m: binary_request(f"/v2/models/{m.name}/infer", m.input_name, m.x, m.datatype)  # noqa: E731
    return _ready("PyTriton", models, dict.fromkeys((m.name for m in models), ports[0]), make, [process], since_s)


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for configurations, logs and state."""
    return tempfile.TemporaryDirectory(prefix="qeil-serving-")
