"""Simulated boards: the truth heats and trips as physics says, days happen as written, and the governors differ."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner
from pydantic import ValidationError

from agent.cli.check import check_file
from agent.cli.simulate import simulate_command
from agent.schema.board_scenario import BoardScenario, LaneFault
from agent.schema.simulated_board import SimulatedBoard
from agent.simulation import board_document
from agent.simulation.board_day import BoardDay, within
from agent.simulation.board_run import BoardRun, run_board
from agent.simulation.board_truth import BoardTruth
from agent.storage import share, yaml_files

ROOT = Path(__file__).parents[2]
SHIPPED = [p for p in sorted((ROOT / "scenarios").glob("*.yaml")) if "kind: board-run" in p.read_text()]
BOARDS = sorted((ROOT / "scenarios/boards").glob("*.yaml"))
POLICY = yaml_files.load_policy(share.find_policy("balanced"))


def board_data(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1, "name": "toy", "title": "Toy", "source": "made up",
        "nodes": [
            {"name": "die", "heat_capacity_j_per_k": 2.0, "leakage_w": 0.2},
            {"name": "sink", "heat_capacity_j_per_k": 10.0, "to_ambient_w_per_k": 0.2, "fan_w_per_k": 0.3},
        ],
        "links": [{"between": ["die", "sink"], "w_per_k": 1.0}],
        "zones": [{"name": "soc", "node": "die", "trip_c": 80, "shutdown_c": 95}],
        "accelerators": [
            {"name": "npu", "node": "die", "requests_per_s": 50, "power_w": 4.0},
            {"name": "cpu", "node": "die", "requests_per_s": 20, "power_w": 9.0,
             "points": [{"name": "slow", "speed_share": 0.6, "power_share": 0.4}]},
        ],
    } | changes  # fmt: skip


def scenario_data(**changes: Any) -> dict[str, Any]:
    return {
        "version": 1, "name": "day", "title": "A day", "kind": "board-run", "boards": ["./toy.yaml"],
        "policy": "balanced", "governors": ["predictive", "none"], "hours": 0.25, "seed": 3,
        "air": [{"at_h": 0, "ambient_c": 40}], "arrivals": [{"from_h": 0, "load_share": 1.0}],
    } | changes  # fmt: skip


def board(**changes: Any) -> SimulatedBoard:
    return SimulatedBoard.model_validate(board_data(**changes))


def scenario(**changes: Any) -> BoardScenario:
    return BoardScenario.model_validate(scenario_data(**changes))


def write(folder: Path, day: dict[str, Any] | None = None, toy: dict[str, Any] | None = None) -> Path:
    (folder / "toy.yaml").write_text(yaml.safe_dump(toy or board_data(), sort_keys=False))
    path = folder / "day.yaml"
    path.write_text(yaml.safe_dump(day or scenario_data(), sort_keys=False))
    return path


def test_the_agents_governor_does_the_work_without_the_trips_that_others_take():
    runs = {kind: run_board(scenario(), board(), POLICY, kind) for kind in ("predictive", "none", "stepping", "oracle")}
    assert runs["none"].trips > 0
    assert runs["none"].throttled_s > 0
    assert (runs["predictive"].trips, runs["predictive"].throttled_s) == (0, 0)
    assert runs["oracle"].trips == 0
    assert runs["predictive"].tally.done > 0.9 * runs["oracle"].tally.done
    assert runs["stepping"].tally.derated_s > 0


def test_the_oracle_stays_below_a_trip_that_neighbours_warm_by_hundredths():
    nodes = board_data()["nodes"]
    nodes[1]["heat_capacity_j_per_k"] = 40.0
    far = [{"name": f"far-{n}", "node": "sink", "requests_per_s": 20, "power_w": 2.2} for n in (1, 2, 3)]
    crowded = board(nodes=nodes, accelerators=[*board_data()["accelerators"], *far])
    run = BoardRun(scenario(arrivals=[{"from_h": 0, "load_share": 0.95}]), crowded, POLICY, "oracle", 2.0)
    assert run.run().trips == 0
    assert 79.5 < run.tally.peak_c < 79.981


def test_the_oracle_keeps_the_owners_limit_when_the_fan_stops_unreported():
    loaded = board_document.load(ROOT / "scenarios/fan-failure.yaml")
    afternoon = loaded.scenario.model_copy(update={"from_h": 14.4, "hours": 0.25})
    mini = next(b for b in loaded.boards if b.name == "core-ultra-mini")
    run = BoardRun(afternoon, mini, loaded.policy, "oracle", 2.0)
    run.run()
    assert 0 < run.tally.over_c < 0.1
    assert run.tally.over_s == 0


def test_how_far_and_how_long_a_limit_is_passed_is_counted():
    wild = run_board(scenario(), board(), POLICY, "none")
    assert wild.tally.over_c == pytest.approx(wild.tally.peak_c - 80)
    assert 0 < wild.tally.over_s <= 0.25 * 3600


def test_the_same_seed_gives_the_same_run_and_another_one_another():
    one, again = (run_board(scenario(hours=0.05), board(), POLICY, "predictive") for _ in range(2))
    other = run_board(scenario(hours=0.05, seed=4), board(), POLICY, "predictive")
    assert one == again
    assert one.tally.asked != other.tally.asked


def test_work_is_neither_lost_nor_made():
    run = BoardRun(scenario(hours=0.1), board(), POLICY, "predictive")
    tally = run.run().tally
    assert tally.asked == pytest.approx(tally.done + tally.shed + run._queue)


def test_thresholds_are_those_of_the_agent():
    result = run_board(scenario(), board(), POLICY, "thresholds")
    assert result.trips == 0
    assert result.tally.derated_s + result.tally.halted_s > 0


def test_a_board_without_load_settles_where_its_resistances_say():
    toy = board(nodes=[{"name": "die", "heat_capacity_j_per_k": 2.0, "to_ambient_w_per_k": 0.5, "idle_power_w": 5.0}],
                links=[])  # fmt: skip
    truth = BoardTruth(toy, 1.0, np.array([20.0]))
    for k in range(100):
        truth.advance(np.zeros(2), 20.0, False, float(k))
    assert truth.at_c[0] == pytest.approx(30.0, abs=0.01)


def test_the_fan_cools_unless_it_stands_still():
    toy = board(fan={"zone": "soc", "on_c": 40, "full_c": 60})
    ends = []
    for stuck in (False, True):
        truth = BoardTruth(toy, 1.0, np.full(2, 30.0))
        for k in range(300):
            truth.advance(np.array([4.0, 4.0]), 30.0, stuck, float(k))
        ends.append(float(truth.at_c[0]))
    assert ends[1] > ends[0] + 10.0


def test_the_firmware_halves_at_its_trip_and_turns_off_at_its_end():
    truth = BoardTruth(board(), 1.0, np.full(2, 30.0))
    for k in range(600):
        truth.advance(np.array([4.0, 9.0]), 30.0, False, float(k))
        if truth.firmware.shutdowns:
            break
    assert truth.firmware.trips == 1
    assert truth.speed_share(k + 1.0) == 0.0
    for later in range(k + 1, k + 400):
        truth.advance(np.zeros(2), 30.0, False, float(later))
    assert truth.speed_share(k + 400.0) == 1.0


def test_a_driver_fault_brings_the_lane_down_and_back():
    faults = [{"accelerator": 1, "at_h": 0.02, "for_s": 4}]
    result = run_board(scenario(faults=faults, hours=0.1), board(), POLICY, "predictive")
    assert result.tally.lane_deaths >= 1


@pytest.mark.parametrize("kind", ["absent", "zero"])
def test_a_lost_sensor_stops_the_work_while_it_is_lost(kind):
    losses = {"losses": [{"zone": 1, "at_h": 0.1, "for_s": 100, "kind": kind}]}
    result = run_board(scenario(sensors=losses, hours=0.2), board(), POLICY, "predictive")
    assert result.tally.halted_s >= 80
    assert result.trips == 0


def test_a_span_repeats_and_ends():
    fault = LaneFault(at_h=1.0, for_s=10.0, every_h=2.0)
    seen = [within(fault, h * 3600.0 + s) for h, s in ((0.5, 0), (1, 0), (1, 9.9), (1, 10), (3, 5), (4, 5))]
    assert seen == [False, True, True, False, True, False]


def test_bursts_bring_the_same_work_in_less_time():
    bursts = [{"from_h": 0, "load_share": 0.5, "burst_every_s": 60, "burst_for_s": 20}]
    day = BoardDay(scenario(arrivals=bursts), np.random.default_rng(0))
    assert [day.load_share(s) for s in (0.0, 19.0, 21.0, 61.0)] == [1.5, 1.5, 0.0, 1.5]


def test_a_frozen_sensor_says_the_same_and_a_coarse_one_steps():
    sensors = {"noise_c": 0.0, "step_c": 0.5, "losses": [{"zone": 1, "at_h": 1, "for_s": 60, "kind": "frozen"}]}
    day = BoardDay(scenario(sensors=sensors), np.random.default_rng(0))
    assert [day.readings(["z"], [t], s)[0].value for t, s in ((40.3, 0.0), (50.0, 3601.0), (50.0, 3700.0))] == [
        40.5, 40.5, 50.0,
    ]  # fmt: skip


def test_a_lying_fan_goes_on_reporting():
    failures = [{"at_h": 0, "for_s": 100, "still_reported": True}]
    day = BoardDay(scenario(fan_failures=failures), np.random.default_rng(0))
    assert (day.fan_stuck(5.0), day.fan_lies(5.0), day.fan_stuck(200.0)) == (True, True, False)
    toy = board(fan={"zone": "soc", "on_c": 41, "full_c": 60})
    run = BoardRun(scenario(fan_failures=failures), toy, POLICY, "none")
    run._truth.at_c = np.full(2, 55.0)
    assert run._look(5.0, 40.0).fan > 0.5


def test_the_battery_is_empty_at_a_time_that_is_said():
    result = run_board(scenario(battery_wh=0.5, hours=0.2), board(), POLICY, "none")
    assert 0.0 < result.tally.battery_empty_h < 0.2


@pytest.mark.parametrize("path", [*SHIPPED, *BOARDS], ids=lambda p: p.stem)
def test_shipped_days_and_boards_are_correct_and_point_editors_at_their_schema(path: Path) -> None:
    kind = yaml_files.detect_kind(yaml_files.read_document(path).data, path)
    assert kind == ("simulated-board" if path.parent.name == "boards" else "board-scenario")
    assert check_file(path) == []
    assert yaml_files.read_document(path).data["name"] == path.stem
    schema = path.read_text().splitlines()[0].split("$schema=")[1]
    assert (path.parent / schema).is_file()


MISTAKES = [
    ("unknown key", {"ari": []}, "ari", "did you mean air?"),
    ("unknown board", {"boards": ["pi-5-bear"]}, "boards.0", "did you mean pi-5-bare?"),
    ("unknown policy", {"policy": "balansed"}, "policy", "did you mean balanced?"),
    ("no such zone", {"sensors": {"losses": [{"zone": 3, "at_h": 0, "for_s": 1}]}}, "sensors.losses.0.zone", "1 zones"),
    ("no such unit", {"faults": [{"accelerator": 3, "at_h": 0, "for_s": 1}]}, "faults.0.accelerator", "2 accelerators"),
    ("half a burst", {"arrivals": [{"from_h": 0, "load_share": 1, "burst_every_s": 9}]}, "arrivals.0", "go together"),
    ("hours fall", {"air": [{"at_h": 2, "ambient_c": 1}, {"at_h": 1, "ambient_c": 1}]}, "air", "must rise"),
    ("late start", {"arrivals": [{"from_h": 1, "load_share": 1}]}, "arrivals", "must begin at hour 0"),
    ("governor twice", {"governors": ["none", "none"]}, "governors", "used twice"),
]


@pytest.mark.parametrize(("changes", "key", "words"), [m[1:] for m in MISTAKES], ids=[m[0] for m in MISTAKES])
def test_a_mistake_is_one_line_with_its_place(changes, key, words, tmp_path):
    path = write(tmp_path, scenario_data(**changes))
    (found,) = check_file(path)
    assert found.text().startswith(f"{path}:{found.line}: {key}")
    assert words in found.text()


def test_a_broken_board_is_reported_in_its_own_file(tmp_path):
    toy = board_data(links=[{"between": ["die", "sank"], "w_per_k": 1.0}])
    (found,) = check_file(write(tmp_path, toy=toy))
    assert found.file.endswith("toy.yaml")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"links": [{"between": ["die", "sank"], "w_per_k": 1.0}]}, "no 'sank'"),
        ({"zones": [{"name": "soc", "node": "die", "trip_c": 95, "shutdown_c": 80}]}, "must be below shutdown_c"),
        ({"fan": {"zone": "soc", "on_c": 60, "full_c": 50}}, "must be below full_c"),
        ({"nodes": [{"name": "die", "heat_capacity_j_per_k": 1.0}], "links": []}, "would heat for ever"),
        ({"nodes": [{"name": "die", "heat_capacity_j_per_k": 1.0}] * 2, "links": []}, "used twice"),
    ],
)
def test_an_impossible_board_is_refused(changes, words):
    with pytest.raises(ValidationError, match=words):
        board(**changes)


def test_the_command_prints_draws_and_writes_a_day(tmp_path):
    path = write(tmp_path, scenario_data(hours=0.02, battery_wh=0.01))
    runner = CliRunner()
    plain = runner.invoke(simulate_command, [str(path), "--plot", str(tmp_path / "day.svg"), "--seed", "5"])
    assert plain.exit_code == 0, plain.output
    assert "predictive (the agent's)" in plain.output
    assert "above limit s" in plain.output
    assert "seed 5" in plain.output
    assert "the battery is empty after" in plain.output
    assert (tmp_path / "day.svg").stat().st_size > 1000
    first = runner.invoke(simulate_command, [str(path), "--json"]).stdout
    assert '"provenance": "modelled"' in first
    assert first == runner.invoke(simulate_command, [str(path), "--json"]).stdout


def test_a_document_holds_a_run_for_every_board_and_governor(tmp_path):
    days = board_document.load(write(tmp_path, scenario_data(hours=0.01)))
    seen: list[str] = []
    document = board_document.simulate(days, lambda what, *_: seen.append(what))
    assert [(r["board"], r["governor"]) for r in document["runs"]] == [("toy", "predictive"), ("toy", "none")]
    assert seen == ["toy: predictive", "toy: none"]
