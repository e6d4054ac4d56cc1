"""Shared memory domains: max–min fair division of bandwidth."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.physics import contention

demands = st.lists(st.floats(0.0, 1e11), min_size=1, max_size=6)
bandwidth = st.floats(1e6, 2e11)
seconds = st.just(0.0) | st.floats(1e-6, 10.0)
moved_bytes = st.just(0.0) | st.floats(1.0, 1e10)


@given(demands, bandwidth)
def test_nobody_gets_more_than_asked_and_nothing_is_wasted(demand, total):
    granted = contention.shared_bandwidth(demand, total)

    assert np.all(granted <= demand)
    assert granted.sum() == pytest.approx(min(sum(demand), total), rel=1e-9, abs=1e-3)


@given(demands, bandwidth)
def test_who_is_not_satisfied_gets_at_least_as_much_as_everybody_else(demand, total):
    granted = contention.shared_bandwidth(demand, total)
    short = granted < np.array(demand) * (1 - 1e-9)

    if short.any():
        assert granted[short].min() >= granted.max() * (1 - 1e-9)


@given(demands, bandwidth, st.randoms(use_true_random=False))
def test_the_order_of_users_does_not_matter(demand, total, random):
    order = random.sample(range(len(demand)), len(demand))
    granted = contention.shared_bandwidth(demand, total)

    assert contention.shared_bandwidth(np.array(demand)[order], total) == pytest.approx(granted[order], rel=1e-9)


def test_what_one_leaves_the_others_share_by_weight():
    assert contention.shared_bandwidth([1.0, 9.0, 9.0], 11.0).tolist() == [1.0, 5.0, 5.0]
    assert contention.shared_bandwidth([9.0, 9.0], 9.0, weights=[1.0, 2.0]).tolist() == [3.0, 6.0]
    assert contention.shared_bandwidth([[4.0, 4.0], [4.0, 4.0]], [4.0, 8.0]).tolist() == [[2.0, 2.0], [4.0, 4.0]]


def test_domains_do_not_disturb_each_other():
    granted = contention.domain_bandwidth([8.0, 8.0, 8.0], np.array([0, 0, 2]), [10.0, 5.0, 6.0])

    assert granted.tolist() == [5.0, 5.0, 6.0]
    assert contention.domain_bandwidth([], np.array([], dtype=int), 1.0).size == 0


@pytest.mark.parametrize("domains", [[0, 3], [-1, 0], [0]])
def test_an_unknown_domain_is_an_error(domains):
    with pytest.raises(ValueError, match="domain_of_user"):
        contention.domain_bandwidth([1.0, 1.0], np.array(domains), [1.0, 1.0])


def test_running_together_never_takes_less_time_than_alone():
    times = contention.concurrent_times([1.0, 0.1, 0.5, 0.0], [1e9, 1e9, 0.0, 0.0], 1.5e9)

    assert times == pytest.approx([4 / 3, 4 / 3, 0.5, 0.0])


def test_an_accelerator_that_cannot_draw_all_bandwidth_is_slower_alone():
    assert contention.concurrent_times([0.0], [1e9], 2e9, own_share=0.25).tolist() == [2.0]


@given(st.lists(st.tuples(seconds, moved_bytes), min_size=1, max_size=5), bandwidth)
def test_concurrent_demand_stays_within_the_bandwidth(stages, total):
    compute, moved = map(np.array, zip(*stages, strict=True))
    times = contention.concurrent_times(compute, moved, total)

    assert np.all(times >= compute)
    assert np.sum(np.where(times > 0, moved / np.where(times > 0, times, 1.0), 0.0)) <= total * (1 + 1e-9)


def test_a_demand_without_users_axis_is_an_error():
    with pytest.raises(ValueError, match="demand_bytes_per_s"):
        contention.shared_bandwidth(1.0, 1.0)
