"""Writes docs/reference-cli.md and docs/reference-http.md from the code: `python docs/reference.py`.

`--check` writes nothing and fails where a file is not what the code says.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from agent.api.access import Gate
from agent.api.app import EdgeApp
from agent.cli.main import cli
from agent.fleet.metrics import COUNTED, name_of
from agent.schema.settings import HttpSettings

HERE = Path(__file__).resolve().parent
AGENT = HERE.parent / "agent"


def commands(command: click.Command, words: str = "qeil") -> Iterator[tuple[str, click.Command]]:
    """Every command with the words that reach it, groups before what is in them."""
    context = click.Context(command, info_name=words)
    if not isinstance(command, click.Group):
        yield words, command
        return
    for name in command.list_commands(context):
        found = command.get_command(context, name)
        assert found is not None  # noqa: S101  (it was listed)
        yield from commands(found, f"{words} {name}")


def described(parameter: click.Parameter) -> str:
    """One row: how an option is written, and what it does."""
    context = click.Context(click.Command("qeil"), show_default=True)
    record = parameter.get_help_record(context)
    if record is None:
        return ""
    if not record[1]:
        return ""  # named in the usage line
    written, said = (text.replace("|", "\\|").replace("\n", " ") for text in record)
    return f"| `{written}` | {' '.join(said.split())} |\n"


def cli_reference() -> str:
    """All commands with their options."""
    parts = ["# Commands\n\nWritten from the code by `python docs/reference.py`. Exit status: 0 ok, 1 failed, 2 usage, "
             "78 a file or setting is wrong.\n"]  # fmt: skip
    for words, command in commands(cli):
        usage = " ".join(command.collect_usage_pieces(click.Context(command)))
        text = inspect.cleandoc(command.help or "").replace("\b\n", "").split("\f")[0]
        rows = "".join(map(described, command.params))
        table = f"\n| option | what it does |\n|---|---|\n{rows}" if rows else ""
        parts.append(f"\n## {words}\n\n`{words} {usage}`\n\n{text}\n{table}")
    return "".join(parts)


def sentence(endpoint: Any) -> str:
    """What an endpoint's documentation begins with."""
    found = endpoint if inspect.ismethod(endpoint) else type(endpoint)
    return (inspect.getdoc(found) or "").split("\n")[0]


async def _routes() -> list[tuple[str, str, str]]:
    service: Any = object()  # routes are only listed, nothing is asked
    app = EdgeApp(service, HttpSettings(), Gate(None, None), texts=service)
    return [(", ".join(sorted((route.methods or {"GET"}) - {"HEAD"})), route.path, sentence(route.endpoint))
            for route in app.routes]  # fmt: skip


def metrics(fleet: bool) -> list[tuple[str, str, str]]:
    """(name, kind, help) of every metric of a controller or of a board that is made with its name written out."""
    found = {(name_of(name), "counter", text) for name, text in COUNTED.items()} if fleet else set()
    for path in sorted(AGENT.rglob("*.py")):
        if (path.parent.name == "fleet") != fleet:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Metric":
                texts = [a.value for a in node.args[:3] if isinstance(a, ast.Constant)]
                if len(texts) == 3:
                    found.add(tuple(texts))
    return sorted(found)


def http_reference() -> str:
    """All paths and metrics of a board's agent, and the metrics of a fleet's controller."""
    rows = "".join(f"| {methods} | `{path}` | {text} |\n" for methods, path, text in asyncio.run(_routes()))
    board, fleet = (
        "".join(f"| `{name}` | {kind} | {text} |\n" for name, kind, text in metrics(fleet)) for fleet in (False, True)
    )
    return (
        "# HTTP of a board\n\nWritten from the code by `python docs/reference.py`. `/v2` is the Open Inference "
        "Protocol, `/v1` what OpenAI's clients speak. A fleet's controller describes itself: `/v1/openapi.json`.\n\n"
        f"| method | path | what it answers |\n|---|---|---|\n{rows}\n"
        "Errors are JSON with `error` and `code` (below `/v1` in OpenAI's form): 400 and 422 for the request, 401 "
        "without the key, 404, 405, 408, 413 beyond a bound, 503 with `Retry-After` where there is no room, 504 after the "
        "deadline.\n\n"
        "## Metrics\n\n`/metrics`, for Prometheus; SI units; what nobody knows has no sample. A histogram's lines are "
        "named NAME`_bucket`, NAME`_sum` and NAME`_count`.\n\n"
        f"| name | kind | what it counts |\n|---|---|---|\n{board}\n"
        "## Metrics of a fleet's controller\n\n`/metrics` of `qeil fleet serve`.\n\n"
        f"| name | kind | what it counts |\n|---|---|---|\n{fleet}"
    )


def main() -> int:
    """Write both files, or compare them."""
    wrong = 0
    for name, text in (("reference-cli.md", cli_reference()), ("reference-http.md", http_reference())):
        path = HERE / name
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        elif not path.exists() or path.read_text(encoding="utf-8") != text:
            print(f"docs/{name}: not what the code says; run: python docs/reference.py", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
