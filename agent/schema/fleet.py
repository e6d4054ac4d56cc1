"""Settings of the fleet's controller (fleet.yaml) and what its API takes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from agent.schema.base import FileModel, Name
from agent.schema.settings import MqttSettings, TrustedKey

Role = Literal["read", "operate", "admin"]
MOST_FAILED = 0.5
"""A plan with several rings accepts a smaller share of failures than this."""


class FleetHttp(FileModel):
    """Where the API listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8585, ge=0, le=65535)
    tokens_file: Path = Field(description="one line per token; qeil fleet token makes them")
    tls_certificate: Path | None = None
    tls_key: Path | None = None


class Retention(FileModel):
    """How long what is kept."""

    rows_days: float = Field(default=30.0, gt=0, description="telemetry rows; then sums per board and hour are left")
    events_days: float = Field(default=365.0, gt=0, description="events and gap rows")
    hours_days: float = Field(default=1095.0, gt=0, description="sums per board and hour")


class FleetSettings(FileModel):
    """fleet.yaml."""

    version: Literal[1]
    name: Name = Field(default="fleet-backend", description="this controller; each one needs a name of its own")
    group: Name = Field(default="qeil", description="controllers of one group share the boards' messages")
    database: str = Field(description="sqlite:///FILE, or postgresql://USER@HOST/NAME")
    mqtt: MqttSettings = Field(description="the broker; mqtt.tenant is not looked at")
    http: FleetHttp
    trusted_keys: tuple[TrustedKey, ...] = Field(min_length=1, max_length=2, description="what boards obey")
    silent_s: float = Field(default=300.0, gt=0, description="an online board that says nothing for longer is silent")
    missing_s: float = Field(default=120.0, gt=0, description="numbers missing for longer raise a condition")
    receive_maximum: int = Field(default=2000, ge=1, le=65535, description="messages under way to this controller")
    writers: int = Field(default=2, ge=1, le=16, description="threads that store, on PostgreSQL; SQLite has one")
    retention: Retention = Retention()
    archives: Path | None = Field(default=None, description="folder of bundle archives that boards ask for over MQTT")
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Signed(FileModel):
    """A signed document as it goes to boards."""

    v: Literal[1]
    doc: str = Field(max_length=128 * 1024)
    sig: str = Field(max_length=4096)


Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
Minute = Annotated[str, Field(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


class MaintenanceWindow(FileModel):
    """When boards may be offered anything, in UTC; one that ends before it begins goes on past midnight."""

    days: tuple[Day, ...] = Field(default=DAYS, min_length=1, max_length=7, description="on which it begins")
    begins: Minute = Field(description="HH:MM, UTC")
    ends: Minute = Field(description="HH:MM, UTC")

    @model_validator(mode="after")
    def _not_empty(self) -> MaintenanceWindow:
        if self.begins == self.ends:
            raise ValueError("a window that begins when it ends is none; leave windows out for any time")
        return self


class Plan(FileModel):
    """How a rollout proceeds."""

    rings: tuple[float, ...] = Field(default=(0.2, 0.5, 1.0), min_length=1, max_length=16)
    soak_s: float = Field(default=600.0, ge=0, le=30 * 86_400, description="after a ring is settled, before the next")
    per_minute: int = Field(default=600, ge=1, le=1_000_000, description="offers in a minute")
    ramp_boards: int = Field(
        default=10, ge=1, le=1_000_000, description="under way at once at first; then as many as have settled"
    )
    max_failed: float = Field(
        default=0.002, ge=0, le=1,
        description="accepted share of boards that refuse, revert or fall silent; more, beyond chance, aborts",
    )  # fmt: skip
    min_boards: int = Field(
        default=5, ge=1, description="that many settled boards, or all of the rings so far, before failures count"
    )
    silent_s: float = Field(default=3600.0, gt=0, description="an offered board without an end counts as silent")
    max_worse: float = Field(default=0.02, ge=0, lt=0.2, description="accepted rise of joules per inference")
    risk: float = Field(
        default=0.05, gt=0, lt=0.5,
        description="chance, at most, that failures abort it where max_failed is the true share, however often they are"
        " looked at; the same for joules and max_worse",
    )  # fmt: skip
    approvals: int = Field(default=1, ge=1, le=5, description="people who must want it, the one who asks included")
    select: str = Field(default="", max_length=1024, description="which boards; all of the tenant by default")
    windows: tuple[MaintenanceWindow, ...] = Field(
        default=(), max_length=32, description="offers leave only within any of them; at any time without"
    )

    @model_validator(mode="after")
    def _rings_grow(self) -> Plan:
        if any(not 0 < share <= 1 for share in self.rings) or list(self.rings) != sorted(set(self.rings)):
            raise ValueError("rings are growing shares above 0 and at most 1")
        return self

    @model_validator(mode="after")
    def _rings_judge(self) -> Plan:
        if len(self.rings) > 1 and self.max_failed >= MOST_FAILED:
            raise ValueError(
                f"max_failed {self.max_failed:g} accepts a ring in which most boards fail, so its rings stop nothing; "
                f"stay below {MOST_FAILED:g}, or give rings: [1.0] to reach all whatever fails"
            )
        return self


class RolloutRequest(FileModel):
    """A signed offer for many boards, and how it proceeds."""

    offer: Signed
    plan: Plan = Plan()


class Labels(FileModel):
    """Labels of one board, whole."""

    labels: dict[Name, str] = Field(max_length=64, json_schema_extra={"additionalProperties": False})

    @model_validator(mode="after")
    def _short(self) -> Labels:
        if any(len(value) > 128 or "," in value or not value.isprintable() for value in self.labels.values()):
            raise ValueError("label values are printable, without commas, at most 128 characters")
        return self
