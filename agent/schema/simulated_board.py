"""Simulated board: what a board in a simulation really is – its heat paths, fan, firmware and accelerators.

It is the truth that control code is tried against, and the control code never sees it. Every number in it is a model's.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agent.schema.base import FileModel, Name
from agent.schema.references import known, unique


class SimulatedNode(FileModel):
    """One lump of heat."""

    name: Name
    heat_capacity_j_per_k: float = Field(gt=0)
    to_ambient_w_per_k: float = Field(default=0.0, ge=0)
    fan_w_per_k: float = Field(default=0.0, ge=0, description="what a full fan adds to it")
    idle_power_w: float = Field(default=0.0, ge=0, description="heats it whatever runs")
    leakage_w: float = Field(default=0.0, ge=0, description="at 25 °C, on top of it")
    leakage_doubling_c: float = Field(default=40.0, gt=5, le=200, description="°C that double the leakage")


class SimulatedLink(FileModel):
    """Heat path between two lumps."""

    between: tuple[Name, Name]
    w_per_k: float = Field(gt=0)


class SimulatedFan(FileModel):
    """Fan of the firmware: off below on_c, full at full_c."""

    zone: Name
    on_c: float = Field(gt=0, lt=150)
    full_c: float = Field(gt=0, lt=150)
    reported: bool = Field(default=True, description="the agent can read its duty")

    @model_validator(mode="after")
    def _ordered(self) -> SimulatedFan:
        if self.on_c >= self.full_c:
            raise ValueError(f"on_c ({self.on_c:g}) must be below full_c ({self.full_c:g})")
        return self


class SimulatedZone(FileModel):
    """A sensor and the firmware's trips."""

    name: Name
    node: Name
    critical: bool = True
    trip_c: float = Field(gt=0, lt=150, description="the firmware halves the clocks from here")
    shutdown_c: float = Field(gt=0, lt=200, description="the firmware turns the board off here")


class SimulatedPoint(FileModel):
    """A lower operating point of an accelerator, as shares of its fastest."""

    name: Name
    speed_share: float = Field(gt=0, le=1)
    power_share: float = Field(gt=0, le=1)


class SimulatedAccelerator(FileModel):
    """An accelerator, in the order in which requests prefer it."""

    name: Name
    node: Name
    requests_per_s: float = Field(gt=0, description="at full speed")
    power_w: float = Field(gt=0, description="while busy at full speed, above idle")
    points: tuple[SimulatedPoint, ...] = ()


class SimulatedBoard(FileModel):
    """A board."""

    version: Literal[1]
    name: Name
    title: str
    source: str = Field(min_length=1, description="where its numbers come from")
    nodes: tuple[SimulatedNode, ...] = Field(min_length=1, max_length=16)
    links: tuple[SimulatedLink, ...] = ()
    fan: SimulatedFan | None = None
    zones: tuple[SimulatedZone, ...] = Field(min_length=1, max_length=16)
    accelerators: tuple[SimulatedAccelerator, ...] = Field(min_length=1, max_length=8)

    @model_validator(mode="after")
    def _references_resolve(self) -> SimulatedBoard:
        nodes = unique("nodes", [n.name for n in self.nodes])
        zones = unique("zones", [z.name for z in self.zones])
        unique("accelerators", [a.name for a in self.accelerators])
        for index, link in enumerate(self.links):
            for end in link.between:
                known(f"links.{index}.between", end, nodes)
        for index, zone in enumerate(self.zones):
            known(f"zones.{index}.node", zone.node, nodes)
            if zone.trip_c >= zone.shutdown_c:
                raise ValueError(f"zones.{index}.trip_c ({zone.trip_c:g}) must be below shutdown_c")
        for index, accelerator in enumerate(self.accelerators):
            known(f"accelerators.{index}.node", accelerator.node, nodes)
        if self.fan is not None:
            known("fan.zone", self.fan.zone, zones)
        if not any(n.to_ambient_w_per_k for n in self.nodes):
            raise ValueError("nodes: none has a path to_ambient_w_per_k; it would heat for ever")
        return self
