"""A recording's CSV: what is read of it, and one line about whatever is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.errors import ConfigError
from agent.evaluation.heat_recording import HeatRecording, parse_recording, read_recording
from tests.evaluation.heat_world import as_csv, recording

HEAD = "time_s,ambient_c,gpu_c,gpu_w\n"
ROWS = "".join(f"{i},25,{30 + i},{5 + i % 3}\n" for i in range(12))


def parsed(text: str, **options: object) -> HeatRecording:
    return parse_recording(text, "r.csv", **options)  # type: ignore[arg-type]


def refusal(text: str, **options: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parsed(text, **options)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_recording_comes_back_as_it_was_written(tmp_path):
    known = recording()
    (tmp_path / "r.csv").write_text(as_csv(known))

    read = read_recording(tmp_path / "r.csv")

    assert read.zones == known.zones
    assert read.temperature_c == pytest.approx(known.temperature_c, rel=1e-5)
    assert read.power_w == pytest.approx(known.power_w)
    assert read.fan == pytest.approx(known.fan)
    assert read.notes == ()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "r.csv:1: time_s: this column is missing"),
        ("time_s,gpu_w\n" + ROWS, "r.csv:1: no zone"),
        ("time_s,gpu_c,gpu_c\n", "r.csv:1: gpu_c: this column appears twice"),
        ("time_s,ambient_c,gpu_c,note\n" + ROWS, "gpu_w: what heats gpu is not recorded"),
        ("time_s,gpu_c,gpu_w\n1,30,5\n", "ambient_c: how warm the air was is unknown; add the column or --ambient 25"),
        (HEAD + "1,25,x,5\n", "r.csv:2: gpu_c: 'x' is not a temperature in °C from -90 to 200"),
        (HEAD + "1,25,nan,5\n", "r.csv:2: gpu_c: 'nan' is not a temperature"),
        (HEAD + "1,25,30,-1\n", "r.csv:2: gpu_w: '-1' is not a power in W"),
        (HEAD + "1,25,30,1_0\n", "r.csv:2: gpu_w: '1_0' is not a power in W"),
        (HEAD + "1,25,30,5\n1,25,30,5\n", "r.csv:3: time_s: 1 does not come after 1; times must rise"),
        (HEAD + "1,25,30\n", "r.csv:2: 3 cells, but the header names 4 columns"),
        (HEAD + "1,25,30,5\n", "1 whole rows; at least 10 are needed"),
        (HEAD + '1,25,30,"5\n', "r.csv:2: not valid CSV"),
        (HEAD + "1,25,30,\0\n", "r.csv:2: contains a NUL byte"),
        (HEAD.replace("\n", ",fan\n") + "1,25,30,5,40\n", "r.csv:2: fan: '40' is not a fan speed from 0 to 1"),
        ("time_s,ambient_c,gpu_c,cpu_c,soc_w\n", "soc_w: which zone it heats is unknown; say --heats soc=ZONE"),
        ("time_s," + ",".join(f"z{i}_c,z{i}_w" for i in range(9)) + "\n", "9 zones are more than 8"),
    ],
)
def test_what_is_wrong_is_said_with_its_line_and_column(text, why):
    assert why in refusal(text)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"zones": ["npu"]}, "npu_c: this column is missing (zones here: gpu)"),
        ({"heats": {"npu": "gpu"}}, "npu_w: this column is missing (--heats npu=gpu)"),
        ({"heats": {"gpu": "npu"}}, "npu_c: this column is missing (--heats gpu=npu)"),
        ({"heats": {"gpu": "none"}}, "gpu_w: what heats gpu is not recorded"),
    ],
)
def test_an_option_that_fits_no_column_is_refused(options, why):
    assert why in refusal(HEAD + ROWS, **options)


def test_power_of_another_name_heats_the_only_zone_and_several_powers_add_up():
    assert parsed(HEAD.replace("gpu_w", "vdd-in_w") + ROWS).power_w[0, 0] == 5.0
    head = "time_s,ambient_c,gpu_c,gpu_w,soc_w\n"
    rows = "".join(f"{i},25,{30 + i},5,2\n" for i in range(12))

    assert np.all(parsed(head + rows, heats={"soc": "gpu"}).power_w == 7.0)


def test_only_the_zones_asked_for_are_read():
    head = "time_s,ambient_c,gpu_c,cpu_c,gpu_w,cpu_w,mood\n"
    rows = "".join(f"{i},25,{30 + i},40,5,2,good\n" for i in range(12))

    read = parsed(head + rows, zones=["gpu"])

    assert read.zones == ("gpu",)
    assert read.power_w.shape == (1, 12)
    assert read.notes == ("columns not used: cpu_c, cpu_w, mood",)


def test_rows_with_a_gap_are_left_out_and_counted_and_blank_lines_are_nothing():
    read = parsed(HEAD + ROWS + "\n" + "50,25,,5\n60,25,31,5\n")

    assert read.time_s.size == 13
    assert read.notes == ("1 row with empty cells left out",)


def test_the_air_of_the_recording_goes_before_that_of_the_command():
    assert parsed(HEAD + ROWS, ambient_c=20.0).notes == ("ambient_c of the recording counts, not --ambient",)
    text = HEAD.replace(",ambient_c", "") + ROWS.replace(",25,", ",")
    assert np.all(parsed(text, ambient_c=20.0).ambient_c == 20.0)


def test_a_fan_that_never_changed_is_said_and_left_out():
    rows = "".join(f"{i},25,{30 + i},5,0.4\n" for i in range(12))

    read = parsed(HEAD.replace("\n", ",fan\n") + rows)

    assert read.fan is None
    assert "the fan ran at 40% throughout" in read.notes[0]


def test_files_that_are_no_recording_are_refused_unread(tmp_path):
    with pytest.raises(ConfigError, match="larger than"):
        read_recording(Path("/dev/zero"))
    with pytest.raises(ConfigError, match="cannot be read"):
        read_recording(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes("time_s,größe\n".encode("latin-1"))
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_recording(tmp_path / "latin.csv")


def test_more_rows_than_anybody_needs_are_refused(monkeypatch):
    monkeypatch.setattr("agent.evaluation.heat_recording.MAX_ROWS", 11)

    assert "more than 11 rows" in refusal(HEAD + ROWS)
