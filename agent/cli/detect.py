"""`qeil detect`: accelerators, memory and sensors of this machine as a device profile."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli.tables import print_table

if TYPE_CHECKING:
    from agent.service.detection import Detected

PROBE_TIMEOUT_S = 60.0


@click.command("detect")
@click.option("--write", "file", type=click.Path(path_type=Path, dir_okay=False), help="write the profile as YAML")
@click.option("--json", "as_json", is_flag=True, help="profile, host, sensors and notes as JSON")
def detect_command(file: Path | None, as_json: bool) -> None:
    """Show accelerators, memory and sensors of this machine, matched with a shipped board where one fits."""
    from agent.backends.probe import probe_runtimes
    from agent.service.calibration.profile_file import write_profile
    from agent.service.detection import detect

    detected = detect(Path("/"), probe_runtimes(PROBE_TIMEOUT_S))
    if file is not None:
        write_profile(file, detected.profile, detected.notes)
    if as_json:
        click.echo(json.dumps(as_data(detected), indent=2, ensure_ascii=False))
        return
    show(detected)
    if file is not None:
        click.echo(f"written to {file}; name it in the settings: profile: {file}")


def as_data(detected: Detected) -> dict[str, Any]:
    """What `--json` prints."""
    host = asdict(detected.host) | {"cpu_features": sorted(detected.host.cpu_features)}
    return {
        "matched": detected.matched,
        "generic": detected.generic,
        "host": host,
        "sensors": [asdict(finding) for finding in detected.sensors],
        "notes": list(detected.notes),
        "profile": detected.profile.model_dump(mode="json"),
    }


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def show(detected: Detected) -> None:
    """Tables for people."""
    host, profile = detected.host, detected.profile
    board = host.device_tree_model or host.dmi_product or "board unknown"
    cores, threads = _counted(host.physical_cores, "core"), _counted(host.logical_cpus, "thread")
    virtual = " · virtual machine" if host.hypervisor else ""
    click.echo(f"{board} · {host.cpu_model or 'CPU unknown'} · {host.machine} · {cores}, {threads}{virtual}")
    how = "no shipped board matches; adapted from" if detected.generic else "matches the shipped profile"
    click.echo(f"{how} {detected.matched}: {profile.title}\n")
    print_table("Accelerators", ["name", "kind", "runs through", "memory", "threads"], [
        [
            a.name, a.kind, ", ".join(f"{r.backend}: {r.provider}" for r in a.runtimes) or "nothing", a.memory_domain,
            ("all" if a.threads is None else str(a.threads)) if a.kind == "cpu" else "–",
        ]
        for a in profile.accelerators
    ])  # fmt: skip
    print_table("Memory", ["domain", "capacity", "reserved", "bandwidth", "figures are"], [
        [
            d.name, f"{d.capacity_bytes.value / 2**30:.1f} GiB", f"{d.reserved_bytes.value / 2**30:.1f} GiB",
            f"{d.bandwidth_bytes_per_s.value / 1e9:.0f} GB/s",
            f"capacity {d.capacity_bytes.provenance}, bandwidth {d.bandwidth_bytes_per_s.provenance}",
        ]
        for d in profile.memory_domains
    ])  # fmt: skip
    if detected.sensors:
        print_table("Sensors", ["name", "what", "found by", "now", "without it"], [
            [
                f.name, f.what + (", critical" if f.critical else ""), f.source,
                f"{f.value:.1f} {f.unit}" if f.value is not None else f"× {f.fault}", f.consequence or "–",
            ]
            for f in detected.sensors
        ])  # fmt: skip
    for note in detected.notes:
        click.echo(f"‼ {note}")
