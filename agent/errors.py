"""The error taxonomy: every error has a stable code, one sentence that says what to do, and context.

Adapters translate third-party exceptions into these at their boundary (`raise … from`); `api` maps the
codes to HTTP in one table and `cli` maps the classes to exit codes in one place.
"""

from __future__ import annotations

from typing import Any, ClassVar


class QeilError(Exception):
    """Base of every error the agent raises on purpose."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.context = context


class ConfigError(QeilError):
    """A file or setting is wrong; exit code 78 at boot, a rejection at run time."""

    code = "config"


class SensorError(QeilError):
    """A sensor could not be read."""

    code = "sensor"


class StorageError(QeilError):
    """The state folder, outbox or model store could not be used."""

    code = "storage"


class LinkError(QeilError):
    """The broker is unreachable or refused us."""

    code = "link"


class BackendError(QeilError):
    """A runtime adapter failed."""

    code = "backend"


class ModelLoadFailed(BackendError):
    """The model cannot be loaded on this accelerator (corrupt, unsupported operator, no memory)."""

    code = "model_load_failed"


class ProviderFallback(BackendError):
    """The runtime would have run (part of) the model somewhere else than asked, and the policy forbids it."""

    code = "provider_fallback"


class InferenceFailed(BackendError):
    """The runtime reported an error while running a request."""

    code = "inference_failed"


class InputRefused(InferenceFailed):
    """The runtime refused the request's input and is sound: not to be run elsewhere, nor to speak against the lane."""

    code = "input_refused"


class LaneDied(BackendError):
    """The lane's process ended while the request was in flight."""

    code = "lane_died"


class LaneOutOfMemory(LaneDied):
    """The lane had no memory for the request; another one, or the same one later, may have."""

    code = "out_of_memory"


class PermitExpired(BackendError):
    """The lane holds no valid run permit; the supervisor withheld it or does not answer."""

    code = "permit_expired"


class PlacementError(QeilError):
    """No placement satisfies the constraints; the message names the binding one."""

    code = "infeasible"


class RequestError(QeilError):
    """A client's request cannot be served; carries the HTTP status that says why."""

    code = "request"
    status: ClassVar[int] = 400


class BadInput(RequestError):
    """Wrong name, shape, datatype, value or syntax."""

    code = "bad_input"
    status = 400


class Unprocessable(RequestError):
    """The runtime refused this input on an accelerator that answers other inputs rightly."""

    code = "inference_failed"
    status = 422


class NotFound(RequestError):
    """No such model, version or path."""

    code = "not_found"
    status = 404


class TooLarge(RequestError):
    """The body or tensor exceeds a configured bound."""

    code = "too_large"
    status = 413


class Overloaded(RequestError):
    """No slot, permit or accelerator is free now; retry after `retry_after_s`."""

    code = "overloaded"
    status = 503

    def __init__(self, message: str, retry_after_s: float = 1.0, **context: Any) -> None:
        super().__init__(message, **context)
        self.retry_after_s = retry_after_s


class NotLoaded(Overloaded):
    """The lane does not hold the model, or not any more."""


class DeadlineExceeded(RequestError):
    """The answer did not come before the request's deadline."""

    code = "deadline_exceeded"
    status = 504
