"""Official files are read; what is broken is skipped with its line; answers are taken as the harnesses take them."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadInput
from agent.evaluation.questions import generated, reading
from agent.evaluation.questions.extraction import canonical_number, choice_in, extract, number_in
from agent.evaluation.questions.question import Question

GSM8K = {
    "question": "A train has 3 cars with 24 seats each. 10 seats are taken. How many are free?",
    "answer": "There are 3*24=<<3*24=72>>72 seats.\n72-10=<<72-10=62>>62 are free.\n#### 62",
}
ARC = {
    "id": "Mercury_1", "answerKey": "B",
    "question": {"stem": "Melts ice?", "choices": [{"text": "cold", "label": "A"}, {"text": "heat", "label": "B"}]},
}  # fmt: skip
ARC_TABLE = {
    "id": "X_2", "question": "Which is metal?", "answerKey": "2",
    "choices": {"text": ["wood", "iron"], "label": ["1", "2"]},
}  # fmt: skip


def file_of(tmp_path, *lines) -> object:
    path = tmp_path / "test.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return path


def test_official_lines_of_both_sets_and_both_layouts_are_questions(tmp_path):
    found = reading.read(file_of(tmp_path, GSM8K, ARC, ARC_TABLE, "")).questions
    assert [(q.kind, q.truth) for q in found] == [("number", "62"), ("choice", "B"), ("choice", "2")]
    assert found[2].choices == (("1", "wood"), ("2", "iron"))
    assert found[0].prompt().endswith("####.")
    assert "B. heat" in found[1].prompt()


@pytest.mark.parametrize(("broken", "why"), [
    ("{", "Expecting"), ("[]", "not a JSON object"), ({"x": 1}, "neither answer"),
    ({**GSM8K, "answer": "62"}, "no number after"), ({**GSM8K, "question": " "}, "question must be"),
    ({**ARC, "answerKey": "C"}, "none of the choices"), ({**ARC, "id": 3}, "id must be"),
    ({**ARC_TABLE, "choices": {"text": ["a"], "label": ["1", "2"]}}, "as many labels"),
    ({**ARC, "question": {"stem": "x", "choices": [{"label": "A"}, {"label": "B"}]}}, "label and a text"),
    ({**ARC, "question": {"stem": "x", "choices": []}}, "choices must be"),
    ({**ARC_TABLE, "choices": {"text": ["a", "b"], "label": ["2", "2"]}}, "same label"), (ARC, "was there before"),
    ({**ARC_TABLE, "choices": {"text": None, "label": None}}, "as many labels"),
    ({**ARC_TABLE, "choices": 5}, "as many labels"),
    ({**ARC_TABLE, "choices": {"text": "ab", "label": "12"}}, "as many"),
    ({**ARC_TABLE, "choices": {"text": [None, "b"], "label": ["1", "2"]}}, "which are texts"),
    ({**ARC, "question": {"stem": "x", "choices": ["AB", "CD"]}}, "label and a text"),
    ({**ARC, "answerKey": "\ud800"}, "none of the choices"), ({**GSM8K, "id": [1]}, "id must be"),
    ({**GSM8K, "question": "half \ud800"}, "surrogate"),
])  # fmt: skip
def test_a_broken_line_is_skipped_counted_and_named(tmp_path, broken, why):
    found = reading.read(file_of(tmp_path, GSM8K, ARC, broken))
    assert len(found.questions) == 2
    assert [s.line for s in found.skipped] == [3]
    assert why in found.skipped[0].reason
    assert found.skipped[0].reason.encode()


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(["A", "#### 5"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["label", "text", "stem", "choices"]), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.sampled_from(["id", "question", "answer", "answerKey", "choices"]), ANY), st.data())
def test_no_line_of_json_ends_the_reading(line, data):
    whole = data.draw(st.sampled_from([GSM8K, ARC, ARC_TABLE, {}]))
    found = reading.parsed("x", [json.dumps({**whole, **line}), json.dumps({**GSM8K, "id": "the next line"})])
    assert len(found.questions) + len(found.skipped) == 2
    assert found.questions[-1].id == "the next line"
    json.dumps([vars(question) for question in found.questions], ensure_ascii=False).encode()


def test_a_limit_reads_no_further(tmp_path):
    assert len(reading.read(file_of(tmp_path, GSM8K, ARC), limit=1).questions) == 1


def test_files_without_a_question_are_refused_in_one_line(tmp_path):
    with pytest.raises(BadInput, match="line 1: neither"):
        reading.read(file_of(tmp_path, {"x": 1}))
    with pytest.raises(BadInput, match="it is empty"):
        reading.read(file_of(tmp_path, ""))
    with pytest.raises(BadInput, match="no such file"):
        reading.read(tmp_path / "gone.jsonl")
    with pytest.raises(BadInput, match="no such file"):
        reading.read(tmp_path)


@pytest.mark.parametrize(("text", "number"), [
    ("so it is #### 1,234", "1234"), ("#### 3\nno, #### $42.50.", "3"), ("#### $42.50.", "42.5"),
    ("The answer is -7.", "-7"),
    ("first 3, then 12 apples", "12"), ("0042", "42"), ("#### 5.0", "5"), ("none", None), ("#### -0", "0"),
    ("1" * 60, "1" * 60), ("1" * 500, None),
])  # fmt: skip
def test_numbers_are_taken_after_the_mark_else_the_last_one(text, number):
    assert number_in(text) == number


@pytest.mark.parametrize(("text", "label"), [
    ("The answer is B.", "B"), ("Answer: (c)", "C"), ("A. cold", "A"), ("I think it is B", "B"), ("(D)", "D"),
    ("Because of heat.", None), ("The answer is Z.", None), ("answer is A, no, the answer is **C**", "C"),
    ("Answer: Because", None),
])  # fmt: skip
def test_letters_are_taken_where_they_are_named_else_where_they_stand_alone(text, label):
    assert choice_in(text, "ABCD") == label


@pytest.mark.parametrize(("text", "number"), [
    ("#### −5", "-5"), ("#### .5", "0.5"), ("1e6", "1000000"), ("2.5e3", "2500"), ("1 000 000", "1000000"),
    ("10-15", "15"), (r"\boxed{\frac{1}{2}} of 7", "0.5"), ("3 1/2", "3.5"), ("1/3", "1/3"), ("-1/2", "-0.5"),
    ("123456789012345678901234567891", "123456789012345678901234567891"), ("１２", "12"),
    ("10³", "1000"), ("1½", "1.5"),
    ("5 × 10^6", "5000000"), ("1.234,56", "1234.56"), ("1,2,3", "3"), ("3:2", "3:2"), ("1/0", None), ("1e9999", None),
    ("#### 18\n\nQ: next?\nA: #### 99", "18"),
])  # fmt: skip
def test_numbers_are_read_exactly_in_every_usual_spelling(text, number):
    assert number_in(text) == number


@pytest.mark.parametrize(("text", "label"), [
    ("The answer is a bit tricky, so I choose B.", "B"), ("The answer is not B. It is C.", "C"),
    ("The answer is not A", None), (r"\boxed{B}", "B"), ("**B**", "B"),
    ("The answer is: B, because answer A is false.", "B"),
    ("Answer A is wrong. B.", "B"), ("A. foo\nB. bar\nThe right one: C", "C"), ("A. x\nB. y\nC. z\nD. w", None),
    ("B is right", "B"), ("The correct answer is option B", "B"),
])  # fmt: skip
def test_a_label_that_is_denied_or_a_word_of_the_sentence_is_no_answer(text, label):
    assert choice_in(text, "ABCD") == label


def test_labels_of_several_letters_are_whole_words():
    assert choice_in("The answer is yes", ["yes", "no"]) == "yes"
    assert choice_in("No.", ["yes", "no"]) == "no"
    assert choice_in("I know nothing", ["yes", "no"]) is None
    assert choice_in("well yes it does", ["yes", "no"]) == "yes"


@pytest.mark.parametrize("text", [r"\boxed{" * 3000, "1," * 5000, "not A " * 3000, '"' * 20000, "111 " * 5000])
def test_texts_made_to_be_slow_are_read_all_the_same(text):
    assert number_in(text) in {None, "1", "111" * 5000}
    assert choice_in(text, "AB") is None


@pytest.mark.parametrize(("written", "truth"), [("#### 1/2", "0.5"), ("#### 1e6", "1000000"), ("#### 5\n#### 7", "5")])
def test_a_truth_is_the_number_after_the_first_mark_whole(written, truth):
    assert reading.parsed("x", [json.dumps({**GSM8K, "answer": written})]).questions[0].truth == truth


def test_a_byte_order_mark_loses_no_question(tmp_path):
    path = tmp_path / "bom.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(GSM8K).encode())
    assert len(reading.read(path).questions) == 1


@given(st.text(max_size=200))
def test_any_text_is_looked_at_without_failing(text):
    number = number_in(text)
    assert number is None or canonical_number(number) == number
    assert choice_in(text, ["A", "B"]) in {"A", "B", None}


@pytest.mark.parametrize("task", generated.TASKS)
def test_generated_questions_are_the_same_for_a_seed_and_answer_themselves(task):
    lines = generated.lines(task, 50, seed=3)
    assert lines == generated.lines(task, 50, seed=3) != generated.lines(task, 50, seed=4)
    found = reading.parsed("x", lines)
    assert len(found.questions) == 50
    assert not found.skipped
    for question in found.questions:
        said = f"#### {question.truth}" if question.kind == "number" else f"The answer is {question.truth}."
        assert extract(question, said) == question.truth


def test_generated_arithmetic_is_what_its_steps_say():
    for line in generated.lines("arithmetic", 100):
        steps = json.loads(line)["answer"].split("\n")[:-1]
        for step in steps:
            left, right = step.split("=<<")[0], step.rsplit(">>", 1)[1]
            assert eval(left) == int(right)  # noqa: S307  (digits and operators made here)


def test_an_unknown_task_is_refused():
    with pytest.raises(ValueError, match="arithmetic"):
        generated.lines("poetry", 1)


def test_only_the_end_of_an_endless_text_is_looked_at():
    question = Question("1", "number", "x", "5")
    assert extract(question, "7 " + "x" * 200_000 + " 5") == "5"
