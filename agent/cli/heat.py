"""`qeil heat`: what a recording of a board's temperatures and powers teaches, and makes such a recording."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import complete
from agent.cli.pairs import PAIR, pairs
from agent.errors import BadInput

if TYPE_CHECKING:
    from agent.evaluation.heat_fit import HeatFit
    from agent.schema.device import DeviceProfile

_ACTING = ("passive", "hot", "critical")
_UNITS = {"capacity": "J/K", "ambient": "W/K", "fan": "W/K at full speed"}
_COLDEST_C, _HOTTEST_C = -60, 200
_WHAT_HELPS = {
    "capacity": "let the load rest and run in turns of a few minutes",
    "ambient": "record until temperatures settle, at two loads at least",
    "fan": "record at two fan speeds at least",
}
_WHAT_HELPS_A_LINK = "load each zone by itself for a while"


@click.command("heat")
@click.argument("recording", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--ambient", type=click.FloatRange(-60, 90), help="air in °C, where the recording has no ambient_c")
@click.option("--zone", "zones", multiple=True, metavar="NAME", help="only this zone; may be given again")
@click.option("--heats", multiple=True, metavar="COLUMN=ZONE", help="which zone NAME_w heats; none: leave it out")
@click.option("--profile", shell_complete=complete.names(complete.profiles),
              help="board whose trips count (with --record, whose sensors are read)")  # fmt: skip
@click.option("--trip", "trips", multiple=True, metavar=PAIR, help="temperature of a zone to say the time until")
@click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), help="recorded and replayed: .svg, .png, .pdf")
@click.option("--yaml", "as_yaml", is_flag=True, help="print the network as a profile's `thermal:` block")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON")
@click.option("--record", "seconds", type=click.IntRange(5, 86_400), help="write RECORDING from this board's sensors")
@click.option("--every", type=click.FloatRange(0.1, 60), default=1.0, show_default=True, help="seconds between samples")
def heat_command(
    recording: Path, ambient: float | None, zones: tuple[str, ...], heats: tuple[str, ...], profile: str | None,
    trips: tuple[str, ...], plot: Path | None, as_yaml: bool, as_json: bool, seconds: int | None, every: float,
) -> None:  # fmt: skip
    """Identify a board's heat capacities and conductances from RECORDING, a CSV with the columns time_s, NAME_c and
    NAME_w of each zone, and ambient_c and fan (0 to 1) where known.

    Says how well they replay the recording, which of them it does not determine, where each zone settles and when it
    reaches its trip.
    """
    from agent.cli.simulate_plot import check_target

    if as_yaml and as_json:
        raise click.UsageError("--yaml and --json: choose one")
    if seconds is not None:
        _record(recording, profile, ambient, seconds, every, as_json)
        return
    if plot is not None:
        check_target(plot)
    from agent.evaluation.heat_fit import fit_heat
    from agent.evaluation.heat_recording import read_recording

    read = read_recording(recording, ambient, zones, _named("--heats", heats))
    fit = fit_heat(read)
    document = heat_document(fit, _trips(fit, profile, pairs("--trip", trips)))
    if plot is not None:
        from agent.cli.heat_plot import draw

        draw(fit, document, plot)
    if as_json:
        click.echo(json.dumps(document, indent=2))
    elif as_yaml:
        click.echo(_block(document, recording.name), nl=False)
    else:
        _print(document)


def _record(file: Path, profile: str | None, ambient_c: float | None, seconds: int, every: float, quiet: bool) -> None:
    from agent.cli.progress import Progress
    from agent.service.clock import SystemClock
    from agent.service.heat_recorder import record, sensors_of

    with Progress("recording", quiet) as report:
        made = record(file, sensors_of(profile), SystemClock(), seconds, every, ambient_c, report)
    text = f"{file}: {made.rows} samples of {', '.join(made.columns)}"
    click.echo(json.dumps({"file": str(file), "rows": made.rows, "columns": made.columns}) if quiet else text)


def _named(option: str, texts: tuple[str, ...]) -> dict[str, str]:
    for text in texts:
        if not all(text.partition("=")[::2]):
            raise BadInput(f"{option} {text!r}: write COLUMN=ZONE, for example gpu-soc=gpu")
    return dict(text.partition("=")[::2] for text in texts)


def _trips(fit: HeatFit, profile: str | None, given: dict[str, float]) -> dict[str, float]:
    """Trip by zone: as given, else the first at which the profile says that kernel or firmware act."""
    from agent.storage import share, yaml_files

    zones = fit.recording.zones
    for name, trip_c in given.items():
        if name not in zones:
            raise BadInput(f"--trip {name}: is no zone of the recording (zones: {', '.join(zones)})")
        if not _COLDEST_C <= trip_c <= _HOTTEST_C:
            raise BadInput(f"--trip {name}={trip_c:g}: is no temperature from {_COLDEST_C} to {_HOTTEST_C} °C")
    if profile is None:
        return given
    board: DeviceProfile = yaml_files.load_profile(share.find_profile(profile))
    known = {
        zone.name: min(t.temperature_c.value for t in zone.trips if t.kind in _ACTING)
        for zone in board.zones
        if zone.name in zones and any(t.kind in _ACTING for t in zone.trips)
    }
    return known | given


def heat_document(fit: HeatFit, trips: dict[str, float]) -> dict[str, Any]:
    """What `--json` prints."""
    recording = fit.recording
    mean_w, highest_w = fit.mean_power_w(), fit.highest_power_w()
    mean_c, highest_c = fit.settles_c(mean_w), fit.settles_c(highest_w)
    full_c = None if fit.fan_w_per_k is None else fit.settles_c(highest_w, 1.0)
    zones = []
    for i, (name, node) in enumerate(zip(recording.zones, fit.estimates, strict=True)):
        others = [zone for zone in recording.zones if zone != name]
        rel = [float(value) if math.isfinite(value) else None for value in node.rel_uncertainty]
        trip = trips.get(name)
        zones.append({
            "zone": name,
            "capacity_j_per_k": _quantity(node.capacity_j_per_k, rel[0]),
            "ambient_w_per_k": _quantity(node.ambient_w_per_k, rel[-2]),
            "fan_w_per_k": None if recording.fan is None else _quantity(node.fan_w_per_k, rel[-1]),
            "links_w_per_k": {
                other: _quantity(float(value), share)
                for other, value, share in zip(others, node.neighbour_w_per_k, rel[1:-2], strict=True)
            },
            "settles_are": "modelled", "mean_power_w": float(mean_w[i]), "settles_at_mean_c": float(mean_c[i]),
            "highest_power_w": float(highest_w[i]), "settles_at_highest_c": float(highest_c[i]),
            "settles_at_highest_full_fan_c": None if full_c is None else float(full_c[i]),
            "trip_c": trip,
            "trip_from_air_s": _reached(fit, name, trip, recording.ambient_c[-1]),
            "trip_from_end_s": _reached(fit, name, trip, recording.temperature_c[:, -1]),
        })  # fmt: skip
    return {
        "provenance": "measured", "samples": int(recording.time_s.size),
        "length_s": float(recording.time_s[-1] - recording.time_s[0]), "windows": fit.windows, "window_s": fit.window_s,
        "fan_mean": None if recording.fan is None else float(recording.fan.mean()),
        "zones": zones, "time_constants_s": fit.time_constants_s.tolist(),
        "replay_rms_c": fit.rms_c, "unseen_third_rms_c": fit.unseen_rms_c,
        "network_ambient_w_per_k": fit.network.ambient_w_per_k.tolist(),
        "network_link_w_per_k": fit.network.link_w_per_k.tolist(),
        "undetermined": [
            {"zone": zone, "parameter": name, "would_help": _WHAT_HELPS.get(name, _WHAT_HELPS_A_LINK)}
            for zone, name in fit.undetermined
        ],
        "unnamed_heat": [
            {"zone": zone, "power_w": power.power_w, "standard_error_w": power.standard_error_w}
            for zone, power in zip(recording.zones, fit.unnamed, strict=True) if power.power_w
        ],
        "notes": list(recording.notes),
    }  # fmt: skip


def _quantity(value: float, rel_uncertainty: float | None) -> dict[str, float | None]:
    return {"value": value, "rel_uncertainty": rel_uncertainty}


def _reached(fit: HeatFit, zone: str, trip_c: float | None, start_c: Any) -> float | None:
    """Seconds at the highest power; None without a trip, or where it is never reached."""
    if trip_c is None:
        return None
    seconds = fit.reaches_s(zone, trip_c, fit.highest_power_w(), start_c)
    return seconds if math.isfinite(seconds) else None


def _print(document: dict[str, Any]) -> None:
    from agent.cli.tables import print_table

    rows = []
    missing = {(item["zone"], item["parameter"]) for item in document["undetermined"]}
    for zone in document["zones"]:
        name = zone["zone"]
        parts = [("capacity", zone["capacity_j_per_k"]), ("ambient", zone["ambient_w_per_k"])]
        parts += [("fan", zone["fan_w_per_k"])] if zone["fan_w_per_k"] is not None else []
        parts += [(f"link to {other}", value) for other, value in zone["links_w_per_k"].items()]
        rows += [[name, what, *_cells(value, what, (name, what) in missing)] for what, value in parts]
    print_table("Identified from this recording", ["zone", "what", "value", "±"], rows)
    taus = ", ".join(_span(value) for value in document["time_constants_s"])
    unseen = document["unseen_third_rms_c"]
    check = "unknown" if unseen is None else f"{unseen:.2g} K"
    click.echo(
        f"{document['samples']} samples over {_span(document['length_s'])}, {document['windows']} windows of "
        f"{document['window_s']:g} s or more; time constants {taus}\n"
        f"replayed from its powers and the air alone: {document['replay_rms_c']:.2g} K off (root mean square); its "
        f"last third by a network of the first two: {check}\n"
    )
    for zone in document["zones"]:
        click.echo(_settles(zone))
    for item in document["undetermined"]:
        guess = "; until then where it settles is a guess" if item["parameter"] == "ambient" else ""
        click.echo(f"‼ {item['zone']}: {item['parameter']} is not determined: {item['would_help']}{guess}")
    for item in document["unnamed_heat"]:
        click.echo(f"‼ {_unnamed(item)}")
    for note in document["notes"]:
        click.echo(f"note: {note}")


def _unnamed(item: dict[str, Any]) -> str:
    power_w, zone = item["power_w"], item["zone"]
    size = f"about {abs(power_w):.2g} W (± {item['standard_error_w']:.1g})"
    if power_w > 0:
        return (
            f"{zone}: something warms this zone by {size} that the recording does not name (a part without a power "
            "column, or air warmer than ambient_c); the figures allow for it, as a constant"
        )
    return (
        f"{zone}: something takes {size} from this zone that the recording does not name (air colder than ambient_c, "
        f"or {zone}_w counts what heats another zone); the figures allow for it, as a constant"
    )


def _cells(quantity: dict[str, Any], what: str, missing: bool) -> list[str]:
    rel = quantity["rel_uncertainty"]
    share = "not determined" if missing or rel is None else f"±{100 * rel:.2g} %"
    return [f"{quantity['value']:.3g} {_UNITS.get(what, 'W/K')}", share]


def _settles(zone: dict[str, Any]) -> str:
    full = zone["settles_at_highest_full_fan_c"]
    text = (
        f"{zone['zone']}: settles at {zone['settles_at_mean_c']:.1f} °C at its mean {zone['mean_power_w']:.3g} W, at "
        f"{zone['settles_at_highest_c']:.1f} °C at the highest {zone['highest_power_w']:.3g} W"
    )
    text += "" if full is None else f" ({full:.1f} °C with the fan at full speed)"
    if zone["trip_c"] is None:
        return text
    if zone["trip_from_air_s"] is None:
        return f"{text}; {zone['trip_c']:g} °C is not reached within a day"
    end = zone["trip_from_end_s"]
    later = "" if end is None else f", {_span(end)} from the end of the recording"
    return (
        f"{text}; {zone['trip_c']:g} °C after {_span(zone['trip_from_air_s'])} from the temperature of the air{later}"
    )


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.3g} min" if seconds < 6000 else f"{seconds / 3600:.3g} h"


def _block(document: dict[str, Any], name: str) -> str:
    """The network as a profile has it; what is not determined is left out."""
    import yaml

    missing = {(item["zone"], item["parameter"]) for item in document["undetermined"]}
    source = (
        f"qeil heat {name}: {document['windows']} windows of {document['window_s']:g} s, "
        f"replayed to {document['replay_rms_c']:.2g} K"
    )
    for item in document["unnamed_heat"]:
        source += f"; beside a constant {item['power_w']:.2g} W in {item['zone']} that it does not name [assumed]"

    def measured(value: float, rel: float | None) -> dict[str, Any]:
        sure = {} if rel is None else {"rel_uncertainty": float(f"{rel:.2g}")}
        return {"value": float(f"{value:.4g}"), "provenance": "measured", "source": source, **sure}

    nodes, links = [], []
    for i, zone in enumerate(document["zones"]):
        if (zone["zone"], "capacity") in missing:
            raise BadInput(f"{zone['zone']}: its heat capacity is not determined; {_WHAT_HELPS['capacity']}")
        capacity, ambient = zone["capacity_j_per_k"], zone["ambient_w_per_k"]
        node = {
            "name": zone["zone"],
            "heat_capacity_j_per_k": measured(capacity["value"], capacity["rel_uncertainty"]),
        }
        if (zone["zone"], "ambient") not in missing:
            to_air = document["network_ambient_w_per_k"][i]
            node["to_ambient_w_per_k"] = measured(to_air, ambient["rel_uncertainty"])
        nodes.append(node)
        for j, (other, link) in enumerate(zone["links_w_per_k"].items()):
            place = j + (j >= i)
            value = document["network_link_w_per_k"][i][place]
            if place > i and value > 0 and (zone["zone"], f"link to {other}") not in missing:
                entry = {"between": [zone["zone"], other], "w_per_k": measured(value, link["rel_uncertainty"])}
                links.append(entry)
    block = {"nodes": nodes, **({"conductances": links} if links else {})}
    return yaml.safe_dump({"thermal": block}, sort_keys=False, allow_unicode=True, width=1000)
