"""Files load as checked schemas; digests follow the content and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.storage import share, units
from agent.storage.problem import Problem, config_error, problems_of
from agent.storage.schema_problems import closest
from agent.storage.yaml_files import detect_kind, digest, load_policy, load_profile, load_settings

BALANCED = share.find_policy("balanced")


def test_a_digest_does_not_depend_on_comments_order_or_spelling_of_numbers(tmp_path: Path) -> None:
    lines = [line.split("#")[0].rstrip() for line in BALANCED.read_text().splitlines()]
    bare = "\n".join(line for line in lines if line).replace("soft_c: 75", "soft_c: 7.5e1")
    telemetry = bare.index("telemetry:")
    path = tmp_path / "reordered.yaml"
    path.write_text(bare[telemetry:] + "\n" + bare[:telemetry])

    assert digest(load_policy(path)) == digest(load_policy(BALANCED))


def test_a_digest_changes_with_the_wishes(tmp_path: Path) -> None:
    path = tmp_path / "hotter.yaml"
    path.write_text(BALANCED.read_text().replace("soft_c: 75", "soft_c: 76"))

    assert digest(load_policy(path)) != digest(load_policy(BALANCED))


def test_shipped_policies_have_different_digests() -> None:
    digests = {digest(load_policy(path)) for path in share.list_policies([BALANCED.parent.parent]).values()}

    assert len(digests) == 5
    assert all(len(d) == 64 for d in digests)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ({"version": 1}, "settings"),
        ({"version": 1, "state_dir": "x"}, "settings"),
        ({"version": 1, "name": "x", "objective": {}}, "policy"),
        ({"version": 1, "name": "x", "accelerators": [], "memory_domains": []}, "board"),
        ({"version": 1, "name": "x", "thermal": {}}, None),
        ({"colour": "red"}, None),
        ({}, None),
    ],
)
def test_the_kind_of_a_file_follows_from_its_keys(data: dict[str, object], kind: str | None) -> None:
    assert detect_kind(data) == kind


def test_a_file_that_cannot_be_read_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.yaml: cannot be read: No such file or directory"):
        load_settings(tmp_path / "gone.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load_profile(tmp_path)


def test_a_pipe_or_a_device_is_refused_instead_of_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero")):
        for load in (load_settings, load_policy, load_profile):
            with pytest.raises(ConfigError, match="is no regular file but a pipe, socket or device"):
                load(path)


def test_an_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.touch()
    os.truncate(path, 1 << 40)

    with pytest.raises(ConfigError, match="at most 1048576 are read"):
        load_policy(path)


def test_the_error_says_the_first_problem_and_carries_all_in_file_order() -> None:
    late, early, same = Problem("f", 9, "b", "x"), Problem("f", 2, "a", "y", "z"), Problem("f", 9, "a", "x")

    error = config_error([late, early, same])

    assert error.message == "f:2: a: y (did you mean z?) (and 2 more problems; `qeil check` lists them)"
    assert problems_of(error) == (early, same, late)


def test_an_error_without_problems_counts_as_one() -> None:
    assert problems_of(ConfigError("no such policy")) == (Problem("", 0, "", "no such policy"),)


@pytest.mark.parametrize(
    ("text", "key", "number"),
    [
        ("85C", "soft_c", 85),
        ("85 °C", "soft_c", 85),
        ("212F", "soft_c", 100),
        ("500 mW", "power_cap_w", 0.5),
        ("10", "power_cap_w", 10),
        ("2 GiB", "capacity_bytes", 2**31),
        ("17.1 GB/s", "bandwidth_bytes_per_s", 17.1e9),
        ("33 TOPS", "peak_flops_per_s", 33e12),
        ("1.5h", "ramp_s", 5400),
        ("50 %", "derate_share", 0.5),
        ("10 W", "soft_c", None),
        ("10 W", "max_replays", None),
        ("1:30", "ramp_s", None),
        ("hot", "soft_c", None),
    ],
)
def test_a_number_with_a_unit_is_converted_where_that_is_clear(text: str, key: str, number: float | None) -> None:
    found = units.number_in(text, units.unit_of(key))

    assert found == (number if number is None else pytest.approx(number))


@pytest.mark.parametrize(
    ("word", "known", "meant"),
    [
        ("soft_f", ("hard_c", "soft_c"), "soft_c"),
        ("soft", ("hard_c", "soft_c"), "soft_c"),
        ("soft_c", ("soft_c",), "soft_c"),
        ("POLICY", ("policy", "profile"), "policy"),
        ("powr_cap_mw", ("power_cap_w", "name"), "power_cap_w"),
        ("colour", ("power_cap_w", "name"), None),
    ],
)
def test_the_closest_key_ignores_units_and_case(word: str, known: tuple[str, ...], meant: str | None) -> None:
    assert closest(word, known) == meant


@pytest.mark.parametrize(
    ("data", "path", "kind"),
    [
        ({"version": 1, "name": "p", "thermal": {"soft_c": 90, "hard_c": 80}}, None, "policy"),
        ({"version": 1, "name": "p", "thermal": {"nodes": []}}, None, "board"),
        ({"version": 1, "name": "p", "thermal": {}}, "policies/p.yaml", "policy"),
        ({"version": 1, "name": "p", "thermal": {}}, "device_profiles/p.yaml", "board"),
        ({"verion": 1}, "etc/agent.yaml", "settings"),
        ({"version": 1, "name": "p", "thermal": {}}, None, None),
        ({"nonsense": 1}, "x.yaml", None),
    ],
)
def test_nested_keys_and_the_files_name_decide_where_top_keys_fit_two(data, path, kind):
    from pathlib import Path

    assert detect_kind(data, None if path is None else Path(path)) == kind


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("otlp: {endpoint: 'file:///etc/passwd'}", "must begin with http:// or https://"),
        ("otlp: {endpoint: 'https://c/v1?token=x'}", "only the collector's address"),
        ("otlp: {endpoint: 'https://me:x@c/v1'}", "belong into headers_file"),
        ("mqtt: {host: b, trusted_keys: [abc]}", "must be a public key as `qeil fleet keys generate` prints it"),
        ("simulated_accelerators: [{name: a, like: nothing}]", "must be written BOARD/ACCELERATOR"),
    ],
)
def test_a_text_of_the_wrong_form_is_told_the_form_of_its_own_key(tmp_path, text, words):
    file = tmp_path / "agent.yaml"
    file.write_text(f"version: 1\n{text}\n")
    with pytest.raises(ConfigError, match=words):
        load_settings(file, {})


def test_a_large_bound_is_written_with_all_its_digits(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("version: 1\noutbox: {max_daily_bytes: 100000}\n")
    with pytest.raises(ConfigError, match="must be at least 1048576 "):
        load_settings(file)
