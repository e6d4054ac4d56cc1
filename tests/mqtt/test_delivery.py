"""Which rows go next."""

from __future__ import annotations

import itertools
import random

from hypothesis import given, settings
from hypothesis import strategies as st

from agent.mqtt.delivery import WINDOW_ROWS, Delivery
from agent.ports import OutboxRow


class Rows:
    """A spool in memory."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int, int], OutboxRow] = {}
        self.next: dict[str, int] = {}

    def add(self, count, cls="tlm", boot=1):
        for _ in range(count):
            seq = self.next.get(cls, 0)
            self.rows[cls, boot, seq] = OutboxRow(boot, cls, seq, {})
            self.next[cls] = seq + 1

    def rows_after(self, cls, after, limit):
        keys = sorted(k for k in self.rows if k[0] == cls and k[1:] > (after or (-1, -1)))
        return [self.rows[k] for k in keys[:limit]]


def delivery(rows, resend_s=30.0):
    return Delivery(rows, resend_s, 0.0, random.Random(1))


def send(made, now_s):
    rows = made.next_rows(now_s)
    made.sent(rows, now_s)
    return [r.seq for r in rows]


def test_events_go_before_gaps_before_telemetry_and_each_row_once():
    rows = Rows()
    for cls in ("tlm", "gap", "evt"):
        rows.add(2, cls)
    made = delivery(rows)
    first = made.next_rows(0.0)
    assert [(r.cls, r.seq) for r in first] == [("evt", 0), ("evt", 1), ("gap", 0), ("gap", 1), ("tlm", 0), ("tlm", 1)]
    made.sent(first, 0.0)
    assert made.next_rows(1.0) == []


def test_a_class_has_at_most_a_window_of_rows_under_way_and_does_not_block_another():
    rows = Rows()
    rows.add(1000)
    made = delivery(rows)
    assert send(made, 0.0) == list(range(WINDOW_ROWS))
    assert send(made, 1.0) == []
    rows.add(1, "evt")
    assert [r.cls for r in made.next_rows(1.0)] == ["evt"]
    made.acknowledged(1, "tlm", 9, [(20, 29)])
    assert send(made, 2.0)[1:] == list(range(WINDOW_ROWS, WINDOW_ROWS + 20))


def test_rows_that_were_not_sent_after_all_come_again():
    rows = Rows()
    rows.add(3)
    made = delivery(rows)
    assert made.next_rows(0.0) == made.next_rows(0.0)


def test_overdue_rows_are_swept_up_while_new_ones_go_first():
    rows = Rows()
    rows.add(2)
    made = delivery(rows)
    send(made, 0.0)
    rows.add(1)
    assert send(made, 100.0) == [2]
    assert send(made, 100.0) == [0, 1]
    assert made.resent == 2


def test_a_sweep_leaves_room_for_new_rows():
    rows = Rows()
    rows.add(WINDOW_ROWS)
    made = delivery(rows)
    send(made, 0.0)
    assert len(send(made, 100.0)) == WINDOW_ROWS // 2
    assert send(made, 100.0) == []
    rows.add(3)
    assert send(made, 100.0) == [WINDOW_ROWS, WINDOW_ROWS + 1, WINDOW_ROWS + 2]


def test_without_any_answer_sweeps_get_rarer_and_an_answer_makes_them_frequent_again():
    rows = Rows()
    rows.add(1)
    made = delivery(rows)
    times = [t for t in range(4000) if send(made, float(t))]
    assert made.silent
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[-1] > 10 * gaps[0]
    made.acknowledged(1, "tlm", None, [])
    assert not made.silent


def test_a_long_backlog_that_nobody_acknowledges_is_sent_once_and_new_rows_do_not_wait_behind_it():
    rows = Rows()
    rows.add(600)
    made = delivery(rows)
    seen: list[int] = []
    for t in range(130):
        seen += send(made, float(t))
    assert set(range(600)) <= set(seen)
    rows.add(1)
    assert 600 in [seq for t in range(130, 175) for seq in send(made, float(t))]


def test_a_sweep_passes_over_what_is_under_way():
    rows = Rows()
    rows.add(1)
    made = delivery(rows)
    send(made, 0.0)
    rows.add(3)
    send(made, 39.5)
    assert send(made, 40.0) == [0]
    assert send(made, 41.0) == []


def test_a_skipped_row_is_not_offered_again():
    rows = Rows()
    rows.add(2)
    made = delivery(rows)
    made.skipped(made.next_rows(0.0)[0])
    assert [r.seq for r in made.next_rows(0.0)] == [1]


def test_after_a_reconnect_everything_goes_again():
    rows = Rows()
    rows.add(3)
    made = delivery(rows)
    send(made, 0.0)
    made.reconnected()
    assert send(made, 1.0) == [0, 1, 2]


def test_rows_of_earlier_boots_go_first():
    rows = Rows()
    rows.add(1, boot=2)
    rows.rows["tlm", 1, 9] = OutboxRow(1, "tlm", 9, {})
    assert [r.boot for r in delivery(rows).next_rows(0.0)] == [1, 2]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("add"), st.integers(1, 300)),
            st.tuples(st.just("send"), st.floats(0, 1)),
            st.tuples(st.just("wait"), st.integers(1, 200)),
            st.tuples(st.just("ack"), st.floats(0, 1)),
            st.tuples(st.just("reconnect"), st.just(0)),
        ),
        max_size=30,
    )
)
def test_whatever_happens_every_row_is_sent_in_the_end_and_the_window_holds(steps):
    rows, now_s, sent = Rows(), 0.0, set()
    made = delivery(rows)
    for name, value in steps:
        if name == "add":
            rows.add(value)
        elif name == "wait":
            now_s += value
        elif name == "reconnect":
            made.reconnected()
        elif name == "send":
            offered = made.next_rows(now_s)
            taken = offered[: int(len(offered) * value)]
            made.sent(taken, now_s)
            sent |= {r.seq for r in taken}
        elif name == "ack":
            last = int(rows.next.get("tlm", 0) * value)
            for key in [k for k in rows.rows if k[2] <= last and k[2] in sent]:
                made.acknowledged(1, "tlm", None, [(key[2], key[2])])
                del rows.rows[key]
        assert all(len(u) <= WINDOW_ROWS for u in made._under_way.values())
    left = {k[2] for k in rows.rows}
    again: set[int] = set()
    for _ in range(200):
        now_s += 100.0
        again |= set(send(made, now_s))
        if left <= again:
            break
    assert left <= again
