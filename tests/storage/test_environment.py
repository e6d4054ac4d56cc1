"""QEIL_ variables override single keys of the settings, checked like the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.errors import ConfigError
from agent.storage.environment import apply_environment, overrides, variables
from agent.storage.problem import problems_of
from agent.storage.yaml_files import default_settings, load_settings


@pytest.fixture
def settings_file(tmp_path: Path) -> Path:
    path = tmp_path / "etc" / "agent.yaml"
    path.parent.mkdir()
    path.write_text("version: 1\nstate_dir: state\nhttp: {port: 8484}\n")
    return path


def test_variables_name_keys_by_their_path() -> None:
    known = variables()

    assert known["QEIL_STATE_DIR"] == ("state_dir",)
    assert known["QEIL_HTTP_PORT"] == ("http", "port")
    assert known["QEIL_MQTT_TLS_CA"] == ("mqtt", "tls", "ca")
    assert "QEIL_MODELS" not in known
    assert "QEIL_VERSION" not in known


def test_an_override_leaves_the_data_it_was_given_alone() -> None:
    data = {"version": 1, "http": {"port": 1}}

    merged = apply_environment(data, overrides({"QEIL_HTTP_PORT": "9", "HOME": "/root", "QEIL_MQTT_HOST": "broker"}))

    assert merged == {"version": 1, "http": {"port": 9}, "mqtt": {"host": "broker"}}
    assert data == {"version": 1, "http": {"port": 1}}


def test_text_stays_text_and_null_is_null() -> None:
    merged = apply_environment(
        {}, overrides({"QEIL_BOARD": "007", "QEIL_HTTP_UNIX_SOCKET": "null", "QEIL_OUTBOX_FLUSH_S": "2"})
    )

    assert merged == {"board": "007", "http": {"unix_socket": None}, "outbox": {"flush_s": 2}}


def test_an_unknown_variable_is_refused_with_the_closest_one() -> None:
    with pytest.raises(ConfigError) as refused:
        overrides({"QEIL_HTPP_PORT": "9", "QEIL_QQQQQQQQ": "1", "QEIL_CONFIG": "/etc/x.yaml"})

    assert [p.text() for p in problems_of(refused.value)] == [
        "environment: QEIL_HTPP_PORT: no setting has this variable (did you mean QEIL_HTTP_PORT?)",
        "environment: QEIL_QQQQQQQQ: no setting has this variable",
    ]


def test_settings_take_overrides_and_resolve_paths(settings_file: Path) -> None:
    environ = {"QEIL_HTTP_PORT": "0", "QEIL_HTTP_API_KEY_FILE": "key", "QEIL_POLICY": "mine/policy.yaml"}

    settings = load_settings(settings_file, environ)

    assert settings.http.port == 0
    assert settings.state_dir == settings_file.parent / "state"
    assert settings.http.api_key_file == Path.cwd() / "key"
    assert settings.policy == str(Path.cwd() / "mine/policy.yaml")


def test_a_wrong_value_in_a_variable_is_reported_there(settings_file: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_settings(settings_file, {"QEIL_HTTP_PORT": "eighty"})

    (problem,) = problems_of(refused.value)
    assert problem.text() == (
        'environment: QEIL_HTTP_PORT: expected a whole number, without quotes or unit; found "eighty"'
    )


def test_what_is_wrong_in_the_file_and_in_variables_is_told_at_once(settings_file: Path) -> None:
    settings_file.write_text("version: 1\nboart: edge\n")

    with pytest.raises(ConfigError) as refused:
        load_settings(settings_file, {"QEIL_HTTP_PROT": "1", "QEIL_HTTP_PORT": "eighty"})

    assert [(p.file, p.line, p.key) for p in problems_of(refused.value)] == [
        (str(settings_file), 2, "boart"),
        ("environment", 0, "QEIL_HTTP_PORT"),
        ("environment", 0, "QEIL_HTTP_PROT"),
    ]


def test_without_a_file_a_wrong_variable_is_named_as_it_was_set() -> None:
    with pytest.raises(ConfigError) as refused:
        default_settings({"QEIL_HTTP_PROT": "1", "QEIL_HTTP_PORT": "eighty"})

    assert [(p.file, p.key) for p in problems_of(refused.value)] == [
        ("environment", "QEIL_HTTP_PORT"),
        ("environment", "QEIL_HTTP_PROT"),
    ]


def test_paths_of_models_and_names_of_profiles_are_told_apart(settings_file: Path) -> None:
    settings_file.write_text(
        "version: 1\nprofile: boards/mine.yaml\npolicy: quiet\nstate_dir: /abs\n"
        "models: [{name: a, path: a.onnx}, {name: b, path: ~/b.onnx}]\n"
    )

    settings = load_settings(settings_file)

    assert settings.profile == str(settings_file.parent / "boards/mine.yaml")
    assert settings.policy == "quiet"
    assert settings.state_dir == Path("/abs")
    assert [m.path for m in settings.models] == [settings_file.parent / "a.onnx", Path.home() / "b.onnx"]
