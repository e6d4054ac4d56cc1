from __future__ import annotations

import pytest

from agent.cli import main
from agent.llm.folder import open_folder
from agent.llm.generation import Prompt, generate
from agent.llm.importer import import_gguf
from agent.llm.session import DecoderSession
from tests.llm.reference import write_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    base = tmp_path_factory.mktemp("generate")
    return import_gguf(write_model(base / "m.gguf"), base / "out").folder


@pytest.fixture
def run(capsys):
    """Exit code, stdout and stderr of a command line."""

    def called(*arguments):
        code = main.run(["generate", *map(str, arguments), "--threads", "1"])
        return code, *capsys.readouterr()

    return called


def test_text_is_what_the_decoder_writes_through_the_chat_template(folder, run):
    opened = open_folder(folder)
    ids = tuple(opened.encode("<user>hi<assistant>", special=False))
    expected = "".join(p.text for p in generate(DecoderSession(opened, threads=1), Prompt(ids, 8)))
    code, out, err = run(folder, "hi", "--max-tokens", 8)
    assert (code, out) == (0, f"{expected}\n")
    assert "tokens/s (measured); energy unknown" in err


def test_raw_text_is_continued_and_a_stop_string_ends_it(folder, run):
    whole = run(folder, "the", "--raw", "--max-tokens", 12)[1].rstrip("\n")
    stop = whole[4:6]
    assert run(folder, "the", "--raw", "--max-tokens", 12, "--stop", stop)[1].rstrip("\n") == whole.split(stop)[0]


def test_samples_are_shown_one_a_line_and_a_seed_repeats_them(folder, run):
    asked = (folder, "hi", "-n", 3, "--temperature", 2, "--seed", 5, "--max-tokens", 4)
    first = run(*asked)[1]
    assert all(f"[{number}]" in first for number in (1, 2, 3))
    assert run(*asked)[1] == first


def test_a_form_is_kept(folder, run, tmp_path):
    schema, grammar = tmp_path / "s.json", tmp_path / "g.gbnf"
    schema.write_text('{"enum": ["ab", "cd"]}')
    grammar.write_text('root ::= "yes" | "no"')
    assert run(folder, "hi", "--form", schema, "--max-tokens", 9)[1] in {'"ab"\n', '"cd"\n'}
    assert run(folder, "hi", "--form", grammar, "--max-tokens", 9)[1] in {"yes\n", "no\n"}
    assert run(folder, "hi", "--form", "json", "--max-tokens", 5)[1].startswith("{")


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [("s.txt", "", "expected json"), ("s.json", "{", "cannot be read"), ("s.json", None, "No such file"),
     ("g.gbnf", "root ::= x", "not found")],
)  # fmt: skip
def test_a_form_that_is_none_is_one_line(folder, run, tmp_path, name, text, says):
    file = tmp_path / name
    if text is not None:
        file.write_text(text)
    code, out, err = run(folder, "hi", "--form", file, "--max-tokens", 9)
    assert (code, out) == (1, "")
    assert says in err


@pytest.mark.parametrize(
    ("arguments", "says"), [(["--mode", "quick"], "no mode 'quick'"), (["--max-tokens", 5000], "context is 64")]
)
def test_what_cannot_be_done_is_one_line(folder, run, arguments, says):
    code, out, err = run(folder, "hi", *arguments)
    assert (code, out) == (1, "")
    assert says in err


def test_a_folder_that_is_none_says_how_to_make_one(tmp_path, run):
    code, _, err = run(tmp_path, "hi")
    assert code == 1
    assert "qeil models import" in err
