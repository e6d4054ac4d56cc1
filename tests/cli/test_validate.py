"""`qeil validate`: refuses what is not a table in one line, and says so when nothing was compared."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.validate import validate_command
from agent.errors import ConfigError

HEAD = "row_id,tier,board,device,model,task,latency_ms,batch,power_w,power_scope\n"
GOOD = HEAD + "1,B,raspberry-pi-5,cpu,resnet50,vision,100,1,9,AC wall\n2,C,orin-nx-16gb,GPU,yolov8n,vision,3,1,,\n"


def run(path: Path, *options: str) -> str:
    result = CliRunner().invoke(validate_command, [str(path), *options], catch_exceptions=False)
    return result.output


def refusal(path: Path, *options: str) -> str:
    with pytest.raises(ConfigError) as caught:
        run(path, *options)
    assert "\n" not in caught.value.message
    return caught.value.message


def table(folder: Path, text: str) -> Path:
    path = folder / "rows.csv"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize(
    ("cells", "why"),
    [
        ("1,B,rpi5,cpu,resnet50,vision,1_000,1,,", ":2: latency_ms: '1_000' is not a number"),
        ("1,B,rpi5,cpu,resnet50,vision,١٢,1,,", ":2: latency_ms: '١٢' is not a number"),
        ("1,B,rpi5,cpu,resnet50,vision,inf,1,,", ":2: latency_ms: 'inf' is not a number"),
        (
            "1,B,rpi5,cpu,resnet50,vision,10,1e9,,",
            ":2: batch: 1e9 is out of range; it must be above 0 and at most 65536",
        ),
        ("1,B,rpi5,cpu,resnet50,vision,10,1,1e9,", ":2: power_w: 1e9 is out of range"),
        ("1,B,rp\0i5,cpu,resnet50,vision,10,1,,", ":2: contains a NUL byte"),
        ("1,B,rp\x1b[2Ji5,cpu,resnet50,vision,10,1,,", ":2: board: holds control characters"),
    ],
)
def test_a_bad_cell_is_named_by_line_and_column(tmp_path, cells, why):
    assert why in refusal(table(tmp_path, HEAD + cells + "\n"))


def test_a_device_without_end_is_refused_without_reading_it_all():
    assert "too large for a table" in refusal(Path("/dev/zero"))


@pytest.mark.parametrize("tier", ["Z", "A,Z", ""])
def test_a_tier_that_no_row_has_is_refused(tmp_path, tier):
    message = refusal(table(tmp_path, GOOD), "--tier", tier)
    assert "no row has tier" in message
    assert message.endswith("its tiers are B, C")


def test_a_table_of_which_nothing_is_known_fails_after_saying_why(tmp_path):
    path = table(tmp_path, HEAD + "1,B,toaster,cpu,resnet50,vision,10,1,,\n")
    result = CliRunner().invoke(validate_command, [str(path)])
    assert isinstance(result.exception, ConfigError)
    assert "none of its rows (1) can be predicted" in result.exception.message
    assert "board 'toaster' is not known" in result.output
    assert "By board" not in result.output


def test_every_row_has_units_and_its_operating_point(tmp_path):
    path = table(tmp_path, GOOD)
    printed = run(path, "--rows")
    assert " ms ±" in printed
    assert " W ±" in printed
    details = json.loads(run(path, "--json"))["rows_detail"]
    assert [item["unit"] for item in details] == ["ms", "W", "ms"]
    assert details[2]["mapped_board"] == "Jetson Orin NX 16GB"
    assert details[2]["operating_point"] == "8 units × 918 MHz, memory 3199 MHz"


def test_a_power_mode_that_the_board_has_not_is_counted_and_named(tmp_path):
    head = HEAD.strip() + ",power_mode,clocks\n"
    stem = "B,orin-nx-16gb,GPU,yolov8n,vision,3,1,,,"
    modes = ("20W", "20W", "15W", "", "MAXN", "default/not stated", "MAXN_SUPER")
    rows = "".join(f"{i},{stem}{mode},\n" for i, mode in enumerate(modes)) + f"9,{stem}20W,GPU 612 MHz\n"
    path = table(tmp_path, head + rows)

    assert "‼ 2 rows (0, 1): power mode '20W' of Jetson Orin NX 16GB is not known, its full clocks" in run(path)
    found = json.loads(run(path, "--json"))["unknown_power_modes"]
    assert [item["row_id"] for item in found] == ["0", "1"]
    assert found[0] == {"row_id": "0", "board": "Jetson Orin NX 16GB", "power_mode": "20W"}


def test_of_many_power_modes_that_are_not_known_the_rest_is_counted(tmp_path):
    head = HEAD.strip() + ",power_mode\n"
    rows = "".join(f"{i},B,orin-nx-16gb,GPU,yolov8n,vision,3,1,,,{101 + i}W\n" for i in range(14))

    assert "‼ and 2 more power modes that are not known" in run(table(tmp_path, head + rows))


def test_a_plot_has_a_panel_for_every_quantity_there_is_and_no_other(tmp_path):
    pytest.importorskip("matplotlib")
    drawn = tmp_path / "parity.svg"
    run(table(tmp_path, GOOD), "--plot", str(drawn))
    assert drawn.read_text().count('id="axes_') == 2


def test_rows_whose_software_nobody_names_are_said_and_named_ones_are_not(tmp_path):
    head = HEAD.strip() + ",notes\n"
    row = "1,B,raspberry-pi-5,cpu,resnet50,vision,100,1,,,"
    assert "rows that name no known software, 1 (1), are" in run(table(tmp_path, f"{head}{row}\n"))
    assert "name no known software" not in run(table(tmp_path, f"{head}{row}ONNX Runtime\n"))
