"""A run goes on, and is compared, with the questions and the model it was begun with, and by one process at a time."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput
from agent.evaluation.questions import generated
from agent.evaluation.questions.journal import Journal
from tests.evaluation.questions.server import serving


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_text("\n".join(generated.lines("sums", 3, 1)))
    return path


def called(*arguments: str) -> str:
    result = CliRunner().invoke(evaluate_command, [*arguments, "--samples", "2"])
    if result.exception is not None:
        raise result.exception
    return result.output


def asked(url: str, data: Path, *more: str) -> str:
    return called("--dataset", "gsm8k", "--data", str(data), "--model", "toy", "--url", url,
                  "--out", str(data.parent / "run"), *more)  # fmt: skip


def test_a_run_is_not_resumed_or_replayed_with_other_questions_of_the_same_number(data):
    run = str(data.parent / "run")
    with serving() as server:
        asked(server.url, data)
        assert "3 questions" in called("--replay", run, "--data", str(data))
        data.write_text("\n".join(generated.lines("sums", 3, 2)))
        with pytest.raises(BadInput, match="of other questions"):
            asked(server.url, data)
    with pytest.raises(BadInput, match="of other questions"):
        called("--replay", run, "--data", str(data))


def test_a_run_is_not_resumed_with_another_server(data):
    with serving() as server:
        asked(server.url, data)
        asked(server.url + "/", data)
    with serving() as other, pytest.raises(BadInput, match="with url"):
        asked(other.url, data)


def test_a_password_in_the_address_is_not_kept(data):
    with serving() as server:
        asked(server.url.replace("//", "//me:secret@"), data)
    assert "secret" not in (data.parent / "run" / "samples.jsonl").read_text()


def test_a_recording_without_a_digest_goes_on_and_that_is_said_once(data):
    journal = data.parent / "run" / "samples.jsonl"
    with serving() as server:
        asked(server.url, data)
        head, _, rest = journal.read_text().partition("\n")
        header = json.loads(head)["header"]
        assert {"questions_sha256", "url", "mode"} <= set(header)
        older = {key: header[key] for key in header if key not in {"questions_sha256", "url", "mode"}}
        journal.write_text(json.dumps({"header": older}) + "\n" + rest)
        assert asked(server.url, data).count("holds no digest of its questions") == 1
    assert called("--replay", str(journal), "--data", str(data)).count("holds no digest of its questions") == 1


def test_a_mode_is_of_a_folder(data):
    with pytest.raises(BadInput, match="--url takes none"):
        asked("127.0.0.1:1", data, "--mode", "fast")


def test_two_runs_do_not_write_to_one_folder(data):
    with serving() as server:
        asked(server.url, data)
        (data.parent / "other").mkdir()
        held = Journal(data.parent / "other", {"dataset": "x", "model": "m"})
        with pytest.raises(BadInput, match="another run is writing there"):
            Journal(data.parent / "other", {"dataset": "x", "model": "m"})
        held.close()
        Journal(data.parent / "other", {"dataset": "x", "model": "m"}).close()


def test_a_refused_header_lets_the_folder_go(tmp_path):
    Journal(tmp_path, {"dataset": "x", "model": "m"}).close()
    with pytest.raises(BadInput, match="model"):
        Journal(tmp_path, {"dataset": "x", "model": "other"})
    Journal(tmp_path, {"dataset": "x", "model": "m"}).close()
