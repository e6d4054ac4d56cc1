"""What is learnt from clients that say which answers were right."""

from __future__ import annotations

import pytest

from agent.errors import BadInput, NotFound, StorageError
from agent.sampling.reliability import Source, Vote
from agent.service.decoding import answer_book
from agent.service.decoding.answer_book import AnswerBook, Given
from agent.service.decoding.answer_store import AnswerStore

CPU, NPU = (Source("m", "number", "as served", name) for name in ("cpu", "npu"))


def of(source, *answers):
    return tuple(Vote(source, answer) for answer in answers)


def given(answer="42", votes=("42", "42", "7"), source=CPU, **changes):
    votes = of(source, *votes) if isinstance(votes[0], str) else votes
    return Given(**{"model": "m", "kind": "number", "choices": (), "votes": votes, "answer": answer,
                    "confidence": 0.6, **changes})  # fmt: skip


def told(book, truth=None, right=None, **changes):
    book.remember("r", given(**changes))
    return book.tell("r", truth, right)


def test_a_source_gains_and_loses_by_what_is_told():
    book = AnswerBook()
    first = book.weigh(of(CPU, "42", "42")).confidence
    for _ in range(10):
        assert told(book, "42", votes=("42", "42")).right is True
    trusted = book.weigh(of(CPU, "42", "42")).confidence
    for _ in range(30):
        assert told(book, "41", votes=("42", "42")).right is False
    assert trusted > first > book.weigh(of(CPU, "42", "42")).confidence


def test_the_truth_is_read_as_answers_are():
    assert told(AnswerBook(), "It is 42.0").right is True
    with pytest.raises(BadInput, match="no answer of the kind 'number'"):
        told(AnswerBook(), "who knows")


def test_a_truth_that_cannot_be_read_leaves_the_answer_open():
    book = AnswerBook()
    book.remember("r", given())
    with pytest.raises(BadInput):
        book.tell("r", "nothing", None)
    assert book.tell("r", "42", None).right is True


def test_right_or_wrong_of_the_answer_is_enough():
    book = AnswerBook()
    assert told(book, right=True).right is True
    assert told(book, right=False).right is False
    assert book.scores().outcomes == 2


def test_an_answer_that_was_not_given_is_neither_right_nor_wrong():
    with pytest.raises(BadInput, match="no answer was given"):
        told(AnswerBook(), right=True, answer=None)
    outcome = told(AnswerBook(), "42", answer=None)
    assert outcome.right is None
    assert outcome.scores.brier is None


@pytest.mark.parametrize("twice", [True, False])
def test_an_answer_is_told_of_once_and_an_unknown_one_is_said(twice):
    book = AnswerBook()
    if twice:
        told(book, right=True)
    with pytest.raises(NotFound, match="'r'"):
        book.tell("r", None, True)


def test_answers_held_are_bounded_in_number_and_in_samples(monkeypatch):
    monkeypatch.setattr(answer_book, "MAX_ANSWERS", 3)
    monkeypatch.setattr(answer_book, "MAX_VOTES", 8)
    book = AnswerBook()
    for number in range(5):
        book.remember(str(number), given(votes=("42",)))
    with pytest.raises(NotFound):
        book.tell("1", None, True)
    book.remember("long", given(votes=("42",) * 7))
    with pytest.raises(NotFound):
        book.tell("3", None, True)
    assert book.tell("4", None, True).right is True


def test_sources_are_bounded_and_known_ones_go_on_learning(monkeypatch):
    monkeypatch.setattr(answer_book, "MAX_SOURCES", 1)
    book = AnswerBook()
    told(book, right=True)
    told(book, right=True, source=NPU)
    told(book, right=True)
    (only,) = book.scores().sources
    assert (only.accelerator, only.evidence) == ("cpu", pytest.approx(0.96 * 2 / 3 + 0.96 / 3 + 2 / 3 + 1 / 3))


def test_of_an_answer_from_two_accelerators_each_learns_from_its_own_samples():
    book = AnswerBook()
    for _ in range(20):
        told(book, "42", votes=(*of(CPU, "42", "42"), *of(NPU, "9", "9")))
    cpu, npu = book.scores().sources
    assert (cpu.accelerator, npu.accelerator) == ("cpu", "npu")
    assert cpu.reliability > 0.9
    assert npu.reliability < 0.1
    assert book.weigh((*of(CPU, "42"), *of(NPU, "9", "9"))).answer == "42"


def test_of_more_sources_than_are_kept_the_known_ones_learn(monkeypatch):
    monkeypatch.setattr(answer_book, "MAX_SOURCES", 1)
    book = AnswerBook()
    told(book, "42", votes=(*of(CPU, "42"), *of(NPU, "42")))
    told(book, "42", votes=of(NPU, "42"))
    assert [source.accelerator for source in book.scores().sources] == ["cpu"]


def test_an_accelerator_whose_answers_are_worse_is_named():
    book = AnswerBook()
    for _ in range(20):
        told(book, "42", votes=("42",), source=CPU)
        told(book, "42", votes=("9",), answer="9", source=NPU)
    assert book.scores().sick == ("m on npu (number)",)


def test_checks_learn_how_often_right_and_wrong_answers_pass():
    book = AnswerBook()
    steps = (("42", "self_check", "pass", 1.0, 0.7), ("7", "self_check", "fail", 1.0, 0.7),
             ("42", "derive_again", "unknown", 1.0, 0.7))  # fmt: skip
    before = book.check("self_check", 2.0)
    for _ in range(500):
        told(book, "42", steps=steps)
    after = book.check("self_check", 2.0)
    assert after.passes_right > 0.95 > before.passes_right
    assert after.passes_wrong < 0.05 < before.passes_wrong
    assert after.cost_j == 2.0
    assert sum(after.right) == pytest.approx(answer_book.MAX_EVIDENCE)
    assert book.check("derive_again", 0.0).right == answer_book.PRIORS["derive_again"][0]


def test_of_a_wrong_answer_only_its_own_checks_are_judged():
    book = AnswerBook()
    steps = (("42", "self_check", "pass", 1.0, 0.7), ("7", "self_check", "pass", 1.0, 0.7))
    told(book, right=False, steps=steps)
    assert sum(book.check("self_check", 0.0).wrong) == sum(answer_book.PRIORS["self_check"][1]) + 1


def test_confidence_is_scored_against_what_was_told():
    book = AnswerBook()
    told(book, right=True, confidence=0.8)
    told(book, right=False, confidence=0.6)
    scores = book.scores()
    assert scores.brier == pytest.approx((0.04 + 0.36) / 2)
    assert scores.calibration_error == pytest.approx((0.2 + 0.6) / 2)


def test_what_was_learnt_survives_a_restart(tmp_path):
    store = AnswerStore(tmp_path / "answers.json")
    book = AnswerBook(store)
    for _ in range(5):
        told(book, "42", steps=(("42", "self_check", "fail", 1.0, 0.5),))
    again = AnswerBook(store)
    assert again.scores() == book.scores()
    assert again.outcomes == 5
    assert again.weigh(of(CPU, "42", "7")) == book.weigh(of(CPU, "42", "7"))


@pytest.mark.parametrize("text", ["{", "[]", '{"calibration": [1]}', '{"calibration": [1, 0, 4, 0, 4]}'])
def test_a_damaged_file_begins_anew(tmp_path, text):
    (tmp_path / "answers.json").write_text(text)
    book = AnswerBook(AnswerStore(tmp_path / "answers.json"))
    assert book.scores() == AnswerBook().scores()
    assert told(book, right=True).right is True


def test_a_full_disk_costs_no_answer():
    class Full:
        def load(self):
            return None

        def save(self, document):
            raise StorageError("full")

    assert told(AnswerBook(Full()), right=True).right is True


def test_a_truth_without_a_unit_is_not_held_against_an_answer_with_one():
    book = AnswerBook()
    vote = Vote(Source("m", "number", "exact", "cpu"), "5000 m")
    for number in ("a", "b"):
        book.remember(number, Given("m", "number", (), (vote,), "5000 m", None))
    with pytest.raises(BadInput, match=r"has one \(m\)"):
        book.tell("a", "5", None)
    assert book.tell("a", "5 km", None).right
    assert book.tell("b", "5 m", None).right is False


def test_a_truth_without_a_noun_is_of_what_was_asked_about():
    assert told(AnswerBook(), "42", answer="42 apple", votes=("42 apple", "7 apple")).right is True
    assert told(AnswerBook(), "41", answer="42 apple", votes=("42 apple", "7 apple")).right is False
    assert told(AnswerBook(), "42 pears", answer="42 apple", votes=("42 apple", "7 apple")).right is False
    assert told(AnswerBook(), "300", answer="100 200 300", votes=("100 200 300", "7")).right is False
    with pytest.raises(BadInput, match="has no unit"):
        told(AnswerBook(), "42", answer="42 m/s^2", votes=("42 m/s^2", "7"))
