"""Every command block of the documents is typed into a shell by a test; here what tests/test_docs_blocks.py leaves.

A block runs as it stands there. `<!-- stand-ins: … -->` above one names programs that only note how they were called:
they would change this system, or take half an hour. `run` and `serve` stay, so they are left running in the background.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.llm.importer import import_gguf
from tests.evaluation.questions.server import serving
from tests.integration.agent_process import MAGIKA, model_file
from tests.llm.reference import write_model
from tests.mqtt.signed import KEY
from tests.runtimes import tiny
from tests.test_docs import DOCUMENTS, ROOT, blocks

BLOCK = re.compile(r"(?:<!-- stand-ins: ([\w ,-]+) -->\n)?^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)
ELSEWHERE = {
    ("docs/fleet.md", "qeil fleet keys"), ("docs/fleet.md", "cat > restart.yaml"),
    ("docs/fleet.md", "qeil fleet bundle"), ("docs/fleet.md", "make-certificates"),
}  # fmt: skip
"""Typed in tests/test_docs_blocks.py."""
QEIL = f"""#!{sys.executable}
import os, pathlib, subprocess, sys
here = pathlib.Path(__file__).parent
words = [sys.executable, "-m", "agent.cli.main", *sys.argv[1:]]
url = here / "url"
if url.exists():
    os.environ.setdefault("QEIL_URL", url.read_text())
if sys.argv[1:2] not in (["run"], ["fleet"]) or sys.argv[1:3] == ["fleet", "token"]:
    os.execv(words[0], words)
os.environ["QEIL_HTTP_PORT"] = "0"
with (here / "log").open("ab") as log:
    agent = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, start_new_session=True)
(here / f"pid-{{agent.pid}}").touch()
line = agent.stdout.readline().decode()
print(line)
if sys.argv[1] == "run" and line.startswith("ready "):
    url.write_text(line.split()[1])
sys.exit(0 if line.startswith("ready ") else 1)
"""
NOTES = '#!/bin/sh\n{ printf "%s" "${0##*/}"; printf " %s" "$@"; echo; } >> "$NOTES"\n'
SUDO = '#!/bin/sh\ncase " $STAND_INS " in *" ${1##*/} "*) exec "${1##*/}" "${@#/opt/qeil/bin/}";; esac\nexec "$@"\n'


class Shell:
    """A folder with programs of its own before those of this machine."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.program("qeil", QEIL)
        self.notes = folder / "notes"
        self.notes.touch()

    def program(self, name: str, text: str) -> None:
        path = self.bin / name
        path.write_text(text)
        path.chmod(0o755)

    def type(self, script: str, stand_ins: tuple[str, ...] = (), **environment: str) -> str:
        """What the block prints; it must not fail."""
        if "sudo" in stand_ins:
            self.program("sudo", SUDO)
        for name in stand_ins:
            if name != "sudo":
                self.program(name, NOTES)
        done = subprocess.run(
            ["bash", "-euc", script], cwd=self.folder, capture_output=True, text=True, timeout=600, check=False,
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "HOME": str(self.folder),
                 "NOTES": str(self.notes), "STAND_INS": " ".join(stand_ins), "COLUMNS": "200", **environment},
        )  # fmt: skip
        log = (self.bin / "log").read_text()[-2000:] if (self.bin / "log").exists() else ""
        assert done.returncode == 0, f"{done.stdout[-1500:]}\n{done.stderr[-3000:]}\n{log}"
        return done.stdout

    def noted(self) -> list[list[str]]:
        """How the stand-ins were called."""
        return [line.split() for line in self.notes.read_text().splitlines()]

    def end(self) -> None:
        """Whatever stays in the background ends, and is waited for."""
        for file in self.bin.glob("pid-*"):
            pid = int(file.name.removeprefix("pid-"))
            for number in (signal.SIGTERM, signal.SIGKILL):
                try:
                    os.killpg(pid, number)
                except ProcessLookupError:
                    break
                time.sleep(0.5 if number == signal.SIGTERM else 0)


@pytest.fixture(scope="module")
def shell(tmp_path_factory) -> Iterator[Shell]:
    """A newcomer's folder: the readme's settings with a model of their own and a small language model."""
    made = Shell(tmp_path_factory.mktemp("typed"))
    settings = yaml.safe_load(blocks(ROOT / "README.md", "yaml")[0])
    settings["models"].append({"name": "smollm2", "path": "./smollm2"})
    (made.folder / "my.yaml").write_text(yaml.safe_dump(settings))
    shutil.copy(model_file(*MAGIKA[1:]), made.folder / settings["models"][0]["path"])
    imported = import_gguf(write_model(made.folder / "m.gguf", context=1024), made.folder / "out").folder
    shutil.copytree(imported, made.folder / "smollm2")
    for name in ("docs", "systemd"):
        (made.folder / name).symlink_to(ROOT / name)
    yield made
    made.end()


def found(document: str, start: str) -> tuple[str, tuple[str, ...]]:
    """The block that begins so, and its stand-ins."""
    here = [(text, names) for names, text in BLOCK.findall((ROOT / document).read_text()) if text.startswith(start)]
    assert len(here) == 1, f"{document}: {len(here)} blocks begin with {start!r}"
    return here[0][0], tuple(name.strip() for name in here[0][1].split(",") if name.strip())


HERE = {
    ("README.md", "make demo"), ("README.md", "make install"), ("README.md", "qeil infer"), ("README.md", "curl "),
    ("systemd/README.md", "sudo apt install"), ("systemd/README.md", "sudo python3 -m venv"),
    ("docs/boards.md", "sudo apt install"), ("docs/boards.md", "sudo python3 -m pip"),
    ("docs/fleet.md", "pip install"), ("docs/sampling.md", "qeil evaluate"),
}  # fmt: skip


def test_no_block_is_left_out():
    typed = HERE | ELSEWHERE
    for document in DOCUMENTS:
        name = document.relative_to(ROOT).as_posix()
        for _, text in BLOCK.findall(document.read_text()):
            assert [start for where, start in typed if where == name and text.startswith(start)], f"{name}: {text}"


def test_the_targets_of_make_that_the_readme_begins_with_are_there(shell):
    before = len(shell.noted())
    shell.type(*found("README.md", "make demo"))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert shell.noted()[before:] == [["make", "demo"], ["make", "test"]]
    assert {"demo", "test"} <= targets


def test_the_readme_from_the_checkout_to_answers_of_a_model_and_of_a_language_model(shell):
    printed = shell.type(*found("README.md", "make install"))
    assert "no problems" in printed
    assert "ready http://127.0.0.1:" in printed
    assert "modelled" in shell.type(*found("README.md", "qeil infer"))
    url = (shell.bin / "url").read_text()
    asked, names = found("README.md", "curl ")
    once = asked.strip().replace("http://127.0.0.1:8484", url)
    loading = f'for _ in $(seq 90); do if out="$({once} --silent --fail)"; then break; fi; sleep 1; done; echo "$out"'
    answer = json.loads(shell.type(loading, names))
    assert answer["choices"][0]["message"]["content"]
    shell.end()


def sources(calls: list[list[str]]) -> list[str]:
    """What `install` and `pip` are asked to take from the checkout."""
    return [w for call in calls for w in call[1:] if re.match(r"(docs|systemd|deploy)/", w)]


@pytest.mark.parametrize(
    ("document", "start"),
    [("systemd/README.md", "sudo apt install"), ("systemd/README.md", "sudo python3 -m venv"),
     ("docs/boards.md", "sudo apt install"), ("docs/boards.md", "sudo python3 -m pip")],
)  # fmt: skip
def test_an_installation_is_typed_with_stand_ins_for_what_changes_this_system(document, start, tmp_path, shell):
    fresh = Shell(tmp_path)
    for name in ("docs", "systemd"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "agent.yaml").write_text("version: 1\nstate_dir: ./state\n")
    text, names = found(document, start)
    assert "sudo" in names
    environment = {"QEIL_STATE_DIR": str(tmp_path / "state")}
    script = text.replace("/etc/qeil", f"{tmp_path}/etc").replace("/opt/qeil/bin/qeil", "qeil")
    script = script.replace("/opt/qeil/bin/pip", "pip")
    if "qeil calibrate" in script:  # with a runtime that has three models to time, not a hundred
        environment |= {"QEIL_BACKENDS": str(tiny.written(tmp_path)), "QEIL_PROFILE": str(tiny.profile(tmp_path))}
    if "qeil status" in script:
        script = f"cd {shell.folder}; qeil run --config my.yaml; cd -\n{script}"
    fresh.type(script, names, **environment)
    fresh.end()
    extras = set(re.findall(r"^([a-z]+) = \[", (ROOT / "pyproject.toml").read_text(), re.MULTILINE))
    for call in fresh.noted():
        for asked in re.findall(r"qeil-agent\[([a-z,]+)\]", shlex.join(call)):
            assert set(asked.split(",")) <= extras
    for source in sources(fresh.noted()):
        assert (ROOT / source).is_file(), source


def test_a_controller_is_installed_given_a_token_and_started(tmp_path):
    shell = Shell(tmp_path)
    (tmp_path / "fleet.yaml").write_text(
        yaml.safe_dump({
            "version": 1, "name": "fleet-1", "database": f"sqlite:///{tmp_path}/fleet.db",
            "mqtt": {"host": "127.0.0.1", "port": 9},
            "http": {"port": 0, "tokens_file": str(tmp_path / "tokens")}, "trusted_keys": [KEY.public.text()],
        })
    )  # fmt: skip
    text, names = found("docs/fleet.md", "pip install")
    shell.type(text.replace("/etc/qeil", str(tmp_path)), names)
    shell.end()
    assert (tmp_path / "tokens").read_text().startswith("anna admin ")


def test_a_folder_and_a_server_are_evaluated_as_the_sampling_guide_says(shell):
    data = {"question": "What is 2 + 3?", "answer": "2 + 3 = 5\n#### 5"}
    (shell.folder / "test.jsonl").write_text(json.dumps(data) + "\n")
    text, names = found("docs/sampling.md", "qeil evaluate")
    fewer = text.replace("--samples 16", "--samples 2 --questions 2 --max-tokens 8").replace("FOLDER", "smollm2")
    with serving() as server:
        shell.type(fewer.replace("http://127.0.0.1:8000", server.url), names)
        assert server.requests
    assert (shell.folder / "run1.html").stat().st_size > 1000
