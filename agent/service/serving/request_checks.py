"""Request checks: what a request names must be there; the sentence says what is there instead."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches

from agent.errors import BadInput, LaneDied, LaneOutOfMemory, NotFound, Overloaded, PermitExpired, QeilError
from agent.ports import InferenceRequest
from agent.service.serving.routing_table import ModelRoutes


def unknown(model: str, models: Mapping[str, object], newer: str = "") -> NotFound:
    """The error for a model that is not there, with the nearest known name; newer: what newer settings say of it."""
    near = get_close_matches(model, models, 1)
    hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sorted(models)) or 'none'}"
    return NotFound(f"there is no model {model!r} ({hint}){newer}")


def lost(error: QeilError, retry_s: float) -> QeilError:
    """What the client of a lost request is told; `retry_s`: when a placement is expected to serve its model."""
    if isinstance(error, LaneOutOfMemory):
        return Overloaded(error.message, retry_s)
    if isinstance(error, LaneDied | PermitExpired):
        return Overloaded(f"the accelerator was lost and no other could take over: {error.message}", retry_s)
    return error


def check(request: InferenceRequest, model: ModelRoutes) -> None:
    """Raises BadInput for an output or a placement that the model does not have."""
    if not request.outputs and request.placement is None:
        return
    known = [spec.name for spec in model.metadata.outputs]
    for name in request.outputs or ():
        if known and name not in known:
            raise BadInput(f"model {request.model!r} has no output {name!r}; it gives {', '.join(known)}")
    loaded = [route.accelerator for route in model.routes]
    if request.placement is not None and request.placement not in (*loaded, *model.away):
        why = model.absent.get(request.placement)
        if why is not None:
            raise BadInput(f"model {request.model!r} is not loaded on {request.placement!r}: {why}")
        names = ", ".join(loaded) or "no accelerator"
        strange = _strange(request.placement, [*loaded, *model.away, *model.absent])
        if strange is not None:
            raise BadInput(f"there is no {strange}; model {request.model!r} is on {names}")
        hint = "standby: all in the policy keeps every placement loaded" if loaded else "see qeil status"
        raise BadInput(f"model {request.model!r} is not loaded on {request.placement!r}; it is on {names} ({hint})")


def _strange(placement: str, known: Sequence[str]) -> str | None:
    """The accelerator of a placement that none of the known placements names, and what was meant; None: none is."""
    accelerators = sorted({part for name in known if " " not in name for part in name.split("+")})
    found = next((part for part in placement.split("+") if part not in accelerators), None)
    if found is None:
        return None
    near = get_close_matches(found, accelerators, 1)
    return f"accelerator {found!r} here (" + (f"did you mean {near[0]!r}?)" if near else f"{', '.join(accelerators)})")
