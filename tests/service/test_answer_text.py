"""Which two texts give one answer, and which never do."""

from __future__ import annotations

import pytest

from agent.service.decoding.answer_text import answer_in


@pytest.mark.parametrize(
    ("text", "kind", "answer"),
    [
        ("so 40 + 2 = 42.0", "number", "42"), ("none", "number", None), ("the answer is B", "choice", "B"),
        ("  Paris!\n", "text", "paris"), ("", "text", None),
    ],
)  # fmt: skip
def test_the_answer_is_what_two_texts_can_agree_on(text, kind, answer):
    assert answer_in(text, kind, ("A", "B")) == answer


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        *(("text", one, other) for one, other in (
            ("x < 3", "x > 3"), ("-5", "5"), ("C++", "C#"), ("a+b", "a-b"), ("50 %", "$50"), ("दिन", "दान"),
            ("1.5", "1, 5"), ("10²", "102"), ("a" * 3000 + "1", "a" * 3000 + "2"), ("5!", "5"),
        )),
        *(("number", one, other) for one, other in (
            ("5 km", "5 m"), ("1/2", "3/2"), ("5 %", "$5"), ("5", "5 kg"), ("5 h", "5 min"), ("5 m²", "5 m³"),
            ("5 m^2", "2 m^2"),
            ("5 apples", "5 oranges"), ("5 apples", "5"), ("**5** apples", "**5** oranges"), ("3:2 km", "3:2 m"),
            ("100 200 300", "100200300"), ("100 200 300", "300"), ("100 200 300", "200 300"), ("12 345", "11 345"),
            ("100 200 km", "100 200 m"), ("12:30 p.m.", "12:30 a.m."),
            ("5xyz", "5abc"), ("5 m/s", "5 m"), ("5 million", "5 billion"), ("5 °C", "5 °F"), ("2:30", "3:30"),
        )),
        ("code", "  1", "1"), ("code", "a  b", "a b"),
    ],
)  # fmt: skip
def test_answers_that_contradict_each_other_never_agree(kind, one, other):
    assert answer_in(one, kind) != answer_in(other, kind)


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("text", "**Paris**", " paris. "), ("text", "Straße", "STRASSE"), ("text", "１２", "12"),
        ("text", '"No."', "no"),
        ("number", "5 km", "it is 5000 m."), ("number", "1/2", "0.5"), ("number", "2 hours", "120 min"),
        ("number", "$0.50", "50 cents"), ("number", "5 in all", "5"), ("number", "18 km/h", "5 m/s"),
        ("number", "it is 12:30 p.m.", "12:30 PM"), ("number", "3:2", "a 3:2 ratio"), ("number", "5 therefore", "5"),
        ("number", "12:30p.m.", "12:30 pm"), ("number", "5 apples", "so **5** Apples."), ("number", "1 box", "1 boxes"),
        ("number", "1 000 000", "1,000,000"),
        ("number", "1 berry", "1 berries"), ("number", "100 200 300", "it is 100 200 300."),
        ("number", "5 miles per hour", "5 mph"), ("number", "1.5 kWh", "5.4 MJ"), ("number", "3 kilograms", "3000 g"),
        ("number", "2 million", "2000000"), ("code", "a = 1  \nb\n", "a = 1\nb"),
    ],
)  # fmt: skip
def test_answers_that_say_the_same_in_other_words_agree(kind, one, other):
    assert answer_in(one, kind) == answer_in(other, kind)
