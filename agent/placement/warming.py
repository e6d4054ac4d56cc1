"""Warming: where a junction settles under a placement run back to back, and what an hour of that does to the power."""

from __future__ import annotations

import numpy as np

from agent.physics.leakage import fixed_point, leakage_power, leakage_slope
from agent.physics.thermal import ThermalNetwork, steady_state, step
from agent.placement import costing
from agent.records import record
from agent.schema import device
from agent.schema.device import Accelerator, DeviceProfile

AIR_C = 25.0
"""Air around the board, which is as cold at first."""
_MINUTE_S, _MINUTES = 60.0, 60


@record(frozen=True)
class Settled:
    """An accelerator that runs back to back in air of `AIR_C`, heated by nothing else."""

    temperature_c: float | None
    """None: it runs away."""
    leakage_w: float | None
    """None, as what follows, where it runs away or the profile knows no leakage."""
    loop_gain: float | None
    """Kelvin that the leakage of one kelvin adds; from 1 on it runs away."""
    drift_in_an_hour: float | None
    """Power of the last minute over that of the first, less 1: of the board where its idle power is known."""


def settled(profile: DeviceProfile, accelerator: Accelerator, cost: costing.ModelCost) -> Settled | None:
    """Where it settles; None where the profile names no way of its heat to the air, or joules are unknown."""
    nodes = [n.name for n in profile.thermal.nodes] if profile.thermal is not None else []
    if profile.thermal is None or accelerator.thermal_node not in nodes:
        return None
    network, own = _network(profile.thermal), nodes.index(accelerator.thermal_node)
    if network is None or cost.switching_j is None or cost.time_s <= 0:
        return None
    watt = np.eye(len(nodes))[own]
    rise_c_per_w = float(steady_state(network, watt, ambient_c=0.0)[own])
    steady_w = cost.switching_j / cost.time_s + accelerator.base_power_w.value
    leak = accelerator.leakage
    if leak is None:
        return Settled(AIR_C + rise_c_per_w * steady_w, None, None, None)
    law = (leak.power_w.value, leak.activation_energy_ev.value, leak.reference_c)
    found = fixed_point(AIR_C, rise_c_per_w, steady_w, *law)
    if not bool(found.stable):
        return Settled(None, None, None, None)
    idle_w = 0.0 if profile.idle_power_w is None else profile.idle_power_w.value
    return Settled(
        float(found.temperature_c), float(found.leakage_power_w), float(found.loop_gain),
        _drift(network, own, steady_w, law, idle_w),
    )  # fmt: skip


def _network(thermal: device.ThermalNetwork) -> ThermalNetwork | None:
    """None where a node has no way to the air."""
    names = [n.name for n in thermal.nodes]
    links = np.zeros((len(names), len(names)))
    for path in thermal.conductances:
        a, b = (names.index(end) for end in path.between)
        links[a, b] = links[b, a] = links[a, b] + path.w_per_k.value
    to_air = [0.0 if n.to_ambient_w_per_k is None else n.to_ambient_w_per_k.value for n in thermal.nodes]
    try:
        return ThermalNetwork(np.array([n.heat_capacity_j_per_k.value for n in thermal.nodes]), links, np.array(to_air))
    except ValueError:
        return None


def _drift(network: ThermalNetwork, own: int, steady_w: float, law: tuple[float, float, float], idle_w: float) -> float:
    """Linearised anew every minute: over one the junction moves by too little for the bend of the law to count."""
    temperature_c = np.full(network.capacity_j_per_k.size, AIR_C)
    heated = np.eye(temperature_c.size)[own]
    board_w = []
    for _ in range(_MINUTES + 1):
        leak_w = float(leakage_power(temperature_c[own], *law))
        board_w.append(idle_w + steady_w + leak_w)
        temperature_c = step(
            network, temperature_c, heated * (steady_w + leak_w), _MINUTE_S, ambient_c=AIR_C,
            power_slope_w_per_k=heated * float(leakage_slope(temperature_c[own], *law)),
        )  # fmt: skip
    return (board_w[-2] + board_w[-1]) / (board_w[0] + board_w[1]) - 1.0
