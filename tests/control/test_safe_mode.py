"""Three quick ends in a row begin safe mode; a start that lasts is trusted."""

from __future__ import annotations

import pytest

from agent.control import safe_mode


@pytest.mark.parametrize(("ends", "safe"), [(-4, False), (0, False), (2, False), (3, True), (4, True)])
def test_the_third_quick_end_counts(ends, safe):
    assert safe_mode.begin(ends).safe is safe


def test_a_start_is_trusted_after_its_time():
    assert not safe_mode.stable(119.9)
    assert safe_mode.stable(120.0)
