"""A promise is a future that tells of its cancellation, once, and of nothing else."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from concurrent.futures import wait as wait_all

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


def test_it_has_all_that_a_future_of_the_library_begins_with():
    plain, promise = vars(Future()), vars(Promise(print))

    assert {name: value for name, value in promise.items() if name in plain and name != "_condition"} == {
        name: value for name, value in plain.items() if name != "_condition"
    }


def test_threads_that_wait_for_it_are_woken_by_its_result():
    promise: Promise[int] = Promise(print)
    waiting = threading.Barrier(3)

    def wait() -> int:
        waiting.wait(60.0)
        return promise.result(60.0)

    with ThreadPoolExecutor(2) as pool:
        answers = [pool.submit(wait) for _ in range(2)]
        waiting.wait(60.0)
        promise.set_result(3)
        assert [answer.result(60.0) for answer in answers] == [3, 3]


def test_who_waits_no_longer_than_allowed_is_told_so_and_may_wait_again():
    promise: Promise[int] = Promise(print)

    with pytest.raises(FutureTimeout):
        promise.result(0.001)
    promise.set_exception(ValueError("no"))
    assert isinstance(promise.exception(60.0), ValueError)
    assert wait_all([promise], 60.0).done == {promise}


def test_whoever_waits_for_it_by_any_means_is_woken_by_its_result():
    promise: Promise[int] = Promise(print)
    threads = [
        threading.Thread(target=lambda: heard.append(promise.result(60))),
        threading.Thread(target=lambda: heard.append(len(wait_all([promise], 60).done))),
    ]
    heard: list[int] = []
    for thread in threads:
        thread.start()
    promise.set_result(1)
    for thread in threads:
        thread.join(60)

    assert heard == [1, 1]


@pytest.mark.parametrize("begun", [False, True])
def test_a_result_is_given_once_and_told_to_its_callbacks_once(begun):
    promise: Promise[int] = Promise(print)
    told: list[int] = []
    promise.add_done_callback(lambda done: told.append(done.result()))
    if begun:
        promise.set_running_or_notify_cancel()
    promise.set_result(1)

    with pytest.raises(InvalidStateError):
        promise.set_result(2)
    assert (promise.result(), told) == (1, [1])


def test_one_that_was_cancelled_takes_no_result():
    promise: Promise[int] = Promise(print)
    promise.cancel()

    with pytest.raises(InvalidStateError):
        promise.set_result(2)


def _asked(future: Future[int]) -> tuple[object, ...]:
    """What a future says, asked in every way that need not wait."""
    said: list[object] = [future.done(), future.cancelled(), future.running()]
    for question in (future.result, future.exception):
        try:
            answer = question(0)
            said.append(repr(answer))
        except (FutureTimeout, CancelledError, ValueError) as error:  # noqa: PERF203 - each may raise
            said.append(type(error))
    return tuple(said)


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("end", ["open", "result", "nothing", "error", "cancelled"])
def test_it_says_in_every_state_what_a_future_of_the_library_says(begun, end):
    said = []
    for future in (Future[int](), Promise[int](print)):
        if begun:
            future.set_running_or_notify_cancel()
        if end == "result":
            future.set_result(3)
        elif end == "nothing":
            future.set_result(None)
        elif end == "error":
            future.set_exception(ValueError("no"))
        elif end == "cancelled":
            future.cancel()
        said.append(_asked(future))
    assert said[0] == said[1]


def test_its_callbacks_are_called_without_its_lock_also_where_it_had_begun():
    promise: Promise[int] = Promise(print)
    promise.set_running_or_notify_cancel()
    asked: list[bool] = []

    def ask_elsewhere(_: Future[int]) -> None:
        other = threading.Thread(target=lambda: asked.append(promise.cancel()), daemon=True)
        other.start()
        other.join(10.0)

    promise.add_done_callback(ask_elsewhere)
    promise.set_result(1)
    assert asked == [False]
