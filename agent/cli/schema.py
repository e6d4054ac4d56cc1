"""`qeil schema`: JSON Schemas of the files, for editors that complete and check while one types."""

from __future__ import annotations

import json
from typing import Any

import click

from agent.storage.file_kinds import KINDS, Kind, schema_of


def json_schema(kind: Kind) -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a kind of file."""
    schema = schema_of(kind).model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def schema_text(kind: Kind) -> str:
    """The schema as it is printed, and kept in docs/schemas."""
    return json.dumps(json_schema(kind), indent=2, ensure_ascii=False)


@click.command(name="schema")
@click.argument("kind", type=click.Choice(KINDS))
def schema_command(kind: Kind) -> None:
    """Print the JSON Schema of a kind of file.

    For the language server of an editor: `# yaml-language-server: $schema=FILE` as first line of the YAML file.
    """
    click.echo(schema_text(kind))
