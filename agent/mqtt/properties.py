"""Properties: what MQTT 5 packets carry beside their payload; making them costs more than all else of a message."""

from __future__ import annotations

from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties


def properties_of(packet_type: int) -> Properties:
    """Empty ones for packets of this type."""
    return Properties(packet_type)  # type: ignore[no-untyped-call]  # paho has no annotations here


def message_properties(correlation: bytes | None, expires_s: int | None) -> Properties | None:
    """Those of a message: what it answers, and after how many seconds a broker forgets it; None without both."""
    if correlation is None and expires_s is None:
        return None
    properties = properties_of(PacketTypes.PUBLISH)
    if correlation is not None:
        properties.CorrelationData = correlation
    if expires_s is not None:
        properties.MessageExpiryInterval = expires_s
    return properties
