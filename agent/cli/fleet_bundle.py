"""`qeil fleet bundle`: packs files into an archive and signs the offer of it."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import click

from agent.cli.fleet_keys import key_option, load_key


@click.command("bundle")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--name", required=True, help="what it is called in reports")
@click.option("--ver", required=True, type=click.IntRange(1), help="above every version that the boards ever took")
@click.option("--tenant", default="default", show_default=True, help="whose boards are offered it")
@click.option("--board", "boards", multiple=True, help="only this board; repeat for more (default: every board)")
@click.option("--url", help="where boards fetch the archive; without it they ask for pieces over MQTT")
@click.option("--trial", "trial", multiple=True, metavar="KEY=VALUE", help="of the trial, such as windows=64")
@click.option("--expires", "expires_s", type=click.FloatRange(60), default=7 * 86_400.0, show_default=True,
              help="seconds that the offer is good for")  # fmt: skip
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path(), help="folder for NAME-VER.tar and NAME-VER.offer"
)
@key_option
@click.option("--json", "as_json", is_flag=True, help="the two files, sizes and what is offered as JSON")
def bundle_command(
    files: tuple[Path, ...],
    name: str,
    ver: int,
    tenant: str,
    boards: tuple[str, ...],
    url: str | None,
    trial: tuple[str, ...],
    expires_s: float,
    out: Path,
    key_path: Path,
    as_json: bool,
) -> None:
    """Pack FILES (a policy, a device profile, models, probes) and sign the offer for `down/bundle`.

    A policy in it and the figures of a device profile come into force, models in it are served, on trial first: a board
    compares joules, latency, failures and temperatures with its own from before, and goes back by itself where they
    became worse. A bundle with a profile is for boards that have that profile.
    """
    from agent.errors import BadInput
    from agent.mqtt.envelope import sealed
    from agent.schema.bundle import Offer
    from agent.storage import bundle_archive, yaml_files
    from agent.storage.yaml_text import Document

    inside, policies, profiles = _sorted(files)
    if len(policies) > 1:
        raise BadInput(f"a bundle brings one policy into force; these are {len(policies)}")
    if len(profiles) > 1:
        raise BadInput(f"a bundle brings one device profile into force; these are {len(profiles)}")
    out.mkdir(parents=True, exist_ok=True)
    archive, offer = out / f"{name}-{ver}.tar", out / f"{name}-{ver}.offer"
    try:
        bundle_archive.pack(inside, archive)
    except bundle_archive.BundleRefused as refused:
        raise BadInput(refused.message) from refused
    now_s = round(time.time(), 3)
    document: dict[str, Any] = {
        "v": 1, "kind": "bundle", "tenant": tenant, "boards": list(boards) or None, "name": name, "ver": ver,
        "sha256": bundle_archive.digest(archive), "bytes": archive.stat().st_size, "iat": now_s,
        "exp": now_s + expires_s, "policy": policies[0] if policies else None,
        "profile": next(iter(profiles), None), "profiles": list(profiles.values()) or None,
        "models": [Path(n).stem for n in inside if n.startswith("models/")], "url": url,
        "chunk_bytes": None if url else 128 * 1024, "trial": dict(map(_pair, trial)),
    }  # fmt: skip
    yaml_files.validate(Document(document, {}), Offer, "bundle")
    text = json.dumps(document, ensure_ascii=False, separators=(",", ":"))
    signature = load_key(key_path).sign(text.encode(), f"bundle {name} {ver} {document['sha256']}")
    offer.write_bytes(sealed(text, signature))
    if as_json:
        click.echo(json.dumps({"archive": str(archive), "offer": str(offer), "offered": document}, ensure_ascii=False))
        return
    click.echo(f"{archive} ({archive.stat().st_size} bytes) and its signed offer {offer}")


def _sorted(files: tuple[Path, ...]) -> tuple[dict[str, Path], list[str], dict[str, str]]:
    """Place inside → file, names of policies, and file → board of profiles.

    BadInput or ConfigError say what cannot be in a bundle.
    """
    from agent.errors import BadInput
    from agent.runtimes import registry
    from agent.storage import yaml_files

    inside: dict[str, Path] = {}
    policies: list[str] = []
    profiles: dict[str, str] = {}
    for path in files:
        folder = "probes" if path.suffix == ".json" else "models" if registry.of_file(path) else None
        if path.suffix == ".yaml":
            kind = yaml_files.detect_kind(yaml_files.read_document(path).data, path)
            folder = {"policy": "policies", "board": "profiles"}.get(kind or "")
            if folder == "policies":
                yaml_files.load_policy(path)
                policies.append(path.stem)
            elif folder == "profiles":
                profiles[path.stem] = yaml_files.load_profile(path).name
        if folder is None:
            raise BadInput(f"{path}: expected a policy, a device profile, a model or a probe (.json)")
        inside[f"{folder}/{path.name}"] = path
    return inside, policies, profiles


def _pair(text: str) -> tuple[str, Any]:
    key, _, value = text.partition("=")
    try:
        return key, json.loads(value)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: expected KEY=NUMBER", param_hint="--trial") from error
