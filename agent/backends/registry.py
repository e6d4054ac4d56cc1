"""Runtime adapters by the profile's `backend` key. The runtimes are imported when one is used, never before."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from agent.backends.artifact import LoadOrder, Session
from agent.errors import ModelLoadFailed


def _onnx(order: LoadOrder) -> Session:
    from agent.backends.onnx import open_session  # noqa: PLC0415  (optional runtime)

    return open_session(order)


def _litert(order: LoadOrder) -> Session:
    from agent.backends.litert import open_session  # noqa: PLC0415  (optional runtime)

    return open_session(order)


BACKENDS: Mapping[str, Callable[[LoadOrder], Session]] = {"onnx": _onnx, "litert": _litert}


def open_session(order: LoadOrder) -> Session:
    """Load through the order's backend. Raises ModelLoadFailed."""
    factory = BACKENDS.get(order.backend)
    if factory is None:
        raise ModelLoadFailed(f"{order.model}: there is no backend {order.backend!r} (known: {', '.join(BACKENDS)})")
    return factory(order)
