"""Every file we ship is valid, explains itself, and survives a round trip."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from agent.cli.check import check_file
from agent.cli.schema import schema_text
from agent.schema.base import Quantity
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import Settings
from agent.storage.file_kinds import KINDS, Kind
from agent.storage.yaml_files import load_policy, load_profile, load_settings, read_document

ROOT = Path(__file__).parents[2]
PROFILES = sorted((ROOT / "device_profiles").glob("*.yaml"))
POLICIES = sorted((ROOT / "policies").glob("*.yaml"))


def by_stem(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", PROFILES, ids=by_stem)
def test_a_profile_is_valid_and_round_trips(path: Path) -> None:
    profile = load_profile(path)

    again = DeviceProfile.model_validate_json(profile.model_dump_json(), strict=True)

    assert check_file(path) == []
    assert profile.name == path.stem
    assert again == profile


@pytest.mark.parametrize("path", PROFILES, ids=by_stem)
def test_a_profile_can_be_planned_with(path: Path) -> None:
    """Every unit has a peak, the energies are of precisions it computes in, and each number is positive."""
    profile = load_profile(path)

    for accelerator in profile.accelerators:
        assert accelerator.peak_flops_per_s
        assert set(accelerator.energy_j_per_flop) <= set(accelerator.peak_flops_per_s)
    assert all(quantity.value > 0 for quantity in quantities(profile))


@pytest.mark.parametrize("path", PROFILES, ids=by_stem)
def test_a_profile_is_physically_plausible(path: Path) -> None:
    """No unit can exceed its power budget by much at its own peak, and no memory is slower than its link."""
    profile = load_profile(path)

    for accelerator in profile.accelerators:
        for precision, energy in accelerator.energy_j_per_flop.items():
            full_load_w = energy.value * accelerator.peak_flops_per_s[precision].value
            if accelerator.power_cap_w is not None:
                assert accelerator.base_power_w.value + full_load_w <= 1.3 * accelerator.power_cap_w.value
            assert full_load_w < 400
    for domain in profile.memory_domains:
        assert 1e7 <= domain.bandwidth_bytes_per_s.value <= 1e13


@pytest.mark.parametrize("path", PROFILES, ids=by_stem)
def test_a_profile_without_sensors_to_match_says_how_to_choose_it(path: Path) -> None:
    profile = load_profile(path)

    if not any(profile.match.model_dump().values()):
        assert "by name" in path.read_text()


def test_profiles_cover_the_boards_people_own() -> None:
    assert len(PROFILES) >= 20
    assert {"generic-x86", "generic-arm64", "core-ultra-285hx-npu-rtx-pro-5000"} <= {p.stem for p in PROFILES}


@pytest.mark.parametrize("path", POLICIES, ids=by_stem)
def test_a_policy_states_and_explains_every_key(path: Path) -> None:
    document = read_document(path)
    policy = load_policy(path)

    written = {key for key in document.positions if not any(isinstance(part, int) for part in key)}
    wanted = all_keys(policy.model_dump())
    if document.data["objective"].get("weights") is None:
        wanted = {key for key in wanted if key[:2] != ("objective", "weights")}
    lines = path.read_text().splitlines()
    leaves = [key for key in wanted if not any(other[: len(key)] == key and other != key for other in wanted)]

    assert wanted <= written
    assert policy.name == path.stem
    for key in leaves:
        if key[0] not in {"version", "name", "description"}:
            assert "#" in lines[document.line(key) - 1], f"{path.name}: {key} has no comment"


@pytest.mark.parametrize("path", POLICIES, ids=by_stem)
def test_a_policy_round_trips(path: Path) -> None:
    policy = load_policy(path)

    assert Policy.model_validate_json(policy.model_dump_json(), strict=True) == policy


@pytest.mark.parametrize("path", [*PROFILES, *POLICIES, ROOT / "docs/agent.yaml"], ids=by_stem)
def test_the_first_line_points_editors_at_a_schema_that_exists(path: Path) -> None:
    first = path.read_text().splitlines()[0]

    assert first.startswith("# yaml-language-server: $schema=")
    assert (path.parent / first.split("$schema=")[1]).is_file()


@pytest.mark.parametrize("kind", KINDS)
def test_schemas_for_editors_are_current(kind: Kind) -> None:
    path = ROOT / f"docs/schemas/{kind}.json"

    assert json.loads(path.read_text()) == json.loads(schema_text(kind)), f"run: qeil schema {kind} > {path}"


def test_the_example_settings_show_every_key() -> None:
    path = ROOT / "docs/agent.yaml"
    settings = load_settings(path)
    document = read_document(path)

    assert check_file(path) == []
    assert settings.mqtt is not None
    assert settings.models[0].path == ROOT / "docs/models/magika.onnx"
    assert all_keys(settings.model_dump()) <= set(document.positions)


def test_every_key_of_the_settings_schema_stands_in_the_example() -> None:
    schema = json.loads(schema_text("settings"))
    named = {key for part in (schema, *schema["$defs"].values()) for key in part.get("properties", {})}
    text = (ROOT / "docs/agent.yaml").read_text()

    assert {"decoder", "max_requests", "wait_ms"} <= named
    assert {key for key in named if not re.search(rf"\b{key}:", text)} == set()


def test_the_example_settings_show_the_defaults() -> None:
    settings = load_settings(ROOT / "docs/agent.yaml")
    default = Settings(version=1)

    assert settings.http == default.http
    assert settings.outbox == default.outbox
    for name in ("state_dir", "profile", "policy", "isolation", "log_level"):
        assert getattr(settings, name) == getattr(default, name)


def all_keys(data: dict[str, object], prefix: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    keys: set[tuple[str, ...]] = set()
    for name, value in data.items():
        keys.add((*prefix, name))
        if isinstance(value, dict):
            keys |= all_keys(value, (*prefix, name))
    return keys


def quantities(node: object) -> list[Quantity]:
    if isinstance(node, Quantity):
        return [node]
    if isinstance(node, dict):
        return [q for value in node.values() for q in quantities(value)]
    if isinstance(node, (list, tuple)):
        return [q for value in node for q in quantities(value)]
    if hasattr(node, "model_fields_set"):
        return [q for name in type(node).model_fields for q in quantities(getattr(node, name))]
    return []
