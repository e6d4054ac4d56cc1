"""The secret key of the fleet as commands need it: which file, and its password."""

from __future__ import annotations

import getpass
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import click

from agent.errors import BadInput

if TYPE_CHECKING:
    from agent.mqtt.signing_key import SigningKey

DEFAULT_KEY = Path("fleet.key")
key_option = click.option(
    "--key", "key_path", type=click.Path(path_type=Path), default=DEFAULT_KEY, show_default=True, help="the secret key"
)


def load_key(path: Path) -> SigningKey:
    """The key, its password asked for where it has one. BadInput or StorageError say what is wrong."""
    from agent.mqtt import signing_key

    return signing_key.load(path, password(confirm=False) if signing_key.needs_password(path) else None)


def password(confirm: bool) -> str:
    """From QEIL_FLEET_PASSWORD, or asked for."""
    given = os.environ.get("QEIL_FLEET_PASSWORD")
    if given is not None:
        return given
    with warnings.catch_warnings():
        warnings.simplefilter("error", getpass.GetPassWarning)  # instead of showing what is typed
        try:
            return str(click.prompt("Password of the key", hide_input=True, confirmation_prompt=confirm, err=True))
        except getpass.GetPassWarning as error:
            raise BadInput("no terminal to ask for the key's password on: set QEIL_FLEET_PASSWORD") from error
