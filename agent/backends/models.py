"""Models of one process lane: being loaded, loaded, being unloaded. Not thread-safe: the lane's lock guards it."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import field
from typing import Any, Final

from agent.backends.artifact import LoadOutcome
from agent.backends.messages import Channel, Header
from agent.backends.reports import order_of, report_of
from agent.backends.transfer import LoadedModel
from agent.errors import (
    BackendError,
    BadInput,
    DeadlineExceeded,
    InferenceFailed,
    InputRefused,
    LaneOutOfMemory,
    ModelLoadFailed,
    Overloaded,
    PermitExpired,
    QeilError,
    TooLarge,
)
from agent.ports import LoadReport, LoadSpec
from agent.records import record

_ERRORS: Final[dict[str, type[QeilError]]] = {
    error.code: error
    for error in (
        ModelLoadFailed, InferenceFailed, PermitExpired, DeadlineExceeded, BackendError, BadInput, TooLarge, Overloaded,
        LaneOutOfMemory, InputRefused,
    )
}  # fmt: skip


@record(eq=False)
class Load:
    """A load in progress."""

    spec: LoadSpec
    deadline_s: float
    future: Future[LoadReport] = field(default_factory=Future)


class ModelTable:
    """See module. The process knows models by the number of their load, so a name can change hands at any time."""

    def __init__(self, accelerator: str) -> None:
        self._accelerator = accelerator
        self.loaded: dict[str, LoadedModel] = {}
        """The models that run under these names now."""
        self._loads: dict[int, Load] = {}
        self._unloads: dict[int, Future[None]] = {}
        self.retiring: dict[str, Future[None]] = {}
        """Models to unload once the calls that wait for them are sent."""

    def begin_load(self, channel: Channel, number: int, load: Load) -> None:
        """Order a load."""
        channel.send({"k": "load", "id": number, "order": order_of(load.spec).to_json()})
        self._loads[number] = load

    def begin_unload(self, channel: Channel, number: int, model: str, later: bool = False) -> Future[None]:
        """Forget a model and order its unloading, which the process does after the calls it already has.

        later: only remember to do so, at `unload_idle`.
        """
        if later:
            return self.retiring.setdefault(model, Future())
        future = self.retiring.pop(model, None) or Future()
        loaded = self.loaded.pop(model, None)
        if loaded is None:
            future.set_result(None)
        else:
            channel.send({"k": "unload", "id": number, "load": loaded.number})
            self._unloads[number] = future
        return future

    def unload_idle(self, channel: Channel, number: Callable[[], int], awaited: Callable[[str], bool]) -> None:
        """Unload what was to be unloaded later and is awaited by no call any more."""
        for model in [model for model in self.retiring if not awaited(model)]:
            self.begin_unload(channel, number(), model)

    def unload_answered(self, header: Header) -> Future[None] | None:
        """The future of an unload that is done."""
        return self._unloads.pop(header["id"], None)

    def load_answered(self, channel: Channel, header: Header) -> tuple[Load | None, LoadReport | QeilError]:
        """The load that was answered (None when its time was over) and its report or error."""
        load = self._loads.pop(header["id"], None)
        if "error" in header:
            return load, error_of(header)
        outcome = LoadOutcome.from_json(header["outcome"])
        try:
            if load is None:
                self._discard(channel, header["id"])
                return None, ModelLoadFailed("its time was over")
            self._install(channel, load.spec.model, header["id"], outcome)
        except BackendError as error:
            return load, ModelLoadFailed(f"{self._accelerator}: {error.message}")
        except OSError as error:
            return load, ModelLoadFailed(f"{self._accelerator}: no shared memory for its tensors: {error.strerror}")
        return load, report_of(load.spec, outcome)

    def overdue(self, now_s: float) -> tuple[list[Load], float]:
        """Loads whose time is over, forgotten by this, and the next deadline (infinity if none)."""
        late = [number for number, load in self._loads.items() if load.deadline_s <= now_s]
        loads = [self._loads.pop(number) for number in late]
        return loads, min((load.deadline_s for load in self._loads.values()), default=math.inf)

    def take_all(self) -> list[Future[Any]]:
        """Forget everything; the futures that are open."""
        futures: list[Future[Any]] = [load.future for load in self._loads.values()]
        futures += [*self._unloads.values(), *self.retiring.values()]
        self.loaded.clear()
        self._loads.clear()
        self._unloads.clear()
        self.retiring.clear()
        return futures

    def _install(self, channel: Channel, model: str, number: int, outcome: LoadOutcome) -> None:
        loaded = LoadedModel.create(model, number, outcome, channel)
        before = self.loaded.get(model)
        self.loaded[model] = loaded
        if before is not None:
            self._discard(channel, before.number)

    @staticmethod
    def _discard(channel: Channel, number: int) -> None:
        channel.send({"k": "unload", "id": 0, "load": number})


def error_of(header: Header) -> QeilError:
    """The error that an answer carries."""
    return _ERRORS.get(header["error"], BackendError)(header["text"])
