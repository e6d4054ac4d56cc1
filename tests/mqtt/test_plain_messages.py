"""Plain messages are read as paho reads them, and what is not plain is left to it."""

from __future__ import annotations

import socket
import struct

import paho.mqtt.client as paho
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from agent.mqtt.plain_messages import PlainMessage, PlainReads, plain_acknowledgement, plain_message


class Reader(PlainReads, paho.Client):
    """The mixture as the link has it."""


def read_by(kind: type[paho.Client], header: int, packet: bytes) -> list[tuple]:
    """What a client of this kind hands over of one packet; the name of the error where it hands over none."""
    heard: list[tuple] = []
    client = kind(CallbackAPIVersion.VERSION2, client_id="c", protocol=paho.MQTTv5, manual_ack=True)

    def on_message(_client, _data, message) -> None:
        properties = message.properties
        response = getattr(properties, "ResponseTopic", None)
        heard.append((message.topic, bytes(message.payload), message.mid, message.qos, bool(message.retain), response))

    client.on_message = on_message
    client._in_packet = {"command": header, "packet": bytearray(packet)}
    try:
        client._handle_publish()
    except Exception as error:  # noqa: BLE001 - whichever: it is compared
        heard.append((type(error).__name__,))
    return heard


def publish(topic: str, payload: bytes, mid: int, qos: int, properties: Properties | None) -> bytes:
    """The variable part of a PUBLISH."""
    name = topic.encode()
    head = struct.pack("!H", len(name)) + name + (struct.pack("!H", mid) if qos else b"")
    return head + (b"\0" if properties is None else properties.pack()) + payload


@given(
    st.text(min_size=1, max_size=30), st.binary(max_size=300), st.integers(1, 65535), st.booleans(), st.booleans(),
    st.sampled_from([0, 1]), st.booleans(),
)  # fmt: skip
def test_every_publication_is_handed_over_as_paho_alone_would(topic, payload, mid, retain, again, qos, asks) -> None:
    properties = Properties(PacketTypes.PUBLISH) if asks else None
    if properties is not None:
        properties.ResponseTopic = "answers/here"
    packet = publish(topic, payload, mid, qos, properties)
    header = 0x30 | (again << 3) | (qos << 1) | retain
    heard = read_by(Reader, header, packet)
    assert heard == read_by(paho.Client, header, packet)
    assert len(heard) == 1
    assert (plain_message(header, packet) is not None) == (qos == 1 and not asks)


@given(st.binary(max_size=40), st.integers(0x30, 0x3F).filter(lambda header: header & 0x06 == 0x02))
def test_whatever_else_arrives_comes_to_what_paho_makes_of_it(packet, header) -> None:
    assert read_by(Reader, header, packet) == read_by(paho.Client, header, packet)


def test_a_topic_that_is_no_text_and_an_empty_one_are_left_to_paho() -> None:
    assert plain_message(0x32, b"\x00\x01\xff\x00\x01\x00") is None
    assert plain_message(0x32, b"\x00\x00\x00\x01\x00x") is None
    assert plain_message(0x32, b"\x00\x01a\x00\x07\x00x") == PlainMessage("a", b"x", 7, False)


def acknowledged_by(kind: type[paho.Client], packets: list[bytes], published: int, max_inflight: int) -> list[object]:
    """What a client with this many publications tells of PUBACKs, what it sends meanwhile, and what is left then."""
    heard: list[object] = []
    near, far = socket.socketpair()
    with near, far:
        client = kind(CallbackAPIVersion.VERSION2, client_id="c", protocol=paho.MQTTv5)
        client.max_inflight_messages_set(max_inflight)
        client._state, client._sock = paho._ConnectionState.MQTT_CS_CONNECTED, near
        client.on_publish = lambda _client, _data, mid, reason, _properties: heard.append((mid, reason.value))
        sent = [client.publish("a/b", b"x", 1) for _ in range(published)]
        for packet in packets:
            client._in_packet = {"command": 0x40, "packet": bytearray(packet)}
            try:
                heard.append(int(client._handle_pubackcomp("PUBACK")))
            except Exception as error:  # noqa: BLE001 - whichever: it is compared
                heard.append(type(error).__name__)
        far.setblocking(False)
        heard.append(far.recv(65536) if published else b"")
        client._sock = None
    return [*heard, client._inflight_messages, len(client._out_messages), [info._published for info in sent]]


RESTS = [b"", b"\x00", b"\x10", b"\x87", b"\x97", b"\xff", b"\x00\x00", b"\x10\x00"]


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from(RESTS)), max_size=8), st.integers(0, 6), st.integers(1, 6))
def test_every_acknowledgement_comes_to_what_paho_makes_of_it(numbers, published, max_inflight) -> None:
    packets = [struct.pack("!H", number) + rest for number, rest in numbers]
    by_paho = acknowledged_by(paho.Client, packets, published, max_inflight)
    assert acknowledged_by(Reader, packets, published, max_inflight) == by_paho
    for packet, (_, rest) in zip(packets, numbers, strict=True):
        assert (plain_acknowledgement(packet) is not None) == (rest in {b"", b"\x00", b"\x10"})


@given(st.binary(max_size=5))
def test_an_acknowledgement_that_is_none_is_left_to_paho(packet) -> None:
    assert acknowledged_by(Reader, [packet], 3, 2) == acknowledged_by(paho.Client, [packet], 3, 2)
