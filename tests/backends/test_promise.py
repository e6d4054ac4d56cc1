"""A promise is a future that tells of its cancellation, once, and of nothing else."""

from __future__ import annotations

import asyncio

import pytest

from agent.backends.promise import Promise


def test_who_cancels_it_is_told_once_with_the_key():
    told: list[object] = []
    promise: Promise[int] = Promise(told.append, 7)

    assert promise.cancel()
    assert promise.cancel()
    assert told == [7]
    assert promise.cancelled()


@pytest.mark.parametrize("begun", [False, True])
def test_one_that_is_complete_or_begun_is_not_cancelled(begun):
    told: list[object] = []
    promise: Promise[int] = Promise(told.append, 7)
    if begun:
        promise.set_running_or_notify_cancel()
    else:
        promise.set_result(1)

    assert not promise.cancel()
    assert told == []


def test_an_event_loop_waits_for_it_as_for_any_future():
    async def ask() -> list[object]:
        told: list[object] = []
        done: Promise[int] = Promise(told.append, 1)
        given_up: Promise[int] = Promise(told.append, 2)
        done.set_result(5)
        assert await asyncio.wrap_future(done) == 5
        task = asyncio.ensure_future(asyncio.wrap_future(given_up))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        return told

    assert asyncio.run(ask()) == [2]
