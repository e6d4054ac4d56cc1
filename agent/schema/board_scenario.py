"""Board scenario: a day that simulated boards go through – air, fan, sensors, faults and requests."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from agent.schema.base import FileModel, Name

Governor = Literal["predictive", "thresholds", "stepping", "none", "oracle"]


class AirPoint(FileModel):
    """Temperature of the air around the board at an hour; straight lines between."""

    at_h: float = Field(ge=0, le=8760)
    ambient_c: float = Field(ge=-60, le=90)


class Span(FileModel):
    """From when, for how long, and how often again."""

    at_h: float = Field(ge=0, le=8760)
    for_s: float = Field(gt=0, le=31_536_000)
    every_h: float | None = Field(default=None, gt=0, description="again after as many hours")


class FanFailure(Span):
    """The fan stands still; whether its reported duty shows that is the board's affair."""

    still_reported: bool = Field(default=False, description="the firmware goes on reporting the duty it asks for")


class SensorLoss(Span):
    """A sensor that answers nothing, or the same for ever."""

    zone: int = Field(default=1, ge=1, le=16, description="which of the board's zones, in its order")
    kind: Literal["absent", "frozen", "zero"] = "absent"


class LaneFault(Span):
    """An accelerator whose driver is gone: its lane dies, again at every restart while it lasts."""

    accelerator: int = Field(default=1, ge=1, le=8, description="which of the board's accelerators, in its order")


class Sensors(FileModel):
    """How well temperatures are read."""

    noise_c: float = Field(default=0.3, ge=0, le=10, description="standard deviation")
    step_c: float = Field(default=0.0, ge=0, le=5, description="resolution")
    losses: tuple[SensorLoss, ...] = Field(default=(), max_length=64)


class Arrivals(FileModel):
    """Requests from an hour on, as a share of what all accelerators together can do at full speed."""

    from_h: float = Field(ge=0, le=8760)
    load_share: float = Field(ge=0, le=4)
    burst_every_s: float | None = Field(default=None, gt=0, description="all of a period's requests in its first part")
    burst_for_s: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _burst(self) -> Arrivals:
        if (self.burst_every_s is None) != (self.burst_for_s is None):
            raise ValueError("burst_every_s and burst_for_s go together")
        if self.burst_every_s is not None and self.burst_for_s is not None and self.burst_for_s >= self.burst_every_s:
            raise ValueError("burst_for_s must be below burst_every_s")
        return self


class Knowledge(FileModel):
    """What the governor is told of the network before it has seen data."""

    resistance_error: float = Field(default=0.0, gt=-0.9, le=3, description="relative error of its resistances")
    time_constant_error: float = Field(default=0.0, gt=-0.9, le=3)


class BoardScenario(FileModel):
    """A day."""

    version: Literal[1]
    name: Name
    title: str
    kind: Literal["board-run"]
    boards: tuple[str, ...] = Field(min_length=1, max_length=16, description="names of simulated boards, or paths")
    policy: str
    governors: tuple[Governor, ...] = Field(default=("predictive", "none"), min_length=1, max_length=5)
    from_h: float = Field(default=0.0, ge=0, le=8760, description="hour at which the run begins")
    hours: float = Field(gt=0, le=720, description="how long it lasts")
    step_s: float = Field(default=2.0, ge=0.1, le=30, description="period of the simulation and of the sensors")
    seed: int = Field(ge=0, lt=2**32, description="same seed, same bytes")
    air: tuple[AirPoint, ...] = Field(min_length=1, max_length=512)
    fan_failures: tuple[FanFailure, ...] = Field(default=(), max_length=64)
    sensors: Sensors = Sensors()
    faults: tuple[LaneFault, ...] = Field(default=(), max_length=64)
    arrivals: tuple[Arrivals, ...] = Field(min_length=1, max_length=512)
    queue_s: float = Field(default=20.0, gt=0, le=3600, description="work that may wait, in seconds at full speed")
    knowledge: Knowledge = Knowledge()
    battery_wh: float | None = Field(default=None, gt=0, description="what a battery holds; how long it lasts is said")

    @model_validator(mode="after")
    def _ordered(self) -> BoardScenario:
        for key, hours in (("air", [p.at_h for p in self.air]), ("arrivals", [a.from_h for a in self.arrivals])):
            if sorted(set(hours)) != hours:
                raise ValueError(f"{key}: its hours must rise")
        if self.arrivals[0].from_h > 0:
            raise ValueError("arrivals: the first entry must begin at hour 0")
        for name in self.governors:
            if self.governors.count(name) > 1:
                raise ValueError(f"governors: {name!r} is used twice")
        return self
