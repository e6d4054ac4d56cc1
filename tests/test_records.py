"""A record is a dataclass of the library in all that its users see, but for the guard of frozen ones."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from dataclasses import asdict, astuple, dataclass, field, fields, replace
from functools import cached_property
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.records import record

OPTIONS = [
    {}, {"frozen": True}, {"frozen": True, "eq": False}, {"eq": False}, {"frozen": True, "order": True},
    {"frozen": True, "slots": True}, {"repr": False}, {"frozen": True, "kw_only": True}, {"unsafe_hash": True},
]  # fmt: skip


def two_classes(options: dict[str, Any], fields_of: Callable[[], dict[str, Any]]) -> tuple[type, type]:
    """The same class as a record and as the library makes it."""
    made = []
    for decorate in (record, dataclass):
        body = {"__module__": __name__, "__qualname__": "Seen", "__doc__": "Seen.", **fields_of()}
        made.append(decorate(**options)(type("Seen", (), body)))
    return made[0], made[1]


def three_fields() -> dict[str, Any]:
    return {
        "__annotations__": {"a": "int", "b": "str", "c": "list[int]"},
        "b": field(default="x", compare=False), "c": field(default_factory=list, repr=False, hash=False),
    }  # fmt: skip


CLASSES = {str(options): two_classes(options, three_fields) for options in OPTIONS}


def said(ask: Callable[[], object]) -> object:
    """The answer, or the kind of the error."""
    try:
        return ask()
    except (TypeError, AttributeError) as error:
        return type(error)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@given(st.lists(st.tuples(st.integers(0, 2), st.sampled_from("xy"), st.lists(st.integers(0, 1))), min_size=2))
def test_it_compares_hashes_and_shows_itself_as_the_librarys_does(options, values):
    mine, theirs = CLASSES[str(options)]
    ours = [mine(a=a, b=b, c=c) for a, b, c in values]
    plain = [theirs(a=a, b=b, c=c) for a, b, c in values]
    by_value = options.get("eq", True)

    assert [[one == other for other in ours] for one in ours] == [[one == other for other in plain] for one in plain]
    assert said(lambda: ours[0] < ours[1]) == said(lambda: plain[0] < plain[1])
    assert asdict(ours[0]) == asdict(plain[0])
    if options.get("repr", True):
        assert [repr(one) for one in ours] == [repr(one) for one in plain]
    if by_value:
        assert [said(lambda one=one: hash(one)) for one in ours] == [said(lambda one=one: hash(one)) for one in plain]
        assert replace(ours[0], b="z") == ours[0]
        assert copy.deepcopy(ours[0]) == ours[0]
    assert ours[0] != plain[0]


@pytest.mark.parametrize("count", [0, 1, 2])
def test_one_with_few_fields_compares_and_hashes_all_of_them(count):
    names = ["a", "b"][:count]
    mine, theirs = two_classes({"frozen": True}, lambda: {"__annotations__": dict.fromkeys(names, "int")})
    values = dict.fromkeys(names, 3)

    assert mine(**values) == mine(**values)
    assert hash(mine(**values)) == hash(theirs(**values))
    if count:
        assert mine(**values) != mine(**values | {"a": 4})


@pytest.mark.parametrize("method", ["__eq__", "__hash__", "__repr__"])
@pytest.mark.parametrize("options", [{}, {"frozen": True}], ids=str)
def test_what_a_class_says_of_itself_stays(options, method):
    own = {"__eq__": lambda *_: True, "__hash__": lambda _: 7, "__repr__": lambda _: "me"}[method]
    mine, theirs = two_classes(options, lambda: {"__annotations__": {"a": "int"}, method: own})

    assert said(lambda: hash(mine(1))) == said(lambda: hash(theirs(1)))
    assert (mine(1) == mine(2)) is (theirs(1) == theirs(2))
    assert repr(mine(1)) == repr(theirs(1))


@record(frozen=True)
class Shown:
    """One that refers to another and remembers what it works out."""

    name: str
    inner: Shown | None = None

    @cached_property
    def length(self) -> int:
        """Of its name."""
        return len(self.name)


@record(frozen=True)
class Longer(Shown):
    """One with a field more."""

    more: tuple[int, ...] = ()


def test_it_may_be_nested_derived_pickled_and_remember():
    whole = Longer("outer", Shown("inner"), (1, 2))

    assert repr(whole) == "Longer(name='outer', inner=Shown(name='inner', inner=None), more=(1, 2))"
    assert (whole.length, pickle.loads(pickle.dumps(whole))) == (5, whole)  # noqa: S301 - made here
    assert [f.name for f in fields(whole)] == ["name", "inner", "more"]
    assert astuple(whole) == ("outer", ("inner", None), (1, 2))
    assert Shown("outer") != whole
    assert len({Shown("a"), Shown("a"), Shown("b")}) == 2


def test_one_that_holds_itself_is_shown_with_dots():
    @record
    class Ring:
        """See the test."""

        next: object = None

    ring = Ring()
    ring.next = ring
    assert repr(ring).endswith("Ring(next=...)")


def test_a_class_without_a_docstring_is_called_by_its_name():
    @record
    class Bare:
        value: int = 0

    assert Bare.__doc__ == "Bare"


def test_a_derived_class_that_does_not_show_itself_shows_only_what_its_base_does():
    @record(frozen=True, repr=False)
    class Secret(Shown):
        """See the test."""

        key: str = "k"

    assert "key" not in repr(Secret("a"))
    assert "name='a'" in repr(Secret("a"))
