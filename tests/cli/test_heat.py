"""`qeil heat`: what it prints of a recording, as text, JSON, plot and profile block, and how it records one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from click.testing import CliRunner

from agent.cli.heat import heat_command
from agent.errors import BadInput, SensorError, StorageError
from agent.ports import Reading
from agent.schema.device import ThermalNetwork
from agent.service.heat_recorder import record
from tests.evaluation.heat_world import as_csv, recording
from tests.fakes import FakeClock


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("heat") / "board.csv"
    path.write_text(as_csv(recording(noise_c=0.05, every_s=5.0)))
    return path


def run(*arguments: object) -> str:
    result = CliRunner().invoke(heat_command, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_people_read_values_with_their_uncertainty_and_when_the_trip_comes(file):
    text = run(file, "--trip", "gpu=45")

    assert "link to cpu" in text
    assert "with the fan at full speed" in text
    assert "gpu: settles at" in text
    assert "45 °C after" in text
    assert "K off (root mean square)" in text


def test_json_has_every_figure_and_what_it_is(file):
    document = json.loads(run(file, "--json", "--profile", "jetson-orin-nano-super", "--trip", "cpu=150"))

    gpu, cpu = document["zones"]
    assert document["provenance"] == "measured"
    assert gpu["settles_are"] == "modelled"
    assert gpu["capacity_j_per_k"]["value"] == pytest.approx(8.0, rel=0.1)
    assert 0 < gpu["capacity_j_per_k"]["rel_uncertainty"] < 0.25
    assert cpu["trip_c"] == 150
    assert cpu["trip_from_air_s"] is None
    assert document["undetermined"] == []


def test_a_profiles_trip_counts_where_none_is_given(tmp_path, file):
    (tmp_path / "tj.csv").write_text(file.read_text().replace("gpu_", "tj_"))

    tj, cpu = json.loads(run(tmp_path / "tj.csv", "--json", "--profile", "jetson-orin-nano-super"))["zones"]

    assert tj["trip_c"] == 95.0
    assert cpu["trip_c"] is None


def test_the_block_is_one_that_a_profile_takes(file):
    block = yaml.safe_load(run(file, "--yaml"))["thermal"]

    network = ThermalNetwork.model_validate(block)
    assert [n.name for n in network.nodes] == ["gpu", "cpu"]
    assert network.nodes[0].heat_capacity_j_per_k.provenance == "measured"
    assert network.conductances[0].w_per_k.value == pytest.approx(0.4, rel=0.1)


def test_what_is_not_determined_is_told_with_what_would_help(tmp_path):
    short = tmp_path / "short.csv"
    short.write_text(as_csv(recording(fan=False, noise_c=0.3, length_s=100.0, every_s=1.0)))

    assert "is not determined:" in run(short)


def test_heat_that_the_recording_does_not_name_is_told_and_stands_in_the_block(tmp_path, file):
    warmed = tmp_path / "warmed.csv"
    warmed.write_text(as_csv(recording(noise_c=0.05, every_s=5.0, unrecorded_w=4.0)))

    assert "‼ gpu: something warms this zone by about 4" in run(warmed)
    (found,) = json.loads(run(warmed, "--json"))["unnamed_heat"]
    assert (found["zone"], found["power_w"]) == ("gpu", pytest.approx(4.0, rel=0.15))
    block = yaml.safe_load(run(warmed, "--yaml"))["thermal"]
    assert "W in gpu that it does not name [assumed]" in block["nodes"][0]["to_ambient_w_per_k"]["source"]
    assert "something" not in run(file)
    assert json.loads(run(file, "--json"))["unnamed_heat"] == []


def test_heat_that_leaves_a_zone_unnamed_is_told_as_such(tmp_path):
    known = recording(noise_c=0.05, every_s=5.0)
    cooled = tmp_path / "cooled.csv"
    cooled.write_text(as_csv(replace(known, power_w=known.power_w + 2.0 * np.array([[1.0], [0.0]]))))

    assert "‼ gpu: something takes about 2" in run(cooled)


def test_the_plot_is_written_the_same_each_time(tmp_path, file):
    one, two = tmp_path / "one.svg", tmp_path / "two.svg"
    run(file, "--plot", one)
    run(file, "--plot", two)

    assert one.read_text().startswith("<?xml")
    assert one.read_bytes() == two.read_bytes()


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--trip", "npu=80"], "--trip npu: is no zone of the recording"),
        (["--trip", "cpu=nan"], "--trip 'cpu=nan': write NAME=NUMBER with a finite number"),
        (["--trip", "cpu=1e400"], "--trip 'cpu=1e400': write NAME=NUMBER with a finite number"),
        (["--trip", "cpu=-300"], "--trip cpu=-300: is no temperature from -60 to 200 °C"),
        (["--heats", "gpu"], "--heats 'gpu': write COLUMN=ZONE"),
        (["--plot", "x.txt"], "ends in .svg"),
    ],
)
def test_options_that_make_no_sense_are_refused_in_one_line(file, options, why):
    with pytest.raises(BadInput, match=why):
        run(file, *options)


class Ramp:
    """A sensor that rises; it fails every third time, or always."""

    def __init__(self, name: str, kind: str, dead: bool = False) -> None:
        self.name, self.kind, self.dead, self.reads = name, kind, dead, 0

    def read(self, now_s: float) -> Reading:
        self.reads += 1
        if self.dead or self.reads % 3 == 0:
            return Reading(self.name, self.kind, None, "read_failed", now_s)  # type: ignore[arg-type]
        return Reading(self.name, self.kind, 30.0 + self.reads, None, now_s)  # type: ignore[arg-type]


def test_a_recording_has_a_row_each_period_and_a_failed_reading_leaves_its_cell_empty(tmp_path):
    clock = FakeClock()
    sensors = [Ramp("gpu", "temperature_c"), Ramp("gpu-soc", "power_w"), Ramp("x", "share"), Ramp("y", "power_w", True)]
    told: list[str] = []

    made = record(tmp_path / "r.csv", sensors, clock, 5.0, 1.0, 24.5, lambda *a: told.append(a[0]), clock.advance)

    lines = (tmp_path / "r.csv").read_text().splitlines()
    assert made.columns == ("time_s", "ambient_c", "gpu_c", "gpu-soc_w")
    assert lines[0] == "time_s,ambient_c,gpu_c,gpu-soc_w"
    assert lines[1] == "0.000,24.5,,"
    assert lines[2] == "1.000,24.5,34,34"
    assert made.rows == len(lines) - 1 == len(told) == 6


def test_nothing_is_recorded_without_a_temperature_or_over_another_file(tmp_path):
    clock = FakeClock()
    with pytest.raises(SensorError, match="qeil detect"):
        record(tmp_path / "r.csv", [Ramp("p", "power_w")], clock, 5.0, 1.0, None, print, clock.advance)
    (tmp_path / "r.csv").write_text("mine")
    with pytest.raises(StorageError, match="exists already"):
        record(tmp_path / "r.csv", [Ramp("t", "temperature_c")], clock, 5.0, 1.0, None, print, clock.advance)
    with pytest.raises(StorageError, match="cannot be written"):
        record(tmp_path / "no" / "r.csv", [Ramp("t", "temperature_c")], clock, 5.0, 1.0, None, print, clock.advance)
