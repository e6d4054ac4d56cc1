"""Boards as devices of a Sparkplug B edge node: what is said when, and that others can read it."""

from __future__ import annotations

import json
import threading
from collections import defaultdict

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.enums import CallbackAPIVersion

from agent.errors import BadInput
from agent.fleet.messages import parse
from agent.fleet.sparkplug import BOOLEAN, DOUBLE, INT64, REBIRTH, STRING, EdgeNode, Metric, encoded, wants_rebirth
from agent.fleet.sparkplug_bridge import SparkplugBridge
from agent.schema.settings import MqttSettings
from tests.broker import Broker
from tests.fleet.boards import Board
from tests.mqtt.stack import until

NOW_MS = 1_790_000_000_000
KINDS = {"string": 9, "uint64": 4, "uint32": 13, "bool": 8, "float": 2, "double": 1, "bytes": 12, "message": 11}
PAYLOAD = {"timestamp": (1, "uint64"), "metrics": (2, "message"), "seq": (3, "uint64"), "uuid": (4, "string")}
METRIC = {
    "name": (1, "string"), "alias": (2, "uint64"), "timestamp": (3, "uint64"), "datatype": (4, "uint32"),
    "is_historical": (5, "bool"), "is_transient": (6, "bool"), "is_null": (7, "bool"), "int_value": (10, "uint32"),
    "long_value": (11, "uint64"), "float_value": (12, "float"), "double_value": (13, "double"),
    "boolean_value": (14, "bool"), "string_value": (15, "string"), "bytes_value": (16, "bytes"),
}  # fmt: skip
"""Of the schema that the specification publishes, read by protobuf's own runtime."""


@pytest.fixture(scope="session")
def payload():
    descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2")
    from google.protobuf import descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(name="sparkplug_b.proto", package="p", syntax="proto2")
    for name, fields in (("Metric", METRIC), ("Payload", PAYLOAD)):
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            made = message.field.add(name=field, number=number, type=KINDS[kind], label=1)
            if kind == "message":
                made.type_name, made.label = ".p.Metric", 3
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("p.Payload"))


def value(metric):
    return None if metric.is_null else getattr(metric, next(f.name for f, _ in metric.ListFields() if f.number > 9))


def read(payload, found) -> list[tuple[str, int | None, dict]]:
    """(kind and device, seq, values) of messages."""
    shown = []
    for topic, content in found:
        made = payload.FromString(content)
        kind = "/".join(topic.removeprefix("spBv1.0/acme/").split("/")[::2])
        seq = made.seq if made.HasField("seq") else None
        shown.append((kind, seq, {m.name: value(m) for m in made.metrics}))
    return shown


def state(online: bool = True, board: str = "b1"):
    document = {"v": 1, "online": online, "boot": 1, "conn": 1, "agent": "1.0", "profile": "pi"}
    return parse(f"qeil/v1/acme/{board}/up/state", json.dumps(document).encode())


def window(seq: int = 0, ts: float = 1_789_999_000.0, **fields):
    lane = {"state": "ready", "temperature_c": {"last": 51.5}}
    model = {
        "state": "ready",
        "placement": "npu",
        "requests": 7,
        "failed": 0,
        "energy_j": 1.5,
        "provenance": "measured",
    }
    row = {"ts": ts, "tq": "ntp", "mode": "ready", "accelerators": {"npu": lane}, "models": {"m/1": model}, **fields}
    return parse(
        "qeil/v1/acme/b1/up/tlm/agent",
        json.dumps({"v": 1, "boot": 1, "cls": "tlm", "seq0": seq, "rows": [row]}).encode(),
    )


def test_a_connection_begins_with_the_node_then_boards_then_what_changes(payload):
    node = EdgeNode("acme", "qeil")
    topic, will = node.will(NOW_MS)
    assert topic == "spBv1.0/acme/NDEATH/qeil"
    said = [
        *node.birth(NOW_MS),
        *node.told(state(), NOW_MS),
        *node.rows(window(), NOW_MS),
        *node.rows(window(1), NOW_MS),
    ]
    said += [*node.rows(window(2, 1_789_999_009.0, mode="busy"), NOW_MS), *node.told(state(False), NOW_MS)]
    assert read(payload, [(topic, will)]) == [("NDEATH", None, {"bdSeq": 0})]
    facts = {"Properties/agent": "1.0", "Properties/profile": "pi"}
    whole = {
        **facts, "Mode": "ready", "Accelerators/npu/State": "ready", "Accelerators/npu/Temperature_C": 51.5,
        "Models/m_1/State": "ready", "Models/m_1/Placement": "npu", "Models/m_1/Energy_Provenance": "measured",
        "Models/m_1/Requests": 7, "Models/m_1/Failed": 0, "Models/m_1/Energy_J": 1.5,
    }  # fmt: skip
    assert read(payload, said) == [
        ("NBIRTH", 0, {"bdSeq": 0, REBIRTH: False}), ("DBIRTH/b1", 1, facts), ("DBIRTH/b1", 2, whole),
        ("DDATA/b1", 3, {"Mode": "busy"}), ("DDEATH/b1", 4, {}),
    ]  # fmt: skip
    node.will(NOW_MS)
    assert read(payload, node.birth(NOW_MS)) == [("NBIRTH", 0, {"bdSeq": 1, REBIRTH: False})]


def test_rows_that_come_late_are_historical_and_change_nothing(payload):
    node = EdgeNode("acme", "qeil")
    node.birth(NOW_MS)
    node.told(state(), NOW_MS)
    node.rows(window(5), NOW_MS)
    ((_, content),) = node.rows(window(1, 1_789_990_000.0, mode="late"), NOW_MS)
    metrics = payload.FromString(content).metrics
    assert all(m.is_historical and m.timestamp == 1_789_990_000_000 for m in metrics)
    assert node.rows(window(6), NOW_MS) == []


def test_a_figure_that_is_gone_is_null_and_no_number(payload):
    node = EdgeNode("acme", "qeil")
    node.birth(NOW_MS)
    node.told(state(), NOW_MS)
    node.rows(window(), NOW_MS)
    gone = {"npu": {"state": "lost", "temperature_c": {"last": None}}}
    ((_, _, values),) = read(payload, node.rows(window(1, accelerators=gone), NOW_MS))
    assert values == {"Accelerators/npu/State": "lost", "Accelerators/npu/Temperature_C": None}


def test_telemetry_of_a_board_that_was_not_born_is_not_told_and_neither_is_what_makes_no_sense(payload):
    node = EdgeNode("acme", "qeil")
    node.birth(NOW_MS)
    assert node.rows(window(), NOW_MS) == []
    assert node.told(state(False), NOW_MS) == []
    node.told(state(), NOW_MS)
    odd = window(
        0, "x", mode=5, accelerators={"a": 3}, models={"m": {"requests": 2.5, "failed": "x", "energy_j": True}}
    )
    assert node.rows(odd, NOW_MS) == []
    many = {f"m{n}": {"state": "ready", "requests": n} for n in range(500)}
    ((_, _, values),) = read(payload, node.rows(window(1, models=many), NOW_MS))
    assert len(values) == 256
    assert node.counters["left_out"] > 0


@given(
    st.lists(
        st.tuples(st.just(INT64), st.integers(-(2**63), 2**63 - 1)) | st.tuples(st.just(DOUBLE), st.floats())
        | st.tuples(st.just(BOOLEAN), st.booleans()) | st.tuples(st.just(STRING), st.text()),
        max_size=5,
    )
)  # fmt: skip
def test_protobufs_own_runtime_reads_what_is_written(payload, found):
    made = payload.FromString(encoded([Metric(f"m{n}", *pair, NOW_MS) for n, pair in enumerate(found)], NOW_MS, 255))
    assert (made.timestamp, made.seq) == (NOW_MS, 255)
    for metric, (datatype, wanted) in zip(made.metrics, found, strict=True):
        seen = value(metric)
        seen = seen - 2**64 if datatype == INT64 and seen >= 2**63 else seen
        assert repr(seen) == repr(wanted.encode("utf-8", "replace").decode() if datatype == STRING else wanted)
        assert (metric.datatype, metric.timestamp) == (datatype, NOW_MS)


@given(st.binary(max_size=200))
def test_a_command_of_any_bytes_is_read_or_left(payload, content):
    assert isinstance(wants_rebirth(content), bool)


def test_a_host_that_asks_for_a_rebirth_gets_everything_again(payload):
    node = EdgeNode("acme", "qeil")
    node.will(NOW_MS)
    node.birth(NOW_MS)
    node.told(state(), NOW_MS)
    command = payload(timestamp=1, seq=3)
    command.metrics.add(name=REBIRTH, datatype=BOOLEAN, boolean_value=True)
    kinds = [kind for kind, _, _ in read(payload, node.asked(command.SerializeToString(), NOW_MS))]
    assert kinds == ["NBIRTH", "DBIRTH/b1"]
    command.metrics[0].boolean_value = False
    assert node.asked(command.SerializeToString(), NOW_MS) == []


@pytest.mark.parametrize("name", ["", "a/b", "a+", "#", "a\n"])
def test_names_that_sparkplug_does_not_take_are_refused(name):
    with pytest.raises(BadInput):
        SparkplugBridge(MqttSettings(host="x"), "c", "acme", "g", name, lambda: 1.0)


@pytest.mark.broker
def test_boards_of_a_real_broker_are_seen_by_a_sparkplug_host_and_their_end_too(tmp_path, payload):
    broker = Broker(tmp_path)
    heard = defaultdict(list)
    host = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    host.on_message = lambda c, d, m: [heard[k].append((s, v)) for k, s, v in read(payload, [(m.topic, m.payload)])]
    ready = threading.Event()
    host.on_subscribe = lambda *_: ready.set()
    host.on_connect = lambda client, *_: client.subscribe("spBv1.0/#", 1)
    host.reconnect_delay_set(1, 1)
    host.connect("127.0.0.1", broker.port)
    host.loop_start()
    assert ready.wait(10)
    board = Board(tmp_path, broker.port, "b1")
    stop = threading.Event()
    mqtt = MqttSettings(host="127.0.0.1", port=broker.port)
    bridge = SparkplugBridge(mqtt, "bridge", "acme", "acme", "qeil", lambda: NOW_MS / 1000)
    thread = threading.Thread(target=bridge.run, args=(stop,))
    thread.start()
    until(lambda: heard["DBIRTH/b1"])
    board.window()
    until(lambda: "Mode" in heard["DBIRTH/b1"][-1][1])
    ready.clear()
    broker.kill()
    broker.start()
    until(lambda: bridge.link.counters["sessions"] >= 2)
    assert ready.wait(10)
    board.stop()
    until(lambda: heard["DDEATH/b1"])
    stop.set()
    thread.join(10)
    until(lambda: heard["NDEATH"])
    assert heard["NBIRTH"][0][0] == 0
    assert heard["NDEATH"][-1][1]["bdSeq"] > heard["NBIRTH"][0][1]["bdSeq"]
    host.disconnect()
    host.loop_stop()
    broker.stop()
