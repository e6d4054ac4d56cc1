"""Generic priors: every row has a range and a source, and lookups name what they know."""

import pytest

from agent.physics import coefficients

TABLES = (
    coefficients.MEMORY,
    coefficients.SYSTEM_FP16,
    coefficients.BACKING_STORE,
    coefficients.LEAKAGE_DOUBLING_C,
    coefficients.LEAKAGE_SHARE_85C,
    coefficients.POWER_EXPONENT,
    coefficients.DECODE_BANDWIDTH_SHARE,
)


ROWS = [*(row for table in TABLES for row in table.values()), *(a.j_per_flop for a in coefficients.ARITHMETIC)]


@pytest.mark.parametrize("row", ROWS)
def test_every_row_is_within_its_range_and_says_where_it_comes_from(row):
    assert 0 < row.low <= row.value <= row.high
    assert len(row.source) > 10
    assert row.unit


def test_hbm2_is_the_published_picojoules_per_bit():
    assert coefficients.MEMORY["hbm2"].value == pytest.approx(3.97e-12 * 8)


def test_arithmetic_energy_is_the_table_at_its_nodes_and_between_them_in_between():
    at_7, at_16, at_45 = (coefficients.arithmetic_energy(nm, "int8").value for nm in (7, 16, 45))

    assert (at_7, at_45) == pytest.approx((0.0385e-12, 0.115e-12))
    assert at_7 < at_16 < at_45
    assert coefficients.arithmetic_energy(16, "int8").provenance == "assumed"


@pytest.mark.parametrize(
    ("node_nm", "precision", "message"), [(5, "int8", "node_nm"), (16, "bf16", "fp16, fp32, int8")]
)
def test_arithmetic_energy_outside_the_table_is_an_error(node_nm, precision, message):
    with pytest.raises(ValueError, match=message):
        coefficients.arithmetic_energy(node_nm, precision)


def test_system_energy_stays_below_what_a_whole_board_draws_at_the_wall():
    """AGX Orin (8 nm), ResNet-50 INT8 Offline: 0.82 pJ/op with idle and DRAM."""
    int8 = coefficients.system_energy(8, "int8")

    assert 0.5e-12 < int8.value < 0.82e-12
    assert int8.low < int8.value < int8.high


def test_system_energy_grows_with_node_and_width():
    assert coefficients.system_energy(4, "fp16").value == pytest.approx(0.8e-12)
    assert coefficients.system_energy(7, "fp16").value == pytest.approx(1.175e-12)
    assert coefficients.system_energy(7, "fp32").value == pytest.approx(2.35e-12)
    assert coefficients.system_energy(16, "int8").value > coefficients.system_energy(7, "int8").value


@pytest.mark.parametrize(("node_nm", "precision"), [(90, "fp16"), (float("nan"), "fp16"), (7, "fp8")])
def test_system_energy_outside_its_range_is_an_error(node_nm, precision):
    with pytest.raises(ValueError, match=r"node_nm|precision"):
        coefficients.system_energy(node_nm, precision)
