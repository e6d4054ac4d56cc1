"""Configuration: the settings of this run, from file, environment and command line."""

from __future__ import annotations

from pathlib import Path

from agent.schema.settings import Settings
from agent.storage import yaml_files

DEFAULT_FILE = Path("/etc/qeil/agent.yaml")


def load_settings(path: Path | None, overrides: dict[str, str], environ: dict[str, str]) -> Settings:
    """Settings from file or defaults, then environment, then `overrides` (QEIL_… too); ConfigError lists problems."""
    if path is None and DEFAULT_FILE.exists():
        path = DEFAULT_FILE
    variables = {**environ, **overrides}
    if path is None:
        return yaml_files.default_settings(variables)
    return yaml_files.load_settings(path, variables)
