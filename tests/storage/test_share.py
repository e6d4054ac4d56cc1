"""Policies and device profiles are found by name, the owner's copies first."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.storage import share


@pytest.fixture
def places(tmp_path: Path) -> list[Path]:
    for root, names in (("owner", ["quiet", "mine"]), ("shipped", ["balanced", "quiet"])):
        folder = tmp_path / root / "policies"
        folder.mkdir(parents=True)
        for name in names:
            (folder / f"{name}.yaml").write_text("")
    return [tmp_path / "owner", tmp_path / "absent", tmp_path / "shipped"]


def test_the_owners_copy_hides_the_shipped_one(places: list[Path]) -> None:
    assert share.find_policy("quiet", places) == places[0] / "policies/quiet.yaml"
    assert share.find_policy("balanced", places) == places[2] / "policies/balanced.yaml"
    assert list(share.list_policies(places)) == ["balanced", "mine", "quiet"]


def test_an_unknown_name_is_refused_with_the_closest_one(places: list[Path]) -> None:
    with pytest.raises(ConfigError, match=r"no policy 'balansed' \(did you mean balanced\?\); known: balanced, mine"):
        share.find_policy("balansed", places)


def test_nothing_found_says_so(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no device profile 'x'; known: none found; or give the path"):
        share.find_profile("x", [tmp_path])


def test_a_path_is_taken_as_it_is(places: list[Path]) -> None:
    path = places[2] / "policies/balanced.yaml"

    assert share.find_policy(str(path), places) == path


def test_a_path_without_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such device profile file"):
        share.find_profile(str(tmp_path / "board.yaml"))


def test_shipped_files_are_found_beside_the_package() -> None:
    assert "generic-x86" in share.list_profiles()
    assert {"balanced", "max-efficiency", "max-performance", "quiet", "battery"} <= set(share.list_policies())


def test_the_owner_comes_first_and_the_system_last() -> None:
    roots = share.roots()

    assert roots[0] == Path("/etc/qeil")
    assert roots[-1] == Path("/usr/share/qeil")
