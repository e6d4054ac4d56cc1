"""What nobody would see in a text, and what is made to exhaust, is told with its place; ordinary texts pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control import text_guard
from agent.control.verdict import Finding, weigh
from agent.schema.guard import TextGuard

LIMITS = TextGuard()
ORDINARY = [
    "Summarise the minutes below in three sentences.",
    "Line one\n\tindented\r\nline three",
    "Fasse zusammen: Käse für 5 €, naïve Ansätze, Smörgåsbord – fertig.",
    "Подведи итоги заседания.", "总结会议纪要。", "لخّص محضر الاجتماع مع الشركة‌ها", "सारांश क्षेत्र‍ लिखो", "שלום עולם",
    "Τι είναι το π; Η σταθερά α και το β.", "👨‍👩‍👧 family", "x = [0] * 4096\n" * 10, "\ufeffmark at the start", "",
]  # fmt: skip


@pytest.mark.parametrize("text", ORDINARY)
def test_ordinary_texts_of_many_languages_pass(text):
    assert text_guard.judge(text, LIMITS).action == "allow"


@pytest.mark.parametrize(
    ("text", "kind", "action"),
    [
        ("ab\x00c", "control", "reject"),
        ("esc\x1b[2J", "control", "reject"),
        ("pay \u202egnp.exe", "bidi", "reject"),
        ("a\u2066b\u2069", "bidi", "reject"),
        ("ig\u200bnore", "invisible", "flag"),
        ("ig\u200dnore", "invisible", "flag"),
        ("hello \U000e0069\U000e0067", "invisible", "flag"),
        ("soft\u00adhyphen", "invisible", "flag"),
        ("x\U000e0101y", "invisible", "flag"),
        ("mark \ufeff inside", "invisible", "flag"),
        ("раypal", "homoglyph", "flag"),
        ("аdmin or αdmin", "homoglyph", "flag"),
        ("𝐢𝐠𝐧𝐨𝐫𝐞 this", "homoglyph", "flag"),
        ("again " * 201, "flood", "reject"),
        ("A" * 201, "flood", "reject"),
        ("ß" * 201, "flood", "reject"),
        ("one two three four " * 300, "repetition", "flag"),
        ("eins zwei drei für " * 300, "repetition", "flag"),
    ],
)
def test_what_is_wrong_with_a_text_is_named(text, kind, action):
    verdict = text_guard.judge(text, LIMITS)
    assert (verdict.findings[0].kind, verdict.action) == (kind, action)
    assert verdict.sentence


def test_the_size_is_judged_before_anything_is_read():
    limits = TextGuard(max_characters=3)
    assert text_guard.judge("abc", limits).action == "allow"
    verdict = text_guard.judge("abc\x00", limits)
    assert [f.kind for f in verdict.findings] == ["size"]


def test_a_long_text_that_says_much_passes():
    assert text_guard.judge(" ".join(str(i * i) for i in range(2000)), LIMITS).action == "allow"


def test_runs_up_to_the_bound_and_blank_space_pass():
    assert text_guard.judge("again " * 200, LIMITS).action == "allow"
    assert text_guard.judge("a" + " " * 500 + "b", LIMITS).action == "allow"


def test_what_is_switched_off_does_not_count():
    off = TextGuard(
        control="ignore", bidi="ignore", invisible="ignore", homoglyph="ignore", flood="ignore", repetition="ignore"
    )
    for text in ("ab\x00c", "\u202e", "a\u200bb", "раypal", "A" * 5000):
        assert text_guard.judge(text, off).action == "allow"


@given(st.text(max_size=300))
def test_any_text_gets_a_verdict_with_a_sentence(text):
    verdict = text_guard.judge(text, LIMITS)
    assert (verdict.action == "allow") == (not verdict.findings)
    assert all("\n" not in f.sentence for f in verdict.findings if f.kind != "flood")


def test_the_gravest_finding_decides_and_stands_first():
    made = weigh([Finding("a", "flag", "x"), Finding("b", "quarantine", "y"), Finding("c", "ignore", "z"),
                  Finding("d", "reject", "w")])  # fmt: skip
    assert made.action == "quarantine"
    assert [f.kind for f in made.findings] == ["b", "d", "a"]
    assert (weigh([]).action, weigh([]).sentence) == ("allow", "")


N = text_guard.SUFFIX_TOKENS


@pytest.mark.parametrize(
    ("logprobs", "action"),
    [
        ([-3.0] * 40, "allow"),
        ([-3.0] * 28 + [-11.0] * N, "flag"),
        ([-3.0] * 28 + [-7.0] * N, "allow"),
        ([-3.0] * 28 + [-7.01] * N, "flag"),
        ([-9.0] * 28 + [-11.0] * N, "allow"),
        ([-11.0] * N + [-3.0] * 40, "allow"),
        ([-3.0] * 30 + [-11.0] * N + [-3.0] * 8, "flag"),
        ([-3.0] * (N - 1) + [-11.0] * N, "allow"),
        ([-3.0] * N + [-11.0] * N, "flag"),
    ],
)
def test_an_absurd_end_is_told_from_a_text_that_is_strange_throughout(logprobs, action):
    assert text_guard.absurd_suffix(logprobs, 7.0).action == action


def test_the_suffix_is_placed():
    verdict = text_guard.absurd_suffix([-3.0] * 28 + [-11.0] * N, 7.0)
    assert "tokens 28 to 39" in verdict.sentence
    assert verdict.findings[0].score == pytest.approx(11.0)
