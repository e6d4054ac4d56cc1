from __future__ import annotations

import os
import socket
import threading
from concurrent.futures import Future
from dataclasses import replace

import pytest

from agent.backends.decoder_lane import DecoderOrder, DecoderReport, LaneUsage
from agent.errors import DeadlineExceeded, InferenceFailed, LaneDied, ModelLoadFailed, Overloaded
from agent.ports import LaneVitals
from agent.schema.text import TextPiece, TextRequest
from agent.service.decoding.decoder_keeper import UNMENDED_S, DecoderHome, DecoderKeeper
from agent.service.decoding.decoder_spare import PATIENCE_S, SPARE_PAUSE_S
from agent.storage import share, yaml_files
from tests.fakes import FakeClock

LIMITS = yaml_files.load_policy(share.find_policy("balanced")).recovery
ORDER = DecoderOrder("folder", None, 1, 4, 64, 0, 16)
REPORT = DecoderReport(("CPU",), 0.1, 1000)
ASKED = TextRequest("m", prompt="x", samples=2, max_tokens=4)


class FakeDecoder:
    """A lane that does what the test says."""

    def __init__(self, world):
        self.world, self.jobs, self.cancelled, self.permits = world, {}, [], []
        self.dead, self.stopped, self.loading, self.prepared = False, False, None, None
        self.busy_since_s, self.waited_s, self.met = None, 0.0, None
        world.lanes.append(self)

    def start(self, on_death):
        if self.world.refuse_start:
            raise LaneDied("no process")
        self.on_death = on_death

    def load(self, order):
        self.loading, self.order = Future(), order
        return self.loading

    def prepare(self, order):
        self.prepared = order

    def alive(self):
        return not self.dead

    def vitals(self):
        return LaneVitals(self.world.clock.monotonic_s(), 1, self.busy_since_s, waited_s=self.waited_s)

    def renew_permit(self, until_s):
        self.permits.append(until_s)

    def pid(self):
        return 7

    def set_pace(self, share):
        self.pace = share

    def write(self, job, on_event):
        if self.dead:
            raise LaneDied("gone")
        number = len(self.jobs) + 1
        self.jobs[number] = (job, on_event)
        return number

    def meet(self, fd):
        if self.dead:
            raise LaneDied("gone")
        self.hang_up()
        self.met = socket.socket(fileno=os.dup(fd))

    def hang_up(self):
        if self.met is not None:
            self.met.close()

    def cancel(self, number):
        self.cancelled.append(number)

    def kill(self, cause):
        self.dead = True
        for number, (_, on_event) in self.jobs.items():
            on_event(number, LaneDied(cause))
        self.on_death(cause)

    def stop(self, timeout_s):
        self.stopped = True

    def says(self, number, *pieces, done=False, prompt=False):
        on_event = self.jobs[number][1]
        for sample, token, end in pieces:
            on_event(number, TextPiece(sample, token, f"t{token}", end, prompt=prompt))
        if done:
            on_event(number, LaneUsage(3, 0, 3, 4, 2.0, 0.1, 0.2))


class World:
    def __init__(self, standby="cold", max_streams=3):
        self.clock, self.lanes, self.refuse_start, self.finished = FakeClock(), [], False, []
        home = DecoderHome("m", "cpu", ORDER, max_streams, 2.0, standby)
        self.keeper = DecoderKeeper(
            home, lambda: FakeDecoder(self), self.clock, lambda s, r: self.finished.append((s, r))
        )
        self.keeper.start(self.clock.monotonic_s())

    def tick(self, advance_s=0.1, permit=True):
        self.clock.advance(advance_s)
        now_s = self.clock.monotonic_s()
        self.keeper.tick(now_s + 1.0 if permit else 0.0, LIMITS, now_s)

    def loaded(self):
        self.lane.loading.set_result(REPORT)
        self.tick()
        return self

    @property
    def lane(self):
        return self.keeper.lane

    def write(self, request=ASKED, deadline_s=1e9):
        events = []
        return self.keeper.write(request, events.append, deadline_s), events


def test_requests_wait_for_the_model_and_are_one_job_then():
    world = World()
    _, events = world.write()
    assert (world.keeper.state, world.lane.jobs) == ("loading", {})
    world.loaded()
    assert world.keeper.state == "ready"
    assert world.lane.jobs[1][0]["rows"] == (0, 1)
    world.lane.says(1, (0, 5, None), (1, 6, None), (0, 7, "stop"), (1, 8, "length"), done=True)
    assert [piece.token for piece in events] == [5, 6, 7, 8]
    ((stream, report),) = world.finished
    assert (stream.tokens, report, world.keeper.streams()) == (4, REPORT, 0)


def test_after_a_death_each_text_goes_on_from_its_own_tokens():
    world = World().loaded()
    _, events = world.write()
    first = world.lane
    first.says(1, (0, 5, None), (1, 6, None), (1, 7, "stop"))
    first.kill("killed")
    world.tick()
    assert world.keeper.state == "recovering"
    world.tick(LIMITS.restart_backoff_s + 0.1)
    assert world.lane is not first
    world.loaded()
    ((job, _),) = world.lane.jobs.values()
    assert (job["rows"], job["written"]) == ((0,), [5])
    world.lane.says(1, (0, 9, "length"), done=True)
    assert [piece.token for piece in events] == [5, 6, 7, 9]
    assert (world.finished[0][0].replays, world.keeper.counters["replayed"]) == (1, 1)


def test_a_request_whose_texts_were_all_sent_is_finished_when_the_lane_dies_before_its_account():
    world = World().loaded()
    _, events = world.write()
    world.lane.says(1, (0, 5, "stop"), (1, 6, "stop"))
    world.lane.kill("killed")
    world.tick()
    ((stream, report),) = world.finished
    assert (stream.usages, report, world.keeper.streams()) == ([], REPORT, 0)
    assert len(events) == 2


def test_a_text_that_had_not_begun_is_begun_again_beside_one_that_had():
    world = World().loaded()
    world.write()
    world.lane.says(1, (1, 6, None))
    world.lane.kill("killed")
    world.tick()
    world.tick(1.0)
    world.loaded()
    assert [(job["rows"], job["written"]) for job, _ in world.lane.jobs.values()] == [((0,), []), ((1,), [6])]


def test_an_echoed_prompt_is_sent_once_though_its_lane_dies_in_the_middle():
    world = World().loaded()
    _, events = world.write(TextRequest("m", prompt="x", max_tokens=2, echo=True))
    world.lane.says(1, (0, 5, None), prompt=True)
    world.lane.kill("killed")
    world.tick()
    world.tick(1.0)
    world.loaded()
    assert world.lane.jobs[1][0]["echo"] is True
    world.lane.says(1, (0, 5, None), (0, 6, None), prompt=True)
    world.lane.says(1, (0, 7, None), (0, 8, "length"), done=True)
    assert [piece.token for piece in events] == [5, 6, 7, 8]
    assert world.finished[0][0].tokens == world.keeper.counters["tokens"] == 2


def test_a_process_in_standby_takes_over_at_once():
    world = World(standby="warm").loaded()
    assert len(world.lanes) == 2
    first, spare = world.lanes
    assert (spare.loading, spare.prepared) == (None, ORDER)
    first.kill("killed")
    world.tick()
    assert world.lane is spare
    world.loaded()
    assert world.keeper.state == "ready"
    world.tick(SPARE_PAUSE_S)
    assert len(world.lanes) == 3
    assert spare.permits[-1] == world.clock.monotonic_s() + 1.0


def test_the_next_process_in_standby_waits_until_the_texts_go_on():
    world = World(standby="warm").loaded()
    for _ in range(2):
        world.write(replace(ASKED, samples=1))
    first, spare = world.lanes
    first.kill("killed")
    world.tick(SPARE_PAUSE_S)
    world.loaded()
    world.tick(SPARE_PAUSE_S)
    spare.says(1, (0, 7, None))
    world.tick()
    assert world.lanes == [first, spare]  # the other text still waits
    spare.says(2, (0, 8, None))
    world.tick()
    assert len(world.lanes) == 3


def test_a_loss_calls_for_a_tick_at_once():
    world, calls = World(standby="warm").loaded(), []
    world.keeper.wake = lambda: calls.append(1)
    world.lanes[1].kill("the one in standby")
    assert calls == []
    world.lane.kill("killed")
    assert calls == [1]


def test_the_next_process_in_standby_does_not_wait_for_ever():
    world = World(standby="warm").loaded()
    world.write(replace(ASKED, samples=1))
    world.lane.kill("killed")
    world.tick(SPARE_PAUSE_S)
    world.loaded()
    world.tick(PATIENCE_S - 1.0)
    assert len(world.lanes) == 2
    world.tick(1.0)
    assert len(world.lanes) == 3


def test_a_process_in_standby_that_dies_while_it_takes_over_is_missed():
    world = World(standby="all").loaded()
    spare = world.lanes[1]
    spare.loading.set_result(REPORT)
    told, take = threading.Thread(target=lambda: spare.kill("killed too")), world.keeper._spare.take

    def taken():
        world.keeper._spare.take, found = take, take()
        told.start()
        told.join(0.05)  # as long only where the news waits until the lanes have changed
        return found

    world.keeper._spare.take = taken
    world.lane.kill("killed")
    world.tick()
    told.join()
    world.tick(SPARE_PAUSE_S)
    world.tick(SPARE_PAUSE_S)
    assert world.lane not in {None, spare}


def test_a_process_in_standby_may_hold_the_model_already():
    world = World(standby="all").loaded()
    spare = world.lanes[1]
    spare.loading.set_result(REPORT)
    world.lane.kill("killed")
    world.tick()
    assert (world.lane, world.keeper.state) == (spare, "ready")


def test_a_request_lost_too_often_is_refused():
    world = World().loaded()
    _, events = world.write()
    for _ in range(LIMITS.max_replays + 1):
        world.lane.kill("killed")
        world.tick()
        world.tick(LIMITS.max_backoff_s)
        if world.lane.loading is not None and not world.lane.dead:
            world.loaded()
    assert isinstance(events[-1], Overloaded)
    assert world.keeper.streams() == 0


def test_a_request_that_is_given_up_ends_on_the_lane_and_says_nothing_more():
    world = World().loaded()
    stream, events = world.write()
    world.keeper.cancel(stream)
    assert world.lane.cancelled == [1]
    world.lane.says(1, (0, 5, None), done=True)
    assert (events, world.finished) == ([], [])


def test_a_deadline_ends_a_request_with_what_was_sent():
    world = World().loaded()
    _, events = world.write(deadline_s=world.clock.monotonic_s() + 5.0)
    world.lane.says(1, (0, 5, None))
    world.tick(4.0)
    assert len(events) == 1
    world.tick(2.0)
    assert isinstance(events[-1], DeadlineExceeded)
    assert "1 tokens were sent" in events[-1].message
    assert world.lane.cancelled == [1]


def test_a_refusal_of_the_process_reaches_the_client():
    world = World().loaded()
    _, events = world.write()
    world.lane.jobs[1][1](1, InferenceFailed("broken"))
    assert isinstance(events[-1], InferenceFailed)
    assert world.keeper.counters["failed"] == 1


def test_the_number_of_requests_is_bounded():
    world = World().loaded()
    for _ in range(3):
        world.write()
    with pytest.raises(Overloaded, match="3 requests"):
        world.write()


def refused(world):
    with pytest.raises(Overloaded) as caught:
        world.write()
    return caught.value.retry_after_s


def test_whoever_is_one_too_many_comes_back_after_what_a_text_takes():
    world = World().loaded()
    for seconds in (40.0, 20.0):
        world.write(replace(ASKED, samples=1))
        world.clock.advance(seconds)
        world.lane.says(len(world.lane.jobs), (0, 5, "stop"), done=True)
    for _ in range(3):
        world.write()
    assert refused(world) == pytest.approx(38.0)  # the newest counts a tenth


def test_while_the_process_comes_back_a_full_queue_waits_for_that_too():
    world = World()
    world.tick(7.0)
    world.loaded()  # 7.2 s after its start
    world.write(replace(ASKED, samples=1))
    world.clock.advance(4.0)
    world.lane.says(1, (0, 5, "stop"), done=True)
    for _ in range(3):
        world.write()
    world.lane.kill("killed")
    assert refused(world) == pytest.approx(7.1 + 4.0)
    world.tick()
    assert refused(world) == pytest.approx(LIMITS.restart_backoff_s + 7.1 + 4.0)


def test_a_model_that_dies_again_and_again_is_back_after_its_pause_and_what_its_start_took():
    world = World()
    world.tick(3.0)
    world.loaded()
    while world.keeper.state != "unavailable":
        world.lane.kill("killed")
        while not world.lane.alive() and world.keeper.state != "unavailable":
            world.tick()
    world.clock.advance(2.0)
    assert refused(world) == pytest.approx(LIMITS.breaker_open_s - 2.0 + 3.1)


def test_a_model_that_cannot_be_loaded_says_why_and_is_not_tried_again():
    world = World()
    _, events = world.write()
    world.lane.loading.set_exception(ModelLoadFailed("no such graph"))
    assert isinstance(events[-1], Overloaded)
    assert "no such graph" in events[-1].message
    assert world.keeper.state == "unavailable"
    assert refused(world) == UNMENDED_S
    world.lane.kill("killed")
    world.tick()
    world.tick(100.0)
    assert len(world.lanes) == 1


def test_no_request_waits_with_a_model_that_dies_again_and_again_before_it_is_ready():
    world = World()
    for _ in range(2):
        world.lanes[-1].kill("no module named jinja2")
        world.tick()
        world.tick(2.0)

    with pytest.raises(Overloaded, match="no module named jinja2"):
        world.keeper.write(ASKED, print, world.clock.monotonic_s() + 60)


def test_a_step_that_does_not_end_costs_the_process():
    world = World().loaded()
    world.lane.busy_since_s = world.clock.monotonic_s()
    world.tick(LIMITS.hang_factor * 2.0 - 1.0)
    assert world.lane.alive()
    world.tick(2.0)
    assert world.lane.dead


def test_a_process_that_waits_for_a_core_does_not_hang():
    world = World().loaded()
    deadline_s = LIMITS.hang_factor * 2.0
    world.lane.waited_s = 5.0
    world.tick(0.1)
    world.lane.busy_since_s = world.clock.monotonic_s()
    world.tick(0.1)
    world.lane.waited_s = 5.0 + deadline_s
    world.tick(1.5 * deadline_s)
    assert world.lane.alive()
    world.tick(deadline_s)
    assert world.lane.dead


def test_heat_slows_texts_or_withholds_the_permit():
    world = World().loaded()
    assert world.lane.pace == 1.0
    now_s = world.clock.monotonic_s()
    world.keeper.tick(now_s + 1.0, LIMITS, now_s, 0.5)
    assert world.lane.pace == 0.5
    world.tick(permit=False)
    assert world.lane.permits[-1] == 0.0


def test_a_process_that_cannot_be_started_is_tried_again():
    world = World()
    world.lane.kill("killed")
    world.refuse_start = True
    world.tick()
    world.tick(1.0)
    assert len(world.lanes) == 2
    world.refuse_start = False
    world.tick()
    world.tick(LIMITS.max_backoff_s)
    world.loaded()
    assert world.keeper.state == "ready"


def test_the_last_act_answers_everything_and_ends_the_processes():
    world = World(standby="warm").loaded()
    _, events = world.write()
    world.keeper.fail_all(Overloaded("shutting down"))
    world.keeper.stop(1.0)
    assert isinstance(events[-1], Overloaded)
    assert [lane.stopped for lane in world.lanes] == [True, True]
