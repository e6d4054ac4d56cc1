"""Rows of telemetry are small on disk, come back as they were, and a damaged one harms no other."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.storage import packing
from agent.storage.outbox import recent_rows
from agent.storage.packing import DamagedRow, Packer, Stored
from tests.storage.spools import make, noise, waiting

ROW = {"models": {f"m{i}": {"state": "ready", "requests": i, "p50_ms": 1.5 * i} for i in range(9)}}


def raw(box, query):
    with box._spool._db as db:
        return db.execute(query).fetchall()


@given(base=st.text(max_size=300), row=st.dictionaries(st.text(max_size=9), st.text(max_size=99)))
def test_a_row_comes_back_whatever_it_is_packed_against(base, row):
    packer, text = Packer(base), json.dumps(row)
    packed = packer.pack(text)
    stored = Stored("tlm", 1, 0, text, None) if packed is None else Stored("tlm", 1, 0, packed, packer.stored)
    assert stored.document() == row


def test_rows_that_resemble_each_other_take_a_sixth(tmp_path):
    box = make(tmp_path)
    for i in range(60):
        box.append("tlm", {"ts": 1.7e9 + i, **ROW})
    box.flush()
    [(stored,)] = raw(box, "SELECT SUM(LENGTH(payload)) + (SELECT SUM(LENGTH(text)) FROM bases) FROM rows")
    assert stored < 60 * len(json.dumps(ROW)) / 6
    assert [r.payload for r in waiting(box)] == [{"ts": 1.7e9 + i, **ROW} for i in range(60)]
    assert [r.payload["ts"] for r in recent_rows(tmp_path / "outbox.db", 2)] == [1.7e9 + 58, 1.7e9 + 59]
    box.stop()


def test_events_are_stored_as_text(tmp_path):
    box = make(tmp_path)
    box.append("evt", ROW)
    box.flush()
    assert [json.loads(text) for (text,) in raw(box, "SELECT payload FROM rows")] == [ROW]
    box.stop()


def test_bases_follow_the_rows_and_go_with_them(tmp_path):
    box = make(tmp_path)
    for i in range(3 * packing.MAX_ROWS):
        box.append("tlm", {"i": i, **ROW})
    box.flush()
    assert raw(box, "SELECT COUNT(*) FROM bases") == [(3,)]
    assert [r.payload["i"] for r in waiting(box)] == list(range(3 * packing.MAX_ROWS))
    box.acknowledge(1, "tlm", 3 * packing.MAX_ROWS - 1)
    box.append("tlm", {"i": -1, **ROW})
    box.flush()
    assert raw(box, "SELECT COUNT(*) FROM bases") == [(1,)]
    assert [r.payload["i"] for r in waiting(box)] == [-1]
    box.stop()


def test_a_base_that_packs_badly_is_replaced_soon_but_not_by_every_row(tmp_path):
    box = make(tmp_path)
    for i in range(2 * packing.MIN_ROWS):
        box.append("tlm", {"x": noise(200, i)})
    box.flush()
    assert raw(box, "SELECT COUNT(*) FROM bases") == [(2,)]
    assert [r.payload["x"] for r in waiting(box)] == [noise(200, i) for i in range(2 * packing.MIN_ROWS)]
    box.stop()


def test_rows_of_an_earlier_start_are_read_against_their_own_base(tmp_path):
    for boot in (1, 2, 3):
        box = make(tmp_path, boot)
        box.append("tlm", {"boot": boot, **ROW})
        box.stop()
    box = make(tmp_path, 4)
    assert [r.payload["boot"] for r in waiting(box)] == [1, 2, 3]
    box.stop()


def test_a_damaged_row_is_told_and_the_others_are_delivered(tmp_path):
    box = make(tmp_path)
    for i in range(4):
        box.append("tlm", {"i": i, **ROW})
    box.flush()
    raw(box, "UPDATE rows SET payload = x'00ff00ff' WHERE seq = 1")
    raw(box, "UPDATE rows SET payload = '[]', base = NULL WHERE seq = 2")
    assert [r.payload["i"] for r in waiting(box)] == [0, 3]
    assert [r.payload["i"] for r in waiting(box)] == [0, 3]
    assert [r.payload["i"] for r in recent_rows(tmp_path / "outbox.db", 9)] == [0, 3]
    assert box.counters["read_errors"] == 2
    box.flush()
    told = [(g.payload["reason"], g.payload["from"], g.payload["to"]) for g in waiting(box, "gap")]
    assert told == [("damaged", 1, 1), ("damaged", 2, 2)]
    box.stop()


def test_a_row_whose_base_is_gone_is_damaged(tmp_path):
    box = make(tmp_path)
    box.append("tlm", ROW)
    box.flush()
    raw(box, "DELETE FROM bases")
    assert waiting(box) == []
    assert box.counters["read_errors"] == 1
    box.stop()


@pytest.mark.parametrize("payload", ["text", b"", b"x\x9c", 7])
def test_what_is_no_packed_row_is_a_damaged_one(payload):
    with pytest.raises(DamagedRow, match="row 3 of tlm, boot 1"):
        Stored("tlm", 1, 3, payload, Packer("base").stored).document()


def test_text_that_is_nested_without_end_is_a_damaged_row():
    with pytest.raises(DamagedRow, match="row 3 of evt, boot 1"):
        Stored("evt", 1, 3, "[" * 60_000, None).document()
