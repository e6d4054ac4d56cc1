from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from agent.errors import PlacementError
from agent.llm.sizes import DecoderSizes
from agent.schema.settings import DecoderOptions
from agent.service.decoding.decoder_room import forecast_bytes, make_room

SIZES = DecoderSizes(
    Path("m"), "m", 30, 3, 64, 49152, 8192, {"exact": "m.onnx"}, "exact", frozenset({0}), 150_000_000, True
)
NONE = DecoderOptions(prefix_cache_bytes=0)


def test_all_rows_of_full_length_are_forecast():
    assert SIZES.kv_bytes_per_token == 46_080
    more = forecast_bytes(SIZES, 16, 4096, 0) - forecast_bytes(SIZES, 8, 4096, 0)
    assert more == pytest.approx(8 * 4096 * 46_080, rel=0.01)
    assert forecast_bytes(SIZES, 1, 256, 7) - forecast_bytes(SIZES, 1, 256, 0) == 7
    assert forecast_bytes(SIZES, 1, 256, 0, "all") > forecast_bytes(SIZES, 1, 256, 0, "warm") + 150e6


def test_where_memory_is_ample_rows_and_context_are_the_usual_ones():
    room = make_room(SIZES, NONE, 16e9)
    assert (room.rows, room.context, room.note) == (16, 4096, None)
    assert room.bytes_ < 16e9


@pytest.mark.parametrize("free_bytes", [0.5e9, 0.8e9, 1.5e9, 3e9])
def test_what_is_left_open_shrinks_until_it_fits_and_says_so(free_bytes):
    room = make_room(SIZES, NONE, free_bytes)
    assert room.bytes_ <= free_bytes
    assert "instead of 16 of 4096" in room.note
    assert room.context == 4096 or room.rows == 1


@pytest.mark.parametrize(
    ("options", "free_bytes", "says"),
    [
        ({"rows": 16, "context_tokens": 8192}, 2e9, r"\d texts of 8192 tokens would fit"),
        ({"rows": 4, "context_tokens": 8192}, 0.6e9, r"one text of \d+ tokens would fit"),
        ({}, 0.2e9, "even one text of 256 tokens needs"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(options, free_bytes, says):
    with pytest.raises(PlacementError, match=says):
        make_room(SIZES, DecoderOptions(prefix_cache_bytes=0, **options), free_bytes)


SMALL = dataclasses.replace(
    SIZES, graphs={"exact": "m.onnx", "exact-kv8": "k.onnx"}, cache_item_bytes={"exact-kv8": 1},
    quality={"exact-kv8": 0.004},
)  # fmt: skip


def test_a_mode_with_a_smaller_cache_takes_a_quarter_and_is_named_where_only_it_fits():
    small = forecast_bytes(SMALL, 16, 4096, 0, mode="exact-kv8") - forecast_bytes(SMALL, 8, 4096, 0, mode="exact-kv8")
    assert small == pytest.approx(8 * 4096 * 46_080 / 4, rel=0.02)
    asked = {"prefix_cache_bytes": 0, "rows": 16, "context_tokens": 4096}
    with pytest.raises(PlacementError, match=r"in the mode exact-kv8 they would fit, 0\.004 nats from exact"):
        make_room(SMALL, DecoderOptions(**asked), 1.5e9)
    assert make_room(SMALL, DecoderOptions(**asked, mode="exact-kv8"), 1.5e9).rows == 16


def test_a_context_beyond_the_models_own_ends_there():
    room = make_room(SIZES, DecoderOptions(context_tokens=20_000), 64e9)
    assert room.context == 8192
    assert "ends at 8192" in room.note
