"""Schema shape: which keys a file may have at a place, read from the pydantic models. Pure look-ups."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from agent.storage.yaml_text import KeyPath

Shape = Any
"""A type annotation: a model, a container of models, or a leaf type."""


def origin_of(annotation: Shape) -> Any:
    """The generic type that the annotation specialises (dict, tuple, Literal …), or None."""
    return get_origin(annotation)


def plain(annotation: Shape) -> Shape:
    """The annotation without Annotated and without None."""
    while True:
        origin = origin_of(annotation)
        if origin is Annotated:
            annotation = get_args(annotation)[0]
        elif origin in {Union, types.UnionType}:
            members = [a for a in get_args(annotation) if a is not type(None)]
            if len(members) != 1:
                return annotation
            annotation = members[0]
        else:
            return annotation


def is_model(annotation: Shape) -> bool:
    """Whether the annotation is one of the file schemas."""
    return isinstance(annotation, type) and issubclass(annotation, BaseModel)


def keys_of(annotation: Shape) -> tuple[str, ...]:
    """Keys that a mapping of this shape may have; empty where any key goes or it is no mapping."""
    if is_model(annotation):
        return tuple(annotation.model_fields)
    if origin_of(annotation) is dict and origin_of(plain(get_args(annotation)[0])) is Literal:
        return tuple(str(a) for a in get_args(plain(get_args(annotation)[0])))
    return ()


def below(annotation: Shape, part: str | int) -> Shape | None:
    """Shape of what stands under a key or list index; None where the schema has no such place."""
    if is_model(annotation):
        field = annotation.model_fields.get(str(part))
        return None if field is None else plain(field.annotation)
    arguments = get_args(annotation)
    if origin_of(annotation) is dict:
        return plain(arguments[1])
    if origin_of(annotation) is tuple and isinstance(part, int):
        repeated = len(arguments) == 2 and arguments[1] is Ellipsis
        index = 0 if repeated else part
        return plain(arguments[index]) if index < len(arguments) else None
    return None


def at(schema: type[BaseModel], path: KeyPath) -> Shape | None:
    """Shape at a key path of a file; None where the schema has no such place."""
    shape: Shape | None = schema
    for part in path:
        shape = below(shape, part)
        if shape is None:
            return None
    return shape


def paths(schema: Shape, prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Shape]]:
    """Every key path that leads through mappings only (lists are not entered), with its shape."""
    if not is_model(schema):
        return
    for name in schema.model_fields:
        shape = below(schema, name)
        yield (*prefix, name), shape
        yield from paths(shape, (*prefix, name))
