"""More commands at once than there is room for: none is lost, the broker is asked for them again."""

from __future__ import annotations

import pytest

from agent.mqtt.inbound import Inbound
from agent.service.remote import commands
from tests.mqtt.signed import signed
from tests.service.test_commands import TOPICS, World


@pytest.fixture
def world(tmp_path):
    made = World(tmp_path)
    yield made
    made.table.close()


def offer(world, payload: bytes) -> None:
    world.commands.on_request(Inbound(TOPICS.command("plan"), payload, None, None, world._acknowledge))


def test_what_finds_no_room_stays_with_the_broker_and_is_asked_for_once_there_is_room(world):
    for _ in range(commands.QUEUE + 6):
        offer(world, b"{}")
    assert world.commands.counters["dropped"] == 6
    assert world.acknowledged == 0
    for _ in range(commands.QUEUE - 1):
        world.commands.take_next(0.0)
    assert world.again == 0
    world.commands.take_next(0.0)
    assert world.acknowledged == commands.QUEUE
    assert world.again == 1
    world.commands.take_next(0.0)
    assert world.again == 1


def test_what_waits_is_bounded_by_its_size_too(world):
    half = b" " * (commands.QUEUE_BYTES // 2)
    for _ in range(3):
        offer(world, half)
    assert world.commands.counters["dropped"] == 1
    world.commands.take_next(0.0)
    offer(world, half)
    assert world.commands.counters["dropped"] == 1


def test_an_outage_of_the_broker_that_ends_meanwhile_is_harmless(world):
    for _ in range(commands.QUEUE):
        offer(world, b"{}")
    offer(world, signed(world.text()))
    for _ in range(commands.QUEUE):
        world.commands.take_next(0.0)
    text = world.text()
    for _ in range(2):  # sent again by the broker of its own accord, and because it was asked
        offer(world, signed(text))
        world.commands.take_next(0.0)
    world.work()
    assert world.ran == ["plan"]
    assert world.commands.counters["repeats"] == 1
