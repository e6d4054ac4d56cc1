"""Opens a model through the backend that an order names. The runtime is imported when one is opened, never before."""

from __future__ import annotations

from agent.backends.artifact import LoadOrder, Session
from agent.errors import ModelLoadFailed
from agent.runtimes import registry
from agent.runtimes.entry import resolve


def open_session(order: LoadOrder) -> Session:
    """Load through the order's backend. Raises ModelLoadFailed."""
    backend = registry.find(order.backend)
    if backend is None:
        known = ", ".join(each.name for each in registry.backends())
        raise ModelLoadFailed(f"{order.model}: there is no backend {order.backend!r} (known: {known})")
    session: Session = resolve(backend.open)(order)
    return session
