"""Command blocks of the documents are run as they stand there, with stand-ins only for what a machine may not have."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from agent.api.openai_request import decode
from tests.integration.agent_process import MAGIKA, model_file
from tests.test_docs import DOCUMENTS, ROOT, blocks

PASSWORD = {"QEIL_FLEET_PASSWORD": "of a test"}


def run(script: str, folder: Path, **environment: str) -> subprocess.CompletedProcess:
    """A block typed into a shell that stops at the first error, with `qeil` of this checkout in its PATH."""
    bin_folder = folder / "bin"
    bin_folder.mkdir(exist_ok=True)
    qeil = bin_folder / "qeil"
    qeil.write_text(f'#!/bin/sh\nexec {sys.executable} -m agent.cli.main "$@"\n')
    sender = bin_folder / "mosquitto_pub"
    sender.write_text(f'#!/bin/sh\necho "$@" >> {folder}/sent\n')
    for file in (qeil, sender):
        file.chmod(0o755)
    path = f"{bin_folder}:{ROOT / 'deploy' / 'mosquitto'}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euc", script], cwd=folder, capture_output=True, text=True, timeout=120, check=False,
        env={"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(folder), **environment},
    )  # fmt: skip


def block(document: str, start: str) -> str:
    """The document's command block that has a line beginning so."""
    found = [b for b in blocks(ROOT / document, "sh") if any(line.startswith(start) for line in b.splitlines())]
    assert len(found) == 1, f"{document}: {len(found)} blocks with {start!r}"
    return found[0]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A folder after the fleet guide's first block: the key."""
    folder = tmp_path_factory.mktemp("fleet")
    done = run(block("docs/fleet.md", "qeil fleet keys"), folder, **PASSWORD)
    assert done.returncode == 0, done.stderr
    assert (folder / "fleet.key").is_file()
    return folder


def test_a_command_is_signed_and_sent_as_the_fleet_guide_says(fleet):
    done = run(block("docs/fleet.md", "qeil fleet sign"), fleet, **PASSWORD)
    assert done.returncode == 0, done.stderr
    assert set(json.loads((fleet / "message").read_text())) == {"v", "doc", "sig"}
    assert "-f message" in (fleet / "sent").read_text()


def test_a_bundle_is_made_as_the_fleet_guide_says(fleet):
    shutil.copy(model_file(*MAGIKA[1:]), fleet / "magika-v2.onnx")
    policy = (ROOT / "policies" / "balanced.yaml").read_text()
    (fleet / "calm.yaml").write_text(policy.replace("\nname: balanced\n", "\nname: calm\n"))
    line = block("docs/fleet.md", "qeil fleet bundle").replace("…", "example.org")
    done = run(line, fleet, **PASSWORD)
    assert done.returncode == 0, done.stderr


def test_a_token_is_made_as_the_fleet_guide_says(fleet):
    typed = block("docs/fleet.md", "qeil fleet token").splitlines()
    line = next(line for line in typed if line.startswith("qeil fleet token")).replace("/etc/qeil/", "")
    done = run(line, fleet)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()
    assert done.stdout.split()[-1] not in (fleet / "tokens").read_text()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed: apt-get install openssl")
def test_certificates_are_made_as_the_fleet_guide_says(tmp_path):
    done = run(block("docs/fleet.md", "make-certificates").replace("/secure/", f"{tmp_path}/"), tmp_path)
    assert done.returncode == 0, done.stderr
    assert {"ca.crt", "broker.crt", "acme.edge-01.crt", "fleet-backend.crt"} <= {
        p.name for p in (tmp_path / "fleet").iterdir()
    }


def worded(text: str) -> str:
    """Without line breaks, padding and figures."""
    return re.sub(r"\d[\d.]*", "#", " ".join(text.split()))


TRANSCRIPTS = [
    text for path in DOCUMENTS for text in re.findall(r"^```\n\$ (.*?)^```", path.read_text(), re.MULTILINE | re.DOTALL)
]


@pytest.mark.parametrize("text", TRANSCRIPTS, ids=lambda text: text[:40])
def test_what_a_document_shows_a_command_to_print_is_what_it_prints(text, tmp_path):
    """Word for word; figures may move with the coefficients."""
    command, *shown = text.splitlines()
    done = run(command, tmp_path, COLUMNS="400")
    assert done.returncode == 0, done.stderr
    for part in re.split(r"…|\n", "\n".join(shown)):
        assert worded(part) in worded(done.stdout), part


def test_the_chat_request_of_the_readme_is_one():
    typed = block("README.md", "curl ")
    body = re.search(r"-d '(.*)'", typed, re.DOTALL)
    assert body is not None
    asked = decode(body.group(1).encode(), chat=True, request_id="r", deadline_s=None)
    assert asked.text.model == "smollm2"
    assert asked.plan is not None


def test_every_make_target_of_the_documents_is_there():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        text = document.read_text()
        typed = re.findall(r"`make ([a-z-]+)(?: [A-Z_]+=\S+)*`", text) + [
            name for b in blocks(document, "sh") for name in re.findall(r"^make ([a-z-]+)", b, re.MULTILINE)
        ]
        assert set(typed) <= targets, document
