"""Every mistake people make in these files is named with its file, its line, its key and its remedy."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.cli.check import check_file
from agent.storage import share

BROKEN = Path(__file__).parent / "broken"

CASES: list[tuple[str, int, str, str | None]] = [
    # file, line, key, suggestion
    ("alias-bomb", 5, "e.3", None),
    ("always-stale", 12, "thermal.stale_after_s", None),
    ("board-bandwidth-in-gigabytes", 8, "memory_domains.0.bandwidth_gb_s", "bandwidth_bytes_per_s"),
    ("board-bare-number", 20, "accelerators.0.base_power_w", "{value: 3, provenance: assumed, source: …}"),
    ("board-empty-source", 20, "accelerators.0.base_power_w.source", None),
    ("board-link-with-one-end", 24, "links.0.between", None),
    ("board-no-source", 20, "accelerators.0.base_power_w.source", None),
    ("board-options-as-numbers", 15, "accelerators.0.runtimes.0.options.threads", '"4"'),
    ("board-provider-misspelt-backend", 15, "accelerators.0.runtimes.0.backend", "onnx"),
    ("board-reserved-above-capacity", 7, "memory_domains.0.reserved_bytes", None),
    ("board-unknown-domain", 13, "accelerators.0.memory_domain", None),
    ("board-unknown-precision", 17, "accelerators.0.peak_flops_per_s.float32", None),
    ("board-value-with-unit", 20, "accelerators.0.base_power_w.value", "3"),
    ("board-zone-twice", 23, "zones.1.name", None),
    ("bytes-with-unit", 23, "admission.max_body_bytes", "67108864"),
    ("control-character", 3, "", None),
    ("deadlines-contradict", 21, "admission.default_deadline_s", None),
    ("duplicate-key", 39, "standby", None),
    ("empty", 2, "", None),
    ("float-for-count", 23, "admission.max_body_bytes", "64000000"),
    ("fraction-for-count", 37, "recovery.max_replays", None),
    ("key-in-milliwatts", 15, "power_cap_mw", "power_cap_w"),
    ("key-without-unit", 9, "thermal.hard", "hard_c"),
    ("list-for-mapping", 16, "memory", None),
    ("many-problems", 8, "thermal.soft_f", "soft_c"),
    ("many-problems", 9, "thermal.hard_c", "88"),
    ("many-problems", 37, "recovery.max_replays", None),
    ("many-problems", 38, "standby", None),
    ("method-without-weights", 5, "objective.method", None),
    ("missing-limit", 7, "thermal.stale_after_s", None),
    ("missing-section", 1, "memory", None),
    ("misspelt-key", 5, "objective.methode", "method"),
    ("misspelt-section", 41, "telemetrie", "telemetry"),
    ("name-in-capitals", 2, "name", "my-policy"),
    ("negative-power", 15, "power_cap_w", None),
    ("nested-too-deep", 2, "name.0.0", None),
    ("not-a-mapping", 1, "", None),
    ("not-finite", 15, "power_cap_w", None),
    ("not-utf8", 3, "", None),
    ("number-in-fahrenheit", 9, "thermal.hard_c", "85"),
    ("number-in-milliseconds", 36, "recovery.ramp_s", "0.5"),
    ("number-with-unit", 9, "thermal.hard_c", "88"),
    ("percent-as-number", 13, "thermal.derate_share", "0.5"),
    ("percent-sign", 35, "recovery.ramp_start_share", "0.5"),
    ("pinned-and-forbidden", 40, "pinned", None),
    ("quoted-number-with-unit", 15, "power_cap_w", "10"),
    ("quoted-number", 8, "thermal.soft_c", "75"),
    ("settings-bad-like", 7, "simulated_accelerators.0.like", None),
    ("settings-colour", 5, "colour", None),
    ("settings-host-number", 4, "http.host", '"127.0"'),
    ("settings-model-twice", 10, "models.1.name", None),
    ("settings-model-without-anything", 6, "models.0", None),
    ("settings-model-without-path", 7, "models.0.path", None),
    ("settings-models-mapping", 5, "models", None),
    ("settings-name-null", 6, "models.0.name", None),
    ("settings-open-without-key", 4, "http.host", None),
    ("settings-port-at-top", 3, "port", "http.port"),
    ("settings-port-too-large", 5, "http.port", None),
    ("settings-state-dir-number", 2, "state_dir", '"7"'),
    ("settings-tls-file-key", 5, "mqtt.tls.certfile", "certificate"),
    ("settings-tls-without-key", 6, "http.tls_certificate", None),
    ("settings-version-is-number", 9, "models.0.version", '"1.0"'),
    ("settings-wrong-log-level", 3, "log_level", "warning"),
    ("soft-above-hard", 8, "thermal.soft_c", None),
    ("tab-indent", 9, "", None),
    ("text-for-list", 40, "pinned", "[gpu]"),
    ("two-documents", 42, "", None),
    ("unclosed-bracket", 42, "", None),
    ("undefined-alias", 2, "name", None),
    ("unknown-kind", 2, "", None),
    ("unknown-tag", 2, "name", None),
    ("unknown-unit-fahrenheit", 8, "thermal.soft_f", "soft_c"),
    ("version-as-text", 1, "version", "1"),
    ("weights-all-zero", 6, "objective.weights", None),
    ("wrong-choice", 38, "standby", "warm"),
    ("yaml11-boolean", 25, "admission.reject_non_finite", "true"),
]

WORDS = {
    "unknown-unit-fahrenheit": "soft_c is in degrees Celsius",
    "number-with-unit": 'expected a number (degrees Celsius), without quotes or unit; found "88C"',
    "bytes-with-unit": "expected a whole number (bytes)",
    "missing-limit": "missing key 'stale_after_s' (seconds)",
    "soft-above-hard": "soft_c (95) must be below hard_c (88)",
    "duplicate-key": "the first one is on line 16",
    "tab-indent": "a tab indents this line",
    "not-utf8": "0xfc is not UTF-8",
    "alias-bomb": "more than 50000 values",
    "nested-too-deep": "nested deeper than 32 levels",
    "unknown-tag": "python/object:os.system is not supported",
    "two-documents": "a second document starts here",
    "unclosed-bracket": "not valid YAML",
    "empty": "the file is empty",
    "unknown-kind": "cannot tell from its keys",
    "board-unknown-domain": "there is no 'vram' (known: dram)",
    "board-unknown-precision": "known here: fp32, fp16, bf16, int8, int4",
    "always-stale": "every reading counts as stale",
    "list-for-mapping": "expected a mapping with the keys max_cpq",
    "settings-open-without-key": "set api_key_file",
}


@pytest.mark.parametrize("name", sorted({name for name, *_ in CASES}))
def test_a_broken_file_is_reported_with_exactly_its_problems(name: str) -> None:
    found = [(p.line, p.key, p.suggestion) for p in check_file(BROKEN / f"{name}.yaml")]

    assert found == [(line, key, suggestion) for file, line, key, suggestion in CASES if file == name]


@pytest.mark.parametrize("name", sorted(WORDS))
def test_the_message_says_what_is_wrong(name: str) -> None:
    assert WORDS[name] in check_file(BROKEN / f"{name}.yaml")[0].message


def test_every_broken_file_has_its_expectation() -> None:
    assert {path.stem for path in BROKEN.glob("*.yaml")} == {name for name, *_ in CASES}


def test_a_problem_reads_file_line_key_message_and_suggestion() -> None:
    path = BROKEN / "key-in-milliwatts.yaml"

    text = check_file(path)[0].text()

    assert text == (
        f"{path}:15: power_cap_mw: unknown key 'power_cap_mw'; power_cap_w is in watts (did you mean power_cap_w?)"
    )


def test_a_key_of_the_top_that_stands_further_in_is_told_where_it_belongs(tmp_path: Path) -> None:
    file = tmp_path / "agent.yaml"
    file.write_text("version: 1\nmodels:\n  - name: a\n    path: a.onnx\n    isolation: thread\n")

    assert [p.text() for p in check_file(file) if "isolation" in p.key] == [
        f"{file}:5: models.0.isolation: unknown key 'isolation' here; it belongs to the top of the file"
    ]


@pytest.mark.parametrize(("written", "meant"), [("1.99", None), ("85", "0.85"), ("2", "0.02"), ("101", None)])
def test_a_share_above_one_is_taken_for_percent_only_where_it_can_be_meant_as_that(
    tmp_path: Path, written: str, meant: str | None
) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text(
        share.find_policy("balanced").read_text().replace("quality_floor: 0.99", f"quality_floor: {written}")
    )
    (problem,) = check_file(path)
    assert (problem.key, problem.suggestion) == ("quality_floor", meant)
