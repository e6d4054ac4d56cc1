"""A world whose model is split: each stage adds one, so that an answer tells how many it went through."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.errors import PermitExpired
from agent.ports import LaneReply, LoadReport
from agent.schema.workload import TensorSpec
from agent.service.planning.plan import Candidate, ModelPlan, Plan, StageCandidate
from tests.fakes import FakeLane, load_spec
from tests.service.world import POLICY, World

ALL = POLICY.model_copy(update={"standby": "all"})


def split_candidate(accelerators: list[str], key: str = "k", skip: bool = False) -> Candidate:
    """x → t1 → … → y over these accelerators; with `skip` the last stage reads the first one's tensor too."""
    stages = []
    last = len(accelerators)
    for i, name in enumerate(accelerators, 1):
        receives = (f"t{i - 1}",) if i > 1 else ()
        if skip and i == last and last > 2:
            receives = ("t1", *receives)
        stages.append(
            StageCandidate(
                name, replace(load_spec(f"m/{i}of{last}-{key}"), path=Path(f"/{key}-{i}.onnx")), 0.01, 0.02, 1.0,
                given=("x",) if i == 1 else (), receives=receives, sends=(f"t{i}",) if i < last else (),
                answers=("y",) if i == last else (), handover_s=None if i == 1 else 1e-4, crossing_bytes=8.0,
            )
        )  # fmt: skip
    return Candidate(
        "+".join(accelerators), load_spec("m"), 0.01 * last, None, None, tuple(stages), key,
    )  # fmt: skip


def whole_candidate(accelerator: str) -> Candidate:
    return Candidate(accelerator, load_spec("m"), 0.05, 0.05, 2.0)


class StageLane(FakeLane):
    """A lane that knows stage models: it sums what it is given and adds one, under the name that is wanted."""

    def _finish_load(self, spec, future):
        if spec.model == "m" or spec.model in self.refuse:
            super()._finish_load(spec, future)
            return
        self.loaded[spec.model] = spec
        number, count = (int(part) for part in spec.model.split("/")[1].split("-")[0].split("of"))
        inputs = ["x"] if number == 1 else [f"t{number - 1}"]
        outputs = ["y"] if number == count else [f"t{number}"]
        specs = [
            tuple(TensorSpec(name=n, datatype="FP32", shape=(-1, 2)) for n in names) for names in (inputs, outputs)
        ]
        future.set_result(
            LoadReport(spec.model, spec.runtime.provider, (spec.runtime.provider,), 10, 10, *specs, 0.1, 0.01, 1000)
        )

    def submit(self, model, inputs, outputs, deadline_s):
        self.asked = [*getattr(self, "asked", []), (model, outputs)]
        return super().submit(model, {"x": sum(np.asarray(a) for a in inputs.values()), "": outputs}, outputs, 0.0)

    def _run(self, inputs, future):
        wanted = inputs[""] or ("y",)
        self.runs += 1
        if self.clock.now_s > self.permit_until_s:
            future.set_exception(PermitExpired("no permit"))
        elif self.fail_with is not None:
            future.set_exception(self.fail_with)
        else:
            future.set_result(LaneReply(dict.fromkeys(wanted, inputs["x"] + 1), 0.01))


class SplitWorld(World):
    """A world with the candidates given; every placement is loaded."""

    def __init__(self, candidates: list[Candidate], accelerators: tuple[str, ...] = ("a", "b"), **options) -> None:
        self.plan = Plan("d1", (ModelPlan("m", "1", "sha", None, tuple(candidates)),))
        super().__init__(models={}, accelerators=accelerators, policy=options.pop("policy", ALL), **options)
        self.supervisor._state.current = replace(self.supervisor._state.current, plan=self.plan)
        self.supervisor._state.place(self.supervisor._state.current)
        self.tick()

    def _make_lane(self, spec):
        lane = StageLane(spec, self.clock)
        self.prepare(lane, len(self.lanes[spec.accelerator]))
        self.lanes[spec.accelerator].append(lane)
        return lane
