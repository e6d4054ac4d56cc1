"""What `qeil calibrate` prints: values with units that read well."""

from __future__ import annotations

import pytest

from agent.cli.calibrate import _with_unit, spread


@pytest.mark.parametrize(
    ("kind", "value", "shown"),
    [
        ("compute_flops_per_s", 4.12e10, "41.2 GFLOP/s"),
        ("bandwidth_bytes_per_s", 9.5e9, "9.5 GB/s"),
        ("dispatch_overhead_s", 1.23e-5, "12.3 µs"),
        ("node_overhead_s", 4e-13, "0.4 ps"),
        ("energy_j_per_flop", 3e-12, "3 pJ/FLOP"),
        ("energy_j_per_byte", 5e-11, "50 pJ/B"),
        ("base_power_w", 2.5, "2.5 W"),
    ],
)
def test_every_measured_value_has_a_unit(kind, value, shown):
    assert _with_unit(kind, value) == shown


@pytest.mark.parametrize(
    ("uncertainty", "shown"), [(0.074, "±7%"), (1.0, "to a factor of 2"), (2.5, "to a factor of 3.5")]
)
def test_a_spread_that_would_reach_below_nothing_is_a_factor(uncertainty, shown):
    assert spread(uncertainty) == shown
