"""A board that is offered bundles: fake traffic, a clock that waiting moves, a real disk, real signatures."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path

import yaml

from agent.mqtt.inbound import Inbound
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings, Settings
from agent.schema.snapshot import AcceleratorStatus, AgentInfo, AgentSnapshot, ModelStatus
from agent.service.remote import bundle_offer
from agent.service.remote.bundle_layer import BundleLayer
from agent.service.remote.bundles import Bundles, Ties
from agent.service.remote.commands import Interrupted
from agent.service.remote.desired_apply import Applied
from agent.service.serving.meter import Meter
from agent.storage.bundle_archive import pack
from agent.storage.bundle_store import BundleStore
from tests.fakes import FakeClock
from tests.mqtt.signed import KEY, signed
from tests.service.world import POLICY

TOPICS = Topics("acme", "b1")


class Waiting:
    """An event whose wait is time that passes on the board."""

    def __init__(self, board) -> None:
        self.board = board
        self.stopped = False

    def wait(self, seconds: float) -> bool:
        self.board.pass_time(seconds)
        return self.stopped

    def is_set(self) -> bool:
        return self.stopped

    def set(self) -> None:
        self.stopped = True


class Parts:
    """What Bundles sees of the agent."""

    def __init__(self, board) -> None:
        mqtt = None if board.deferral is None else MqttSettings(host="h", bundles=board.deferral)
        self.settings = Settings(version=1, state_dir=board.folder / "state", mqtt=mqtt)
        self.clock = board.clock
        self.layer = BundleLayer()
        self.snapshot = lambda: board.snapshot
        self.dispatcher = board
        self.in_force = None


class Board:
    """`joules` and `seconds` are what an inference costs now; a policy in force changes them by `costs`."""

    def __init__(self, folder: Path, requests_per_s: float = 10.0, noise: float = 0.03) -> None:
        self.folder = folder
        self.clock = FakeClock()
        self.rng = random.Random(1)
        self.rate, self.noise = requests_per_s, noise
        self.costs: dict[str, float] = {}
        self.slower: dict[str, float] = {}
        self.failing: set[str] = set()
        self.meters = {"m": Meter()}
        self.refusals: list = []
        self.reports: list[dict] = []
        self.events: list[dict] = []
        self.overruled = self.deferral = None
        self.unfit = lambda _profile: None
        self.after_switch = lambda: None
        self.provenance = "measured"
        self.unplaceable: set[str] = set()
        self.probe_failure = None
        self.crash_in_trial = False
        self.on_time = lambda: None
        lane = AcceleratorStatus("gpu0", "onnx", "P", "ready", True, 50.0, 5.0, 0, None)
        model = ModelStatus("m", "ready", "P", "P", 1.0, "gpu0", 1.0, 1.0, 1.0, "measured")
        info = AgentInfo("1.0.0", "ready", "", "own", "d", 1, "b1", "testboard")
        self.snapshot = AgentSnapshot(info, (lane,), (model,))
        self.boot()

    def boot(self) -> Bundles:
        """As after a start."""
        self.agent = Parts(self)
        ties = Ties(
            lambda payload, record: bundle_offer.judge(
                payload, [KEY.public], TOPICS, "testboard", "1.0.0", record, self.clock.wall_s()
            ),
            self._again, lambda: frozenset({"m"}), lambda: self.overruled, lambda *_: self.probe_failure,
            self.refusals.append, self._report, self.events.append, lambda profile: self.unfit(profile),
        )  # fmt: skip
        self.bundles = Bundles(BundleStore(self.folder / "state"), self.agent, ties)
        self.bundles._stopping = Waiting(self)
        return self.bundles

    def _again(self, run, change) -> Applied:
        change()
        self.after_switch()
        name = self.policy
        return Applied(f"{name} cannot be had") if name in self.unplaceable else Applied(None)

    def _report(self, fields) -> bool:
        self.reports.append(json.loads(json.dumps(fields)))
        return True

    @property
    def policy(self) -> str:
        """Name of what is in force."""
        found = self.agent.layer.policy
        return "own" if found is None else found.name

    def pass_time(self, seconds: float) -> None:
        """Serve for that long."""
        self.clock.advance(max(0.001, seconds))
        self.on_time()
        cost = 1.0 + self.costs.get(self.policy, 0.0)
        slow = 1.0 + self.slower.get(self.policy, 0.0)
        for _ in range(round(self.rate * seconds)):
            if self.policy in self.failing:
                self.meters["m"].failed()
            else:
                jitter = 1.0 + self.rng.gauss(0, self.noise)
                self.meters["m"].answered("gpu0", 0.01 * slow * jitter, 0.01, 0.5 * cost * jitter, self.provenance, 0)

    def change(self, **fields) -> None:
        """Another look of the model in the snapshot."""
        self.snapshot = replace(self.snapshot, models=(replace(self.snapshot.models[0], **fields),))

    def serves(self, name: str, state: str = "ready", reason: str | None = None) -> None:
        """Another model in the snapshot."""
        first = self.snapshot.models[0]
        self.snapshot = replace(self.snapshot, models=(first, replace(first, name=name, state=state, reason=reason)))

    # ------------------------------------------------------------------ the fleet's side

    def archive(self, name: str, files: dict[str, bytes] | None = None) -> Path:
        """A bundle with a policy of that name, or with these files."""
        source = self.folder / "source"
        source.mkdir(exist_ok=True)
        policy = POLICY.model_copy(update={"name": name}).model_dump(mode="json")
        made = files or {f"policies/{name}.yaml": yaml.safe_dump(policy).encode()}
        paths = {}
        for inside, content in made.items():
            paths[inside] = source / inside.replace("/", "_")
            paths[inside].write_bytes(content)
        target = self.folder / f"{name}.tar"
        pack(paths, target)
        return target

    def document(self, ver: int, name: str = "other", files=None, **fields) -> dict:
        """An unsigned offer of it."""
        path = self.archive(name, files)
        content = path.read_bytes()
        now_s = self.clock.wall_s()
        return {
            "v": 1, "kind": "bundle", "tenant": "acme", "name": name, "ver": ver, "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(), "iat": now_s, "exp": now_s + 36000, "policy": name,
            "url": f"file://{path}", "trial": {"windows": 32}, **fields,
        }  # fmt: skip

    def offer(self, ver: int, name: str = "other", files=None, key=KEY, **fields) -> None:
        """Offer it and let the board work until it is settled."""
        self.send(self.sealed(self.document(ver, name, files, **fields), key))

    def sealed(self, document: dict, key=KEY) -> bytes:
        """Signed, as it goes over the line."""
        return signed(json.dumps(document), key)

    def send(self, payload: bytes) -> None:
        self.bundles.on_request(Inbound(TOPICS.bundle, payload, None, None, lambda: None))
        self.bundles.round()

    def crash_at(self, phase: str) -> None:
        """A power cut as soon as that phase is reported."""

        def cut() -> None:
            if self.bundles._progress.get("phase") == phase:
                raise KeyboardInterrupt

        self.on_time = cut

    @property
    def status(self) -> str:
        return self.bundles.record.phase


__all__ = ["TOPICS", "Board", "Interrupted"]
