"""Plain messages: publications at QoS 1 without properties, and the acknowledgements of such, read at once.

That is what boards send and get by the thousand. paho 2 fills a table of all properties that MQTT knows for each, a
condition variable and a line of log that nobody reads. Whatever is not plain goes paho's own way.
"""

from __future__ import annotations

from typing import Any, ClassVar

from agent.records import record

_KIND_AND_QOS, _PUBLISH_QOS_1, _RETAIN = 0xF6, 0x32, 0x01
_NO_PROPERTIES = 0
_SUCCESS, _NO_SUBSCRIBERS = 0x00, 0x10


@record(frozen=True, slots=True)
class PlainMessage:
    """What arrived, by the names that paho gives its own."""

    topic: str
    payload: bytes
    mid: int
    retain: bool
    qos: ClassVar[int] = 1
    properties: ClassVar[None] = None


def plain_message(header: int, packet: bytes | bytearray) -> PlainMessage | None:
    """What an MQTT 5 PUBLISH says (OASIS, MQTT 5.0, 3.3); None where it is no plain one at QoS 1, or malformed.

    header: the first byte; packet: what follows the length.
    """
    if header & _KIND_AND_QOS != _PUBLISH_QOS_1 or len(packet) < 2:
        return None
    topic_end = 2 + (packet[0] << 8 | packet[1])
    if topic_end == 2 or len(packet) < topic_end + 3 or packet[topic_end + 2] != _NO_PROPERTIES:
        return None
    try:
        topic = packet[2:topic_end].decode()
    except UnicodeDecodeError:
        return None
    mid = packet[topic_end] << 8 | packet[topic_end + 1]
    return PlainMessage(topic, bytes(packet[topic_end + 3 :]), mid, bool(header & _RETAIN))


@record(frozen=True)
class PlainReason:
    """What became of a publication, by the name that paho gives its own."""

    value: int


_REASONS = {value: PlainReason(value) for value in (_SUCCESS, _NO_SUBSCRIBERS)}


def plain_acknowledgement(packet: bytes | bytearray) -> tuple[int, PlainReason] | None:
    """(number of the publication, what became of it) of an MQTT 5 PUBACK (3.4) without properties that is no refusal.

    None for any other. packet: what follows the length.
    """
    if len(packet) not in {2, 3}:
        return None
    reason = _REASONS.get(packet[2] if len(packet) > 2 else _SUCCESS)
    return None if reason is None else (packet[0] << 8 | packet[1], reason)


class PlainReads:
    """Mixed into a client that acknowledges by hand."""

    def _handle_publish(self) -> Any:
        arrived: Any = self._in_packet  # type: ignore[attr-defined]  # paho's
        message = plain_message(arrived["command"], arrived["packet"])
        if message is None:
            return super()._handle_publish()  # type: ignore[misc]
        self._handle_on_message(message)  # type: ignore[attr-defined]
        return 0

    def _handle_pubackcomp(self, cmd: str) -> Any:
        known = plain_acknowledgement(self._in_packet["packet"]) if cmd == "PUBACK" else None  # type: ignore[attr-defined]
        if known is None:
            return super()._handle_pubackcomp(cmd)  # type: ignore[misc]
        number, reason = known
        with self._out_message_mutex:  # type: ignore[attr-defined]
            if number in self._out_messages:  # type: ignore[attr-defined]
                return self._do_on_publish(number, reason, None)  # type: ignore[attr-defined]
        return 0

    def _update_inflight(self) -> Any:
        """Send what waits for room. paho looks through all that is under way for it, with each acknowledgement."""
        if len(self._out_messages) <= self._inflight_messages:  # type: ignore[attr-defined]
            return 0  # all of them were sent
        return super()._update_inflight()  # type: ignore[misc]
