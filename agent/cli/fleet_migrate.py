"""`qeil fleet migrate`: the fleet's database to this version's layout, or into another database."""

from __future__ import annotations

import json

import click

from agent import extras


@click.command("migrate")
@click.option("--database", required=True, help="sqlite:///FILE or postgresql://USER@HOST/NAME, as in fleet.yaml")
@click.option("--to", help="an empty database that takes everything over; the first one stays as it is")
@click.option("--json", "as_json", is_flag=True, help="one object")
def migrate_command(database: str, to: str | None, as_json: bool) -> None:
    """Bring the fleet's database to the layout of this version; with --to, copy it into another one.

    Stop the controllers before: boards keep what they have meanwhile.
    """
    from agent.errors import ConfigError

    try:
        from agent.fleet import moving, tables
        from agent.fleet.store import open_engine
    except ModuleNotFoundError as error:
        raise ConfigError(f"the fleet's side needs more: {extras.command('fleet')}") from error
    source = open_engine(database)
    try:
        if to is None:
            click.echo(json.dumps({"layout": tables.LAYOUT}) if as_json else f"layout {tables.LAYOUT}")
            return
        target = open_engine(to)
        try:
            counts = moving.move(source, target)
        finally:
            target.dispose()
    finally:
        source.dispose()
    if as_json:
        click.echo(json.dumps({"layout": tables.LAYOUT, "rows": counts}))
        return
    for name, rows in counts.items():
        click.echo(f"{rows:>10}  {name}")
    click.echo("every table has as many rows there as here; set `database` in fleet.yaml and start the controllers")
