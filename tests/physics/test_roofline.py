"""Roofline: time, DASI and every ceiling."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import roofline

amount = st.floats(1.0, 1e13)
rate = st.floats(1e6, 1e15)
small = st.floats(0.0, 10.0)
part = st.floats(0.01, 1.0)


@given(amount, amount, rate, rate, small, small, small, part, small, small)
def test_dasi_is_in_the_unit_interval_and_time_follows_from_it(
    flops, moved, peak, bandwidth, cache, issue, link, coverage, partition, overhead
):
    r = roofline.attainable(
        flops, moved, peak, bandwidth,
        cache_s=cache, issue_s=issue, link_s=link, coverage=coverage, partition_s=partition, overhead_s=overhead,
    )  # fmt: skip

    assert 0 < r.dasi <= 1
    assert float(r.time_s) == pytest.approx(coverage * flops / (peak * float(r.dasi)) + overhead, rel=1e-12)
    assert float(r.time_s) == pytest.approx(max(map(float, r.ceilings_s)) + partition + overhead, rel=1e-12)


@given(amount, amount, rate, rate)
def test_two_ceilings_alone_give_the_classic_dasi(flops, moved, peak, bandwidth):
    intensity = roofline.operational_intensity(flops, moved)
    ridge = roofline.ridge_point(peak, bandwidth)

    assert float(roofline.dasi(intensity, ridge)) == pytest.approx(
        float(roofline.attainable(flops, moved, peak, bandwidth).dasi), rel=1e-9
    )


@given(st.lists(amount, min_size=1, max_size=6), rate, rate)
def test_an_array_gives_what_its_elements_give(flops, peak, bandwidth):
    together = roofline.attainable(flops, 1e6, peak, bandwidth, overhead_s=1e-4)
    alone = [roofline.attainable(f, 1e6, peak, bandwidth, overhead_s=1e-4) for f in flops]

    assert together.time_s.tolist() == [float(a.time_s) for a in alone]
    assert together.dasi.tolist() == [float(a.dasi) for a in alone]


def test_stages_and_accelerators_broadcast_into_a_table():
    table = roofline.attainable(np.ones((3, 1)) * 1e9, 1e6, np.array([1e12, 1e10]), 1e10)

    assert table.time_s.shape == (3, 2)
    assert table.binding.tolist() == [["compute", "compute"]] * 3


@pytest.mark.parametrize(
    ("ceilings", "name"),
    [
        ({}, "compute"),
        ({"cache_s": 5.0}, "cache"),
        ({"issue_s": 5.0}, "issue"),
        ({"link_s": 5.0}, "link"),
    ],
)
def test_the_binding_ceiling_is_named(ceilings, name):
    r = roofline.attainable(1e9, 1.0, 1e9, 1e9, **ceilings)

    assert str(r.binding) == name
    assert str(roofline.attainable(1.0, 1e9, 1e9, 1e8).binding) == "memory"


def test_a_stage_without_operations_takes_its_memory_time_and_uses_no_compute():
    copy, nothing = roofline.attainable(0.0, 1e6, 1e9, 1e9), roofline.attainable(0.0, 0.0, 1e9, 1e9)

    assert (float(copy.time_s), float(copy.dasi)) == (1e-3, 0.0)
    assert (float(nothing.time_s), float(nothing.dasi)) == (0.0, 0.0)


def test_ridge_points_of_known_boards():
    """AGX Orin dense INT8, Raspberry Pi 5 fp32 and RK3588 NPU from their data sheets."""
    ridge = roofline.ridge_point([85e12, 153.6e9, 6e12], [204.8e9, 17.1e9, 34.1e9])

    assert np.round(ridge).tolist() == [415, 9, 176]


def test_intensity_without_traffic_is_infinite_and_without_anything_is_an_error():
    assert roofline.operational_intensity(1.0, 0.0) == math.inf
    assert roofline.operational_intensity(6.0, 3.0) == 2.0
    with pytest.raises(ValueError, match="no intensity"):
        roofline.operational_intensity([1.0, 0.0], 0.0)


def test_effective_peak_is_the_achieved_share():
    assert roofline.effective(100.0, 0.85) == pytest.approx(85.0)
    with pytest.raises(ValueError, match="efficiency"):
        roofline.effective(100.0, 1.1)


@given(st.lists(st.tuples(amount, rate), min_size=1, max_size=5))
def test_a_blended_peak_takes_as_long_as_the_parts(parts):
    flops, peaks = map(np.array, zip(*parts, strict=True))

    assert flops.sum() / roofline.blended_peak(flops, peaks) == pytest.approx(np.sum(flops / peaks), rel=1e-12)


def test_a_blend_of_nothing_has_the_slowest_peak():
    assert roofline.blended_peak([0.0, 0.0], [3.0, 2.0]) == 2.0


def test_weights_stay_in_cache_only_where_all_of_them_fit():
    assert roofline.resident_bytes([1e6, 2e6, 3e6], 2e6).tolist() == [1e6, 2e6, 0.0]


def test_the_issue_ceiling_explains_decode_of_a_small_gpu():
    """Orin Nano, Llama-3.2-1B: inter-token time × units × clock is nearly constant at 15 W, 25 W and MAXN."""
    assert float(roofline.issue_time(77e6 * 1, 4, 1.02e9)) == pytest.approx(77e6 / 4.08e9)


def test_spilled_weights_cross_the_link_and_usb2_hurts_ten_times_more_than_usb3():
    """Coral inception_v4, 43 MB of weights, 6.9 MB usable SRAM: published 84 ms on USB 3, 1055 ms on USB 2."""
    usb3, usb2 = roofline.link_time(43e6, 6.9e6, [430e6, 35e6])

    assert usb3 == pytest.approx(0.084, rel=0.05)
    assert usb2 == pytest.approx(1.055, rel=0.05)
    assert roofline.link_time(5e6, 6.9e6, 35e6) == 0.0
    assert roofline.link_time(5e9, math.inf, math.inf) == 0.0


def test_low_coverage_costs_host_time_and_crossings():
    kwargs = {"host_peak_flops_per_s": 1e9, "host_bandwidth_bytes_per_s": 1e9}

    assert roofline.partition_time(1e9, 1.0, coverage=0.75, **kwargs) == 0.25
    assert roofline.partition_time(1.0, 1e9, coverage=0.75, **kwargs) == 0.25
    assert roofline.partition_time(1e9, 1.0, coverage=1.0, **kwargs) == 0.0
    assert roofline.partition_time(
        1e9, 1.0, coverage=1.0, boundaries=4, boundary_bytes=1e6, boundary_bytes_per_s=1e8, sync_s=1e-3, **kwargs
    ) == pytest.approx(4 * 0.011)


def test_the_coverage_cliff_of_an_npu_is_reproduced_in_kind():
    """i.MX95, MobileNetV2: 93 % on the NPU is ten times faster than the CPU, 25 % is slower than the CPU alone."""
    flops, cpu, npu = 0.6e9, 16e9, 1e12

    def time_s(coverage, boundaries):
        rest = roofline.partition_time(
            flops, 1.0, coverage=coverage, host_peak_flops_per_s=cpu, host_bandwidth_bytes_per_s=4e9,
            boundaries=boundaries, sync_s=4e-4,
        )  # fmt: skip
        return float(roofline.attainable(flops, 1.0, npu, 1e10, coverage=coverage, partition_s=rest).time_s)

    assert time_s(0.93, 2) < flops / cpu / 5
    assert time_s(0.25, 30) > flops / cpu


@pytest.mark.parametrize(
    ("name", "value"),
    [("flops", -1.0), ("peak_flops_per_s", 0.0), ("bandwidth_bytes_per_s", math.inf), ("bytes_moved", math.nan)],
)
def test_an_impossible_argument_is_named(name, value):
    arguments = {"flops": 1.0, "bytes_moved": 1.0, "peak_flops_per_s": 1.0, "bandwidth_bytes_per_s": 1.0, name: value}

    with pytest.raises(ValueError, match=name):
        roofline.attainable(**arguments)
