"""A whole agent without processes: fake lanes, a fake clock, the real supervisor and dispatcher."""

from __future__ import annotations

import numpy as np

from agent.ports import InferenceRequest, LaneSpec
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.snapshot import AgentInfo
from agent.service.mail import SuspectEvent
from agent.service.planning.plan import Candidate, ModelPlan, Plan
from agent.service.serving.dispatcher import Dispatcher
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.routing_table import RoutingTable
from agent.service.serving.serving_state import InForce
from agent.service.supervisor import Supervisor
from tests.fakes import FakeClock, FakeLane, RecordingTelemetry, load_spec

POLICY = Policy.model_validate(
    {
        "version": 1, "name": "test", "description": "for tests",
        "objective": {"method": "weights", "weights": {"energy": 1, "latency": 1, "underutilisation": 0}},
        "thermal": {"soft_c": 70, "hard_c": 85, "hysteresis_c": 5, "min_dwell_s": 0, "stale_after_s": 2,
                    "derate_share": 0.5},
        "no_thermal_sensor": "run", "power_cap_w": None, "memory": {"max_cpq": 0.9},
        "fallback": {"on_fallback": "fail", "min_accelerated_fraction": 0.5},
        "admission": {"max_concurrent_requests": 64, "max_queue_per_lane": 16, "default_deadline_s": 5,
                      "max_deadline_s": 60, "max_body_bytes": 1_000_000, "max_json_body_bytes": 100_000,
                      "reject_non_finite": True},
        "recovery": {"permit_s": 1, "hang_floor_s": 1, "hang_factor": 3, "restart_backoff_s": 0.5,
                     "max_backoff_s": 8, "breaker_failures": 3, "breaker_window_s": 60, "breaker_open_s": 30,
                     "ramp_start_share": 0.5, "ramp_s": 10, "max_replays": 2},
        "standby": "warm", "telemetry": {"sample_s": 1, "window_s": 10},
    }
)  # fmt: skip


def quantity(value: float) -> dict:
    return {"value": value, "provenance": "assumed", "source": "test"}


def profile(*names: str, zones: tuple = ()) -> DeviceProfile:
    unit = {
        "kind": "cpu", "memory_domain": "ram", "runtimes": [{"backend": "onnx", "provider": "CPUExecutionProvider"}],
        "peak_flops_per_s": {"fp32": quantity(1e10)}, "energy_j_per_flop": {"fp32": quantity(1e-11)},
        "base_power_w": quantity(2.0),
    }  # fmt: skip
    return DeviceProfile.model_validate(
        {
            "version": 1, "name": "testboard", "title": "test", "zones": zones,
            "memory_domains": [{"name": "ram", "capacity_bytes": quantity(4e9), "reserved_bytes": quantity(1e9),
                                "bandwidth_bytes_per_s": quantity(1e10), "energy_j_per_byte": quantity(5e-11)}],
            "accelerators": [{"name": n, **unit} for n in names],
        }
    )  # fmt: skip


def plan_of(models: dict[str, list[str]], digest: str = "d1") -> Plan:
    return Plan(
        digest,
        tuple(
            ModelPlan(name, "1", "sha", None, tuple(Candidate(a, load_spec(name), 0.01, 0.05, 2.0) for a in order))
            for name, order in models.items()
        ),
    )


class World:
    """Drive it with `tick`, look at `snapshot`, ask with `infer`."""

    def __init__(
        self,
        models=None,
        accelerators=("gpu0", "cpu"),
        policy=POLICY,
        zones=(),
        prepare=None,
        simulated=(),
        started=True,
    ):
        self.clock = FakeClock()
        self.telemetry = RecordingTelemetry()
        self.lanes: dict[str, list[FakeLane]] = {name: [] for name in accelerators}
        self.prepare = prepare or (lambda lane, generation: None)
        self.committed: list[InForce] = []
        current = InForce(policy, "d1", plan_of(models if models is not None else {"m": ["gpu0", "cpu"]}))
        self.supervisor: Supervisor
        self.keepers = {
            name: LaneKeeper(
                LaneSpec(name, 1, simulated=name in simulated), self._make_lane,
                lambda e: self.supervisor.post(e), "onnx", "P",
            )
            for name in accelerators
        }  # fmt: skip
        self.dispatcher = Dispatcher(
            RoutingTable("starting", policy, "d1"), self.clock, lambda a, c: self.supervisor.post(SuspectEvent(a, c))
        )
        self.supervisor = Supervisor(
            profile(*accelerators, zones=zones), current, self.keepers, self.dispatcher, self.telemetry, self.clock,
            AgentInfo("0", "starting", "", "test", "d1", 1, "b", "p"), self.committed.append,
        )  # fmt: skip
        for keeper in self.keepers.values() if started else ():
            keeper.start(policy.recovery, self.clock.now_s)
        self.tick()

    def _make_lane(self, spec: LaneSpec) -> FakeLane:
        lane = FakeLane(spec, self.clock)
        self.prepare(lane, len(self.lanes[spec.accelerator]))
        self.lanes[spec.accelerator].append(lane)
        return lane

    def lane(self, name: str) -> FakeLane:
        return self.lanes[name][-1]

    def tick(self, seconds: float = 0.1) -> None:
        """Let time pass in ticks of at most a tenth of a second, handling the mail as the thread would."""
        remaining = seconds
        while remaining > 1e-9:
            dt_s = min(0.1, remaining)
            self.clock.advance(dt_s)
            remaining -= dt_s
            self.supervisor._drain_mailbox(0.0)
            self.supervisor.tick(self.clock.now_s)
        self.supervisor._drain_mailbox(0.0)
        self.supervisor.tick(self.clock.now_s)

    def infer(self, model: str = "m", **options):
        x = options.pop("x", np.ones((1, 2), np.float32))
        return self.dispatcher.infer(InferenceRequest(model, {"x": x}, None, "r", **options))

    @property
    def snapshot(self):
        return self.supervisor.snapshot

    def condition(self, kind: str):
        return next((c for c in self.snapshot.conditions if c.type == kind), None)

    def accelerator(self, name: str):
        return next(a for a in self.snapshot.accelerators if a.name == name)
