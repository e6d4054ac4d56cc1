"""Questions put to a decoder folder in this process."""

from __future__ import annotations

import math

import pytest
from click.testing import CliRunner

from agent.cli.evaluate import evaluate_command
from agent.errors import BadInput
from agent.evaluation.questions.decoder import Decoder
from agent.llm.importer import import_gguf
from tests.llm.reference import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("decoder")
    write_model(root / "tiny.gguf", "llama", "Q4_1")
    import_gguf(root / "tiny.gguf", root / "tiny")
    return root / "tiny"


def test_samples_follow_the_seed_and_carry_tokens_time_and_log_probability(folder):
    decoder = Decoder(folder, 6, 1.0)
    first, again, other = (decoder.sample("How many?", 3, seed) for seed in (1, 1, 2))
    assert [d.text for d in first] == [d.text for d in again] != [d.text for d in other]
    assert all(1 <= d.tokens <= 6 and d.seconds > 0 and d.mean_logprob <= 0 for d in first)
    assert {(d.joules, d.provenance) for d in first} == {(None, "unknown")}


def test_a_greedy_sample_does_not_depend_on_the_seed(folder):
    decoder = Decoder(folder, 6, 1.0)
    assert decoder.sample("x", 1, 1, greedy=True)[0].text == decoder.sample("x", 1, 2, greedy=True)[0].text


def test_log_probabilities_of_a_text_are_those_of_its_tokens(folder):
    values = Decoder(folder, 6, 1.0).logprobs("abcdef")
    assert values
    assert all(value <= 0 and math.isfinite(value) for value in values)


def test_a_question_that_the_context_does_not_hold_is_said_and_kept_for_a_resume(folder, tmp_path):
    result = CliRunner().invoke(evaluate_command, [
        "--dataset", "choice", "--model", str(folder), "--out", str(tmp_path / "run"), "--questions", "2",
        "--samples", "2", "--max-tokens", "4", "--json",
    ])  # fmt: skip
    assert isinstance(result.exception, BadInput)
    assert "the context is 64" in str(result.exception)
    assert (tmp_path / "run" / "samples.jsonl").is_file()


def test_a_model_that_is_no_folder_needs_a_server(tmp_path):
    command = ["--dataset", "choice", "--model", "nothing", "--out", str(tmp_path)]
    with pytest.raises(BadInput, match="give --url"):
        CliRunner().invoke(evaluate_command, command, catch_exceptions=False)
