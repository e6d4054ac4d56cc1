"""Routing: which candidate placement a request takes now, in the planner's order, among those that may run."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import Final

from agent.records import record

LAST_RESORT: Final = 1e-9
"""Share of the requests for a lane at which nobody knows when the next one begins: those that no other lane takes."""


@record(frozen=True)
class Route:
    """One candidate placement as it stands now."""

    accelerator: str
    usable: bool
    capacity_share: float
    queue: int
    waits_s: float = 0.0
    """Predicted time until what waits there now is done; 0 where nobody knows."""


def choose(
    routes: Sequence[Route], ticket: int, max_queue: int, tried: Collection[str] = (), left_s: float = math.inf
) -> int | None:
    """Index of the route to take, or None if none may run.

    The first usable route wins unless its queue is full or its lane is still ramping up and this request is not in
    its share; then the next one does. A request that no route would take for its share goes to the first usable
    route with room, to one of LAST_RESORT only where there is no other: reduced capacity must not turn into refusals
    while there is room. Routes behind whose queue the request would be late are passed over while there is one where it
    would not.

    Args:
        routes: in the planner's order of preference.
        ticket: running number of the request, spreads a share evenly and reproducibly.
        max_queue: bound of each lane's queue.
        tried: accelerators this request already failed on.
        left_s: time until the request's deadline.
    """
    open_routes = [
        index
        for index, route in enumerate(routes)
        if route.usable and route.capacity_share > 0 and route.queue < max_queue and route.accelerator not in tried
    ]
    open_routes = [index for index in open_routes if routes[index].waits_s < left_s] or open_routes
    for index in open_routes:
        if in_share(ticket, routes[index].capacity_share):
            return index
    better = [index for index in open_routes if routes[index].capacity_share > LAST_RESORT] or open_routes
    return better[0] if better else None


def in_share(ticket: int, share: float) -> bool:
    """Whether the request numbered `ticket` belongs to an evenly spread `share` of all requests."""
    return share >= 1.0 or int((ticket + 1) * share) > int(ticket * share)
