"""Power of an accelerator in the status: one rail, the narrowest that answers."""

from __future__ import annotations

import pytest

from agent.ports import Reading
from agent.schema.device import DeviceProfile
from agent.service.status_view import _rail_power
from tests.service.world import profile

RAILS = [
    {"name": "module", "source": "hwmon", "type": "ina3221/VDD_IN", "covers": ["gpu", "cpu"], "scope": "module"},
    {"name": "compute", "source": "hwmon", "type": "ina3221/VDD_CPU", "covers": ["gpu", "cpu"], "scope": "rail"},
]
BOARD = DeviceProfile.model_validate({**profile("gpu", "cpu", "npu").model_dump(), "rails": RAILS})


def power(name: str, value: float | None) -> Reading:
    return Reading(name, "power_w", value, None if value is not None else "read_failed", 1.0)


@pytest.mark.parametrize(
    ("name", "readings", "watts"),
    [
        ("gpu", (power("module", 9.0), power("compute", 5.0)), 5.0),
        ("gpu", (power("module", 9.0), power("compute", None)), 9.0),
        ("gpu", (), None),
        ("npu", (power("module", 9.0),), None),
    ],
)
def test_rails_that_contain_each_other_are_not_added(name, readings, watts) -> None:
    assert _rail_power(name, BOARD, readings) == watts
