"""Settings of one agent: where things are and which models it serves (agent.yaml)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from agent.schema.base import FileModel, Name


def _is_loopback(host: str) -> bool:
    return host in {"localhost", "::1"} or host.startswith("127.")


class HttpSettings(FileModel):
    """The local API."""

    host: str = "127.0.0.1"
    port: int = Field(default=8484, ge=0, le=65535, description="0: any free port, printed in the ready line")
    unix_socket: Path | None = Field(default=None, description="serve here instead of host and port")
    api_key_file: Path | None = Field(default=None, description="required to bind anything but loopback")
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    max_connections: int = Field(default=256, ge=1, le=10_000, description="further clients get 503 and are closed")
    max_buffered_bytes: int = Field(
        default=268_435_456, ge=1_048_576, description="request bodies held at once by all connections; then 503"
    )
    max_event_streams: int = Field(default=8, ge=1, le=1000, description="subscribers of /events")
    keep_alive_s: int = Field(default=75, ge=1, le=3600, description="an idle connection is closed after this")
    receive_timeout_s: float = Field(
        default=10.0, gt=0, le=600, description="time for a request's headers; bodies get a second more per 64 KiB"
    )

    @model_validator(mode="after")
    def _guarded(self) -> HttpSettings:
        if self.unix_socket is None and not _is_loopback(self.host) and self.api_key_file is None:
            raise ValueError(f"host {self.host} is reachable from outside: set api_key_file (and tls_certificate)")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        return self


class MqttTls(FileModel):
    """TLS of the broker connection."""

    ca: Path
    certificate: Path | None = None
    key: Path | None = None


TrustedKey = Annotated[str, Field(pattern=r"^RW[QRST][0-9A-Za-z+/]{53}$")]
"""A minisign public key: the second line of its .pub file."""


_TIME = r"([01][0-9]|2[0-3]):[0-5][0-9]"


class BundleSettings(FileModel):
    """When the board begins with a bundle that is offered; until it expires it waits."""

    hours: str | None = Field(
        default=None, pattern=rf"^{_TIME}-{_TIME}$", description="only then, local time, as 22:00-05:00; null: always"
    )
    max_requests_per_s: float | None = Field(
        default=None, ge=0, description="busier, over a minute, it waits; null: however busy"
    )


class MqttSettings(FileModel):
    """The broker. Absent from the settings: no MQTT at all."""

    host: str
    port: int = Field(default=1883, ge=1, le=65535)
    tenant: Name = "default"
    tls: MqttTls | None = None
    username: str | None = None
    password_file: Path | None = None
    keepalive_s: int = Field(default=15, ge=2, le=3600)
    session_expiry_s: int = Field(default=86_400, ge=0)
    will_delay_s: int = Field(default=0, ge=0, le=3600)
    delete_on: Literal["backend_ack", "puback"] = Field(
        default="backend_ack", description="puback: no backend acknowledges; a broker crash can then lose rows"
    )
    max_inflight: int = Field(default=20, ge=1, le=1000)
    resend_s: float = Field(default=30.0, gt=0)
    home_assistant: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_-]{1,64}$", description="discovery prefix; null: not announced"
    )
    trusted_keys: tuple[TrustedKey, ...] = Field(
        default=(), max_length=2, description="who may command this board: the current key and the next one"
    )
    bundles: BundleSettings = BundleSettings()


FLUSH_S, FLUSH_ALONE_S = 120.0, 600.0
"""Longest wait of telemetry for its commit: with a broker, to which it then goes, and where only the board has it."""


class OutboxSettings(FileModel):
    """The on-board spool."""

    max_bytes: int = Field(default=64 * 1024 * 1024, ge=1024 * 1024)
    flush_s: float | None = Field(
        default=None, gt=0, le=3600,
        description="longest wait of telemetry for its commit, events do not wait; null: 120 with a broker, else 600",
    )  # fmt: skip
    max_daily_bytes: int | None = Field(
        default=256 * 1024 * 1024,
        ge=1024 * 1024,
        description="written to flash in a day; telemetry gets slower where that is too little; null: no bound",
    )


class OtlpSettings(FileModel):
    """An OpenTelemetry collector that the metrics are pushed to."""

    endpoint: str = Field(
        pattern=r"^https?://",
        description="as http://collector:4318/v1/metrics; what proves who asks belongs into headers_file",
    )
    interval_s: float = Field(default=60.0, ge=1, le=3600)
    timeout_s: float = Field(default=10.0, gt=0, le=60)
    headers_file: Path | None = Field(default=None, description="NAME: VALUE lines, e.g. a token; never in this file")
    ca: Path | None = Field(default=None, description="PEM of the authority that signed the collector's certificate")

    @field_validator("endpoint")
    @classmethod
    def _bare(cls, value: str) -> str:
        # The address stands in conditions, status and logs.
        if any(sign in value for sign in "@?#"):
            raise ValueError("only the collector's address: names, passwords and tokens belong into headers_file")
        return value


class DecoderSecond(FileModel):
    """A second accelerator that works on a language model, in a process of its own over the same cache."""

    accelerator: Name
    layers: int | None = Field(
        default=None, ge=1, le=1024, description="first layers of every step; null: the prompts, all their layers"
    )


class DecoderOptions(FileModel):
    """How a language model is served. What is left out follows from the memory there is."""

    mode: str | None = Field(default=None, description="a mode of the folder, as exact or fast; null: its default")
    accelerator: Name | None = Field(default=None, description="null: the board's CPU")
    second: DecoderSecond | None = Field(default=None, description="shares the work; null: see sharing")
    sharing: Literal["planned", "never"] = Field(
        default="planned", description="without second; planned: with one that the planner finds to pay; never: alone"
    )
    threads: int | None = Field(default=None, ge=1, le=256)
    rows: int | None = Field(default=None, ge=1, le=64, description="texts written at once; null: 16, fewer if need be")
    context_tokens: int | None = Field(
        default=None, ge=16, le=1 << 20, description="prompt and answer together; null: 4096, less if need be"
    )
    prefix_cache_bytes: int = Field(
        default=67_108_864, ge=0, description="memory for beginnings of prompts that come again; 0: none"
    )
    max_requests: int = Field(default=64, ge=1, le=10_000, description="requests under way or waiting; then 503")


class VariantEntry(FileModel):
    """The same model in another file, as a rule in another precision: same inputs and outputs, other numbers."""

    name: Name = Field(description="shown in plan and status, for example int8")
    path: Path
    quality: float | None = Field(default=None, ge=0, description="as of the model; without it: not chosen")


class BatchingOptions(FileModel):
    """How many requests may share one call. Results may then depend on the company in their last bits."""

    max: int = Field(default=8, ge=2, le=256, description="rows (first axis) of one call at most")
    wait_ms: float = Field(
        default=0.0, ge=0, le=1000, description="longest wait for company on an idle lane; 0: a lone one never waits"
    )


class ModelEntry(FileModel):
    """A model to serve."""

    name: Name
    path: Path
    version: str = "1"
    splits: tuple[str, ...] = Field(
        default=(), max_length=8, description="splits to hold ready beside the plan's choice: accelerators joined by +"
    )
    quality: float | None = Field(
        default=None, ge=0, description="how good its answers are, by any measure of yours where more is better"
    )
    variants: tuple[VariantEntry, ...] = Field(
        default=(), max_length=8, description="other precisions, among which the planner chooses; see quality_floor"
    )
    batching: BatchingOptions | None = Field(
        default=None, description="requests that wait for one accelerator run as one call; null: never"
    )
    decoder: DecoderOptions = Field(default=DecoderOptions(), description="for a decoder folder")

    @model_validator(mode="after")
    def _distinct(self) -> ModelEntry:
        names = [v.name for v in self.variants]
        twice = next((n for n in names if names.count(n) > 1), None)
        if twice is not None:
            raise ValueError(f"variants: the name {twice!r} is used twice")
        return self


class SimulatedAccelerator(FileModel):
    """An accelerator that computes on the CPU and takes the time, joules and heat of another board's unit."""

    name: Name
    like: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*/[a-z0-9][a-z0-9._-]*$", description="BOARD/ACCELERATOR")
    max_slowdown: float = Field(default=50.0, ge=1, description="refuse when the CPU needs this many times longer")


class LaneSettings(FileModel):
    """What the process of an accelerator's lane may take of the board."""

    cores: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)] | None = Field(
        default=None, description="the only ones that it computes on; null: all of the agent's"
    )
    memory_limit_bytes: int | None = Field(
        default=None, ge=268_435_456, description="address space, which is more than what is resident; null: no limit"
    )
    nice: int = Field(default=0, ge=0, le=19, description="how far others go first: 19 takes what nobody else wants")


class Settings(FileModel):
    """agent.yaml."""

    version: Literal[1]
    state_dir: Path = Path("/var/lib/qeil")
    board: Name | None = Field(default=None, description="name in telemetry; default: hostname")
    profile: str = Field(default="auto", description="auto, a shipped profile's name, or a path")
    policy: str = Field(default="balanced", description="a shipped policy's name, or a path")
    isolation: Literal["process", "thread"] = "process"
    http: HttpSettings = HttpSettings()
    mqtt: MqttSettings | None = None
    outbox: OutboxSettings = OutboxSettings()
    otlp: OtlpSettings | None = None
    models: tuple[ModelEntry, ...] = ()
    weights_apart_bytes: int = Field(
        default=4_294_967_296, ge=0, description="disk for weights that lanes map instead of copying; 0: none"
    )
    simulated_accelerators: tuple[SimulatedAccelerator, ...] = ()
    lanes: dict[Name, LaneSettings] = Field(default={}, description="by accelerator; not where isolation is thread")
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    @property
    def flush_s(self) -> float:
        """Longest time that a telemetry row waits for its commit to disk; each commit wears flash by pages."""
        if self.outbox.flush_s is not None:
            return self.outbox.flush_s
        return FLUSH_ALONE_S if self.mqtt is None else FLUSH_S

    @field_validator("state_dir", mode="before")
    @classmethod
    def _named_folder(cls, value: object) -> object:
        if value == "":
            raise ValueError("name a folder; empty would mean wherever the agent was started")
        return value

    @model_validator(mode="after")
    def _lanes_are_processes(self) -> Settings:
        if self.lanes and self.isolation == "thread":
            raise ValueError("lanes: cores, memory and priority are a process's own: set isolation to process")
        return self

    @model_validator(mode="after")
    def _unique_names(self) -> Settings:
        for kind, names in (
            ("models", [m.name for m in self.models]),
            ("simulated_accelerators", [s.name for s in self.simulated_accelerators]),
        ):
            for name in names:
                if names.count(name) > 1:
                    raise ValueError(f"{kind}: the name {name!r} is used twice")
        return self
