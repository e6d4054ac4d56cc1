"""What the documents tell people to type exists, and what can be run here is run as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from agent.cli.client import AgentClient
from agent.cli.main import cli
from tests.integration.agent_process import MAGIKA, AgentProcess, model_file

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "systemd" / "README.md", ROOT / "deploy" / "grafana" / "README.md",
             *sorted((ROOT / "docs").glob("*.md"))]  # fmt: skip
QUICK = {"plan", "explain", "schema", "detect"}
"""Commands of the documents that only read, and end within seconds."""


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)


def commands(path: Path) -> list[str]:
    """Every `qeil …` of the document, from its blocks and from the middle of its sentences."""
    text = path.read_text()
    lines = [line for block in blocks(path, "sh") for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    quoted = re.findall(r"`(qeil [^`]+)`", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    found = [re.split(r"\s+#|&&|\|", line)[0].strip() for line in [*lines, *quoted]]
    return [" ".join(line.split()).removeprefix("sudo ") for line in found if re.match(r"(sudo )?qeil ", line)]


EVERY = sorted({(path.relative_to(ROOT).as_posix(), line) for path in DOCUMENTS for line in commands(path)})


def resolve(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that the words name, and the words behind its name."""
    command: click.Command = cli
    context = click.Context(cli)
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        assert found is not None, f"there is no command {words[0]!r}"
        command, words = found, words[1:]
    return command, words


@pytest.mark.parametrize(("document", "line"), EVERY, ids=lambda value: value[:60])
def test_every_command_that_is_written_down_exists_with_its_options(document, line):
    command, words = resolve(shlex.split(line.replace("…", ""))[1:])
    options = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    for word in words:
        if word.startswith("--"):
            assert word.partition("=")[0] in options | {"--help"}, line


def test_there_are_commands_to_check():
    assert len(EVERY) > 20


RUNNABLE = sorted({
    line for _, line in EVERY
    if line.split()[1] in QUICK and "--problem" not in line and "--plot" not in line and "…" not in line
    and (len(line.split()) > 2 or line.split()[1] == "detect") and not re.search(r"\b[A-Z]{3,}\b|[|.]", line)
})  # fmt: skip


@pytest.mark.parametrize("line", RUNNABLE)
def test_commands_that_only_read_run_as_they_are_written(line):
    done = subprocess.run(
        [sys.executable, "-m", "agent.cli.main", *shlex.split(line)[1:]], capture_output=True, text=True, cwd=ROOT,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_between_documents_lead_somewhere(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_a_newcomer_with_the_readme_alone_serves_a_model_of_their_own(tmp_path):
    """The readme's settings file and its commands, typed one after the other; calibration is the demo's to test."""
    readme = ROOT / "README.md"
    settings = yaml.safe_load(blocks(readme, "yaml")[0])
    shutil.copy(model_file(*MAGIKA[1:]), tmp_path / settings["models"][0]["path"])
    (tmp_path / "my.yaml").write_text(blocks(readme, "yaml")[0])
    typed = [line for line in commands(readme) if line.split()[1] in {"check", "run", "infer", "status"}]
    assert {"qeil check my.yaml", "qeil run --config my.yaml", "qeil infer magika", "qeil status"} <= set(typed)

    def type_in(line: str, *more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "agent.cli.main", *shlex.split(line)[1:], *more], capture_output=True, text=True,
            cwd=tmp_path, timeout=120, check=False, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "no problems" in type_in("qeil check my.yaml")
    agent = AgentProcess(tmp_path, {k: v for k, v in settings.items() if k != "version"} | {"state_dir": "./state"})
    try:
        url = agent.wait_ready()
        assert "modelled" in type_in("qeil infer magika", "--url", url)
        assert "magika" in type_in("qeil status", "--url", url)
        assert "magika" in type_in("qeil top --once", "--url", url)
        with AgentClient(url) as client:
            assert client.get("/overview")["placements"]["magika"]["why"].startswith("cpu")
    finally:
        agent.stop()
