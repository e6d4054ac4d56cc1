"""Board: the device profile in use, with calibration applied and simulated accelerators added."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field

from agent.errors import ConfigError
from agent.ports import LaneSpec
from agent.records import record
from agent.runtimes import registry
from agent.runtimes.shipped import ONNX, SHIPPED
from agent.schema.device import Accelerator, DeviceProfile, MemoryDomain, Runtime
from agent.schema.settings import LaneSettings, SimulatedAccelerator

MAX_QUEUE = 4096
"""Calls that a lane accepts before it refuses more."""


def host_runtime(format_: str) -> Runtime:
    """What computes the numbers of a simulated accelerator, for model files of that format."""
    backend = registry.of_format(format_) or ONNX
    return Runtime(backend=backend.name, provider=backend.host_provider)


@record(frozen=True)
class Board:
    """See module."""

    profile: DeviceProfile
    simulated: frozenset[str]
    cores: int
    lanes: Mapping[str, LaneSettings] = field(default_factory=dict)

    def threads(self, accelerator: Accelerator) -> int:
        """Threads of an accelerator's lane."""
        if accelerator.name in self.simulated or accelerator.kind != "cpu":
            return 1
        own = self.lanes[accelerator.name].cores if accelerator.name in self.lanes else None
        threads = accelerator.threads or max(1, self.cores)
        return threads if own is None else min(threads, len(own))

    def lane(self, accelerator: Accelerator) -> LaneSpec:
        """How its lane's process is made."""
        own = self.lanes.get(accelerator.name, LaneSettings())
        return LaneSpec(
            accelerator.name, self.threads(accelerator), own.cores, MAX_QUEUE, accelerator.name in self.simulated,
            own.memory_limit_bytes, own.nice,
        )  # fmt: skip


def make_board(
    profile: DeviceProfile,
    simulated: Sequence[SimulatedAccelerator],
    find_profile: Callable[[str], DeviceProfile],
    cores: int | None = None,
    lanes: Mapping[str, LaneSettings] | None = None,
) -> Board:
    """Add the simulated accelerators to the profile under names of their own.

    Each brings its board's memory domain along as `NAME-memory`, so that it neither fills nor slows this machine's.
    Raises ConfigError for an unknown board or accelerator, a name that is taken, or lanes on cores that are not here.
    """
    accelerators: list[Accelerator] = list(profile.accelerators)
    domains: list[MemoryDomain] = list(profile.memory_domains)
    for index, entry in enumerate(simulated):
        key = f"simulated_accelerators.{index}"
        board, _, unit = entry.like.partition("/")
        source = find_profile(board)
        names = [a.name for a in source.accelerators]
        if unit not in names:
            raise ConfigError(f"{key}.like: {board} has no accelerator {unit!r} (it has {', '.join(names)})")
        if any(a.name == entry.name for a in accelerators):
            raise ConfigError(f"{key}.name: {entry.name!r} is already an accelerator of {profile.name}")
        like = source.accelerator(unit)
        domain = source.memory_domain(like.memory_domain).model_copy(update={"name": f"{entry.name}-memory"})
        domains.append(domain)
        update = {
            "name": entry.name, "memory_domain": domain.name, "thermal_node": None, "silicon": None,
            "runtimes": like.runtimes or tuple(host_runtime(backend.format) for backend in SHIPPED),
        }  # fmt: skip
        accelerators.append(like.model_copy(update=update))
    changed = profile.model_copy(update={"accelerators": tuple(accelerators), "memory_domains": tuple(domains)})
    _check_lanes(lanes or {}, changed)
    cores = cores or len(os.sched_getaffinity(0))
    return Board(changed, frozenset(s.name for s in simulated), cores, lanes or {})


def _check_lanes(lanes: Mapping[str, LaneSettings], profile: DeviceProfile) -> None:
    names = [a.name for a in profile.accelerators]
    here = os.sched_getaffinity(0)
    for name, lane in lanes.items():
        if name not in names:
            raise ConfigError(f"lanes.{name}: {profile.name} has no such accelerator (it has {', '.join(names)})")
        if missing := sorted(set(lane.cores or ()) - here):
            listed = ", ".join(map(str, sorted(here)))
            raise ConfigError(f"lanes.{name}.cores: the agent may not use core {missing[0]} (it may use {listed})")
