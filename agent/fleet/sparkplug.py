"""Sparkplug: a tenant's boards as devices of one Sparkplug B edge node. Pure: documents in, topics and payloads out.

Names, order and encoding after the Eclipse Sparkplug Specification 3.0 and its protobuf schema. Of that schema a bridge
writes seven fields and reads one, so their encoding is here, and no protobuf runtime is needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from dataclasses import field
from typing import Any

from agent.fleet.messages import Rows, Told
from agent.records import record

NAMESPACE = "spBv1.0"
INT64, DOUBLE, BOOLEAN, STRING = 4, 10, 11, 12
REBIRTH, BDSEQ = "Node Control/Rebirth", "bdSeq"
MAX_DEVICES, MAX_METRICS, MAX_TEXT = 10_000, 256, 256

Value = bool | int | float | str
Message = tuple[str, bytes]
"""Topic and payload."""


@record(frozen=True)
class Metric:
    """A named value; `value` None is null. `datatype` is one of Sparkplug's."""

    name: str
    datatype: int
    value: Value | None
    at_ms: int
    historical: bool = False


@record
class _Device:
    values: dict[str, tuple[int, Value | None]] = field(default_factory=dict)
    newest_ms: int = 0
    born: bool = False


class EdgeNode:
    """Used by one thread. Every method gives what is to be published, in that order."""

    def __init__(self, group: str, node: str) -> None:
        """Names without /, + and #."""
        self.group, self.node = group, node
        self._bdseq = -1
        self._seq = 0
        self._devices: dict[str, _Device] = {}
        self.counters = {"births": 0, "data": 0, "deaths": 0, "left_out": 0}

    @property
    def command_topic(self) -> str:
        """Where hosts ask for a rebirth."""
        return f"{NAMESPACE}/{self.group}/NCMD/{self.node}"

    def will(self, now_ms: int) -> Message:
        """The death certificate of the next connection, to be left with the broker as its last will."""
        self._bdseq = (self._bdseq + 1) % 256
        return self._topic("NDEATH"), encoded([self._bdseq_metric(now_ms)], now_ms, None)

    def birth(self, now_ms: int) -> list[Message]:
        """The node, then every board that is online: at the beginning of a connection, and when a host asks."""
        self._seq = -1
        metrics = [self._bdseq_metric(now_ms), Metric(REBIRTH, BOOLEAN, False, now_ms)]
        found = [self._message("NBIRTH", metrics, now_ms)]
        for name, device in self._devices.items():
            if device.born:
                found.append(self._device_birth(name, device, now_ms))
        return found

    def asked(self, payload: bytes, now_ms: int) -> list[Message]:
        """What a host's command asks for; nothing where it makes no sense."""
        return self.birth(now_ms) if wants_rebirth(payload) else []

    def told(self, message: Told, now_ms: int) -> list[Message]:
        """A board's birth or last will."""
        if message.kind != "state":
            return []
        name = message.board[1]
        device = self._devices.get(name)
        if not message.document["online"]:
            if device is None or not device.born:
                return []
            device.born = False
            self.counters["deaths"] += 1
            return [self._message("DDEATH", [], now_ms, name)]
        if device is None:
            if len(self._devices) >= MAX_DEVICES:
                self.counters["left_out"] += 1
                return []
            device = self._devices[name] = _Device()
        facts = {key: message.document.get(key) for key in ("agent", "profile")}
        device.values.update({f"Properties/{k}": (STRING, str(v)[:MAX_TEXT]) for k, v in facts.items() if v})
        device.born = True
        return [self._device_birth(name, device, now_ms)]

    def rows(self, message: Rows, now_ms: int) -> list[Message]:
        """Windows of telemetry. Changes are published; rows older than the newest are marked as historical."""
        device = self._devices.get(message.board[1])
        if message.cls != "tlm" or device is None or not device.born:
            return []
        found: list[Message] = []
        for row in message.documents:
            found += self._row(message.board[1], device, row, now_ms)
        return found

    def _row(self, name: str, device: _Device, row: Mapping[str, Any], now_ms: int) -> list[Message]:
        stamp_ms = _stamp_ms(row, now_ms)
        at_ms = now_ms if stamp_ms is None else stamp_ms
        values = metrics_of(row)
        if at_ms < device.newest_ms:
            known = [Metric(n, t, v, at_ms, True) for n, (t, v) in values.items() if n in device.values]
            return [self._message("DDATA", known, now_ms, name)] if known else []
        device.newest_ms = device.newest_ms if stamp_ms is None else stamp_ms
        new = values.keys() - device.values.keys()
        if new:
            room = MAX_METRICS - len(device.values)
            kept = {n: values[n] for n in values if n not in new or n in sorted(new)[:room]}
            self.counters["left_out"] += len(values) - len(kept)
            values = kept
            if values.keys() - device.values.keys():
                device.values.update(values)
                return [self._device_birth(name, device, at_ms)]
        changed = {n: pair for n, pair in values.items() if device.values[n] != pair}
        device.values.update(changed)
        if not changed:
            return []
        self.counters["data"] += 1
        return [self._message("DDATA", [Metric(n, t, v, at_ms) for n, (t, v) in changed.items()], now_ms, name)]

    def _device_birth(self, name: str, device: _Device, now_ms: int) -> Message:
        self.counters["births"] += 1
        metrics = [Metric(n, t, v, device.newest_ms or now_ms) for n, (t, v) in device.values.items()]
        return self._message("DBIRTH", metrics, now_ms, name)

    def _bdseq_metric(self, now_ms: int) -> Metric:
        return Metric(BDSEQ, INT64, self._bdseq, now_ms)

    def _message(self, kind: str, metrics: Iterable[Metric], now_ms: int, device: str | None = None) -> Message:
        self._seq = (self._seq + 1) % 256
        return self._topic(kind, device), encoded(metrics, now_ms, self._seq)

    def _topic(self, kind: str, device: str | None = None) -> str:
        return f"{NAMESPACE}/{self.group}/{kind}/{self.node}" + (f"/{device}" if device else "")


def metrics_of(row: Mapping[str, Any]) -> dict[str, tuple[int, Value | None]]:
    """What of a window of telemetry is told: mode, accelerators' state, °C and W, models' state, counts and joules."""
    found: dict[str, tuple[int, Value | None]] = {}
    _put(found, "Mode", STRING, row.get("mode"))
    for name, lane in _parts(row.get("accelerators")):
        _put(found, f"Accelerators/{name}/State", STRING, lane.get("state"))
        for key, label in (("temperature_c", "Temperature_C"), ("power_w", "Power_W")):
            series = lane.get(key)
            if isinstance(series, dict):
                _put(found, f"Accelerators/{name}/{label}", DOUBLE, series.get("last"))
    for name, model in _parts(row.get("models")):
        for key, label in (("state", "State"), ("placement", "Placement"), ("provenance", "Energy_Provenance")):
            _put(found, f"Models/{name}/{label}", STRING, model.get(key))
        for key, label in (("requests", "Requests"), ("failed", "Failed")):
            _put(found, f"Models/{name}/{label}", INT64, model.get(key))
        _put(found, f"Models/{name}/Energy_J", DOUBLE, model.get("energy_j"))
    return found


def _parts(value: object) -> list[tuple[str, dict[str, Any]]]:
    found = value.items() if isinstance(value, dict) else ()
    return [(str(name)[:64].replace("/", "_"), part) for name, part in found if isinstance(part, dict)]


def _put(found: dict[str, tuple[int, Value | None]], name: str, datatype: int, value: object) -> None:
    """What is missing is left out, what became null is null, what has another type is not told."""
    if value is None and datatype != STRING:
        found[name] = (datatype, None)
    elif datatype == STRING and isinstance(value, str):
        found[name] = (STRING, value[:MAX_TEXT])
    elif datatype == INT64 and type(value) is int and -(2**63) <= value < 2**63:
        found[name] = (INT64, value)
    elif datatype == DOUBLE and isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e300:
        found[name] = (DOUBLE, float(value))


def _stamp_ms(row: Mapping[str, Any], now_ms: int) -> int | None:
    """The board's own time; None where it knew none or is ahead."""
    stamp = row.get("ts")
    if row.get("tq") == "none" or not isinstance(stamp, int | float) or not 0 < stamp * 1000 <= now_ms:
        return None
    return int(stamp * 1000)


# ---------------------------------------------------------------------- protobuf's wire format


def encoded(metrics: Iterable[Metric], now_ms: int, seq: int | None) -> bytes:
    """org.eclipse.tahu.protobuf.Payload: timestamp (1), metrics (2), seq (3)."""
    parts = [_varint_field(1, now_ms), *(_bytes_field(2, _metric(metric)) for metric in metrics)]
    return b"".join([*parts, b"" if seq is None else _varint_field(3, seq)])


def _metric(metric: Metric) -> bytes:
    """Name (1), timestamp (3), datatype (4), is_historical (5), is_null (7), and one of the values."""
    head = _bytes_field(1, _utf8(metric.name)) + _varint_field(3, metric.at_ms) + _varint_field(4, metric.datatype)
    if metric.historical:
        head += _varint_field(5, 1)
    value = metric.value
    if value is None:
        return head + _varint_field(7, 1)
    if metric.datatype == INT64:
        return head + _varint_field(11, int(value) % 2**64)
    if metric.datatype == DOUBLE:
        return head + _key(13, 1) + struct.pack("<d", value)
    if metric.datatype == BOOLEAN:
        return head + _varint_field(14, int(bool(value)))
    return head + _bytes_field(15, _utf8(str(value)))


def wants_rebirth(payload: bytes) -> bool:
    """Whether a command holds the metric that asks for a rebirth, and it is true."""
    try:
        for number, part in _fields(payload):
            if number == 2 and isinstance(part, bytes):
                metric = dict(_fields(part))
                if metric.get(1) == REBIRTH.encode() and metric.get(14) == 1:
                    return True
    except (ValueError, IndexError):
        return False
    return False


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    """ValueError or IndexError for what is no protobuf."""
    found: list[tuple[int, int | bytes]] = []
    at = 0
    while at < len(data):
        key, at = _varint_at(data, at)
        kind = key & 7
        if kind == 0:
            number, at = _varint_at(data, at)
            found.append((key >> 3, number))
            continue
        if kind == 2:
            size, at = _varint_at(data, at)
        else:
            size = {1: 8, 5: 4}.get(kind, -1)
        if not 0 <= size <= len(data) - at:
            raise ValueError("not a protobuf message")
        found.append((key >> 3, data[at : at + size]))
        at += size
    return found


def _varint_at(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        value |= (data[at] & 0x7F) << shift
        at += 1
        if data[at - 1] < 0x80:
            return value, at
    raise ValueError("a number that does not end")


def _key(number: int, kind: int) -> bytes:
    return _varint(number << 3 | kind)


def _varint_field(number: int, value: int) -> bytes:
    return _key(number, 0) + _varint(value)


def _bytes_field(number: int, value: bytes) -> bytes:
    return _key(number, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _utf8(text: str) -> bytes:
    return text.encode("utf-8", "replace")
