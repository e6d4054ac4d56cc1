"""Records: dataclasses whose making costs a quarter of the time, as a start makes hundreds of their classes.

`record` is the library's `dataclass` to every reader and to the type checker, which sees to it that what is frozen is
not assigned to. At run time the class has no guard against that, and comparing, hashing and showing are shared
functions instead of code that is generated and compiled for every class anew; an instance of a frozen class is also
made in a fifth of the time. `dataclasses.replace`, `asdict` and `fields` work as ever.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dataclasses import dataclass as record
else:
    from collections.abc import Callable
    from dataclasses import dataclass, fields
    from operator import attrgetter
    from reprlib import recursive_repr
    from typing import Any

    def record(
        cls: type | None = None, *, frozen: bool = False, eq: bool = True, repr: bool = True, **others: Any  # noqa: A002
    ) -> Any:  # fmt: skip
        """As `dataclasses.dataclass`; `others` are the rest of its options."""
        if cls is None:
            return lambda made: record(made, frozen=frozen, eq=eq, repr=repr, **others)
        if others.get("order") or others.get("unsafe_hash"):  # which the library makes only where it also compares
            return dataclass(cls, frozen=frozen, eq=eq, repr=repr, **others)
        own = set(vars(cls))
        if cls.__doc__ is None:
            cls.__doc__ = cls.__name__  # else the library describes how to call it, which takes longer than all here
        made = dataclass(cls, eq=False, repr=False, **others)
        if repr and "__repr__" not in own:
            made.__repr__ = _shown([f.name for f in fields(made) if f.repr])
        if eq:
            _compare(made, own, frozen)
        return made

    def _compare(made: type, own: set[str], frozen: bool) -> None:
        key = _values([f.name for f in fields(made) if f.compare])

        def equal(self: Any, other: object) -> bool:
            return key(self) == key(other) if other.__class__ is self.__class__ else NotImplemented

        if "__eq__" not in own:
            made.__eq__ = equal
        if "__hash__" in own and not ("__eq__" in own and made.__hash__ is None):
            return
        if not frozen:
            made.__hash__ = None
            return
        hashed = _values([f.name for f in fields(made) if (f.compare if f.hash is None else f.hash)])
        made.__hash__ = lambda self: hash(hashed(self))

    def _values(names: list[str]) -> Callable[[Any], tuple[Any, ...]]:
        """What reads these attributes as a tuple."""
        if len(names) > 1:
            return attrgetter(*names)
        if names:
            only = attrgetter(names[0])
            return lambda self: (only(self),)
        return lambda _: ()

    def _shown(names: list[str]) -> Callable[[Any], str]:
        """What shows these attributes, also of a derived class that does not show its own."""

        @recursive_repr()
        def shown(self: Any) -> str:
            return f"{type(self).__qualname__}({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

        return shown


__all__ = ["record"]
