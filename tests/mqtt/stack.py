"""Outbox, publisher and link as the agent composes them, for tests over a real broker."""

from __future__ import annotations

import time

from agent.mqtt.link import Link
from agent.mqtt.publisher import Publisher
from agent.mqtt.topics import Topics
from agent.schema.settings import MqttSettings
from agent.service.clock import SystemClock
from agent.storage.outbox import Outbox


class Stack:
    """Started at once. request: what to do with commands; none are asked for without it."""

    def __init__(self, file, settings: MqttSettings, topics: Topics, boot: int, birth, request=None) -> None:
        clock = SystemClock()
        self.outbox = Outbox(file, boot, 1 << 24, 0.05, clock)
        self.publisher = Publisher(self.outbox, topics, settings, clock)
        self.link = Link(
            settings, topics, boot, clock, birth, self.publisher.on_message, self.publisher.on_published,
            self.publisher.on_connected, *([] if request is None else [request]),
        )  # fmt: skip
        self.outbox.start()
        self.link.start()
        self.publisher.start(self.link)

    def stop(self) -> None:
        self.publisher.stop()
        self.link.stop()
        self.outbox.stop()


def until(condition, timeout_s: float = 60.0):
    """What the condition gives once that is something."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"did not happen within {timeout_s:g} s")
