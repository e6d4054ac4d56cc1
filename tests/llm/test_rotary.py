from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadInput
from agent.llm.architecture import read_decoder
from agent.llm.importer import import_gguf
from agent.llm.rotary import Yarn, tables
from tests.llm.reference import write_model

PLAIN = 10000.0 ** (-np.arange(0, 16, 2) / 16)


@pytest.mark.parametrize(
    ("yarn", "expected", "amplitude"),
    [  # what transformers 5.23 computes for the same settings
        (Yarn(4.0, 4096, 32.0, 1.0),
         [1, 0.3162278, 0.1, 0.02569351, 0.00625, 0.001383497, 0.00025, 7.905695e-05], 1.138629436111989),
        (Yarn(8.0, 8192, 16.0, 2.0),
         [1, 0.3162278, 0.1, 0.03162278, 0.007083333, 0.001317616, 0.000125, 3.952847e-05], 1.2079441541679836),
    ],
)  # fmt: skip
def test_yarn_keeps_quick_angles_and_slows_down_the_others(yarn, expected, amplitude):
    np.testing.assert_allclose(yarn.steps(PLAIN, 10000.0), expected, rtol=1e-6)
    assert yarn.amplitude == pytest.approx(amplitude)


def test_tables_hold_the_angle_of_every_position():
    factors = np.linspace(1, 4, 8, dtype=np.float32)
    cos, sin = tables(16, 10000.0, 2.0, factors, None, 5)
    angle = np.outer(np.arange(5), PLAIN / 2.0 / factors)
    np.testing.assert_allclose(cos, np.cos(angle), atol=1e-6)
    np.testing.assert_allclose(sin, np.sin(angle), atol=1e-6)
    stretched = Yarn(4.0, 64, 32.0, 1.0, attention=0.5)
    cos, sin = tables(16, 10000.0, 1.0, None, stretched, 5)
    np.testing.assert_allclose(np.hypot(cos, sin), stretched.amplitude, rtol=1e-6)
    np.testing.assert_allclose(sin[1], stretched.amplitude * np.sin(stretched.steps(PLAIN, 10000.0)), rtol=1e-6)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({}, None),
        ({"yarn_ext_factor": 0.5}, "yarn_ext_factor is not supported"),
        ({"yarn_log_multiplier": 0.1}, "yarn_log_multiplier is not supported"),
        ({"yarn_beta_slow": 64.0}, r"scaling\.yarn_beta_fast is 32, expected more than yarn_beta_slow, 64"),
        ({"factor": 0.5}, r"llama\.rope\.scaling\.factor is 0\.5, expected 1 to 1e\+06"),
        ({"type": "longrope"}, "'longrope' is not supported"),
    ],
)
def test_files_say_how_their_angles_are_stretched(tmp_path, change, says):
    def keys(writer):
        for key, value in ({"type": "yarn", "factor": 4.0} | change).items():
            (writer.add_string if key == "type" else writer.add_float32)(f"llama.rope.scaling.{key}", value)
        writer.add_rope_scaling_orig_ctx_len(32)

    source = write_model(tmp_path / "m.gguf", keys=keys)
    if says is None:
        assert import_gguf(source, tmp_path / "out").folder.is_dir()
        return
    with pytest.raises(BadInput, match=says):
        import_gguf(source, tmp_path / "out")


METADATA = {
    "general.architecture": "llama", "llama.context_length": 64, "llama.embedding_length": 64, "llama.block_count": 1,
    "llama.feed_forward_length": 96, "llama.attention.head_count": 4, "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0,
    "llama.rope.scaling.original_context_length": 32,
}  # fmt: skip
INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("rope.freq_base", (1.0, 0.0, -10.0, INF, NAN)),
        ("rope.scaling.factor", (INF, NAN, 0.0, -4.0)),
        ("rope.scaling.original_context_length", (0, -1, 0.5, INF, NAN)),
        ("rope.scaling.attn_factor", (INF, NAN, 0.0, -1.0)),
        ("rope.scaling.yarn_attn_factor", (INF, NAN, 0.0, -1.0)),
        ("rope.scaling.yarn_beta_fast", (INF, NAN, 1e308)),
        ("rope.scaling.yarn_beta_slow", (0.0, NAN, 1e-320, -1.0)),
        ("rope.scaling.yarn_ext_factor", (NAN,)),
        ("attention.layer_norm_rms_epsilon", (NAN,)),
        ("block_count", (INF, NAN)),
    ],
)
def test_numbers_that_make_no_angles_are_refused_by_their_key(key, values):
    for value in values:
        with pytest.raises(BadInput, match=rf"^m\.gguf: metadata key llama\.{re.escape(key)} is [^\n]*$"):
            read_decoder(METADATA | {f"llama.{key}": value}, 259, "m.gguf")


@pytest.mark.parametrize("value", [0.0, -2.0, INF, NAN])
def test_a_linear_scaling_divides_by_a_number_above_0(value):
    change = {"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": value}
    with pytest.raises(BadInput, match=r"llama\.rope\.scaling\.factor is "):
        read_decoder(METADATA | change, 259, "m.gguf")


@pytest.mark.parametrize(
    ("change", "divisor"),
    [
        ({}, 1.0),
        ({"rope.scaling.factor": 4.0}, 4.0),
        ({"rope.scale_linear": 4.0}, 4.0),
        ({"rope.scaling.type": "linear", "rope.scale_linear": 4.0}, 4.0),
        ({"rope.scale_linear": 2.0, "rope.scaling.factor": 4.0}, 4.0),
        ({"rope.scaling.factor": 0.0}, 1.0),
        ({"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, 1.0),
    ],
)
def test_a_factor_without_a_type_is_the_linear_one_of_old_files(change, divisor):
    plain = {key: value for key, value in METADATA.items() if "scaling" not in key}
    decoder = read_decoder(plain | {f"llama.{key}": value for key, value in change.items()}, 259, "m.gguf")
    assert set(decoder.rope_divisors) == {divisor}
    assert decoder.yarn is None


@pytest.mark.parametrize(
    ("pattern", "windows"),
    [
        (None, (8, 8, 8, 8, 8, 0, 8)),
        (3, (8, 8, 0, 8, 8, 0, 8)),
        ([True, False, False, True, True, True, False], (8, 0, 0, 8, 8, 8, 0)),
    ],
)
def test_a_file_says_which_layers_see_a_window_only(pattern, windows):
    named = {key.replace("llama.", "gemma3."): value for key, value in METADATA.items() if "scaling" not in key}
    metadata = named | {"general.architecture": "gemma3", "gemma3.block_count": 7, "gemma3.attention.sliding_window": 8}
    if pattern is not None:
        metadata["gemma3.attention.sliding_window_pattern"] = pattern
    assert read_decoder(metadata, 259, "m.gguf").windows == windows


@pytest.mark.parametrize("pattern", [0, -1, "six", [True] * 6, [True] * 6 + ["no"]])
def test_a_pattern_of_windows_that_fits_no_layers_is_refused_by_its_key(pattern):
    named = {key.replace("llama.", "gemma3."): value for key, value in METADATA.items() if "scaling" not in key}
    metadata = named | {"general.architecture": "gemma3", "gemma3.block_count": 7, "gemma3.attention.sliding_window": 8,
                        "gemma3.attention.sliding_window_pattern": pattern}  # fmt: skip
    with pytest.raises(BadInput, match=r"^m\.gguf: metadata key gemma3\.attention\.sliding_window_pattern [^\n]*$"):
        read_decoder(metadata, 259, "m.gguf")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (
            {"attention.key_length": 9, "attention.value_length": 9, "rope.dimension_count": 9},
            "9 is odd, so there are no pairs of values to rotate$",
        ),
        ({"attention.causal": False}, r"key llama\.attention\.causal is false; this model writes no text$"),
    ],
)
def test_what_the_runtime_cannot_attend_to_is_refused_at_the_import(change, says):
    with pytest.raises(BadInput, match=says):
        read_decoder(METADATA | {f"llama.{key}": value for key, value in change.items()}, 259, "m.gguf")


ANY = st.one_of(st.floats(), st.floats(1e-3, 1e6), st.sampled_from([1.0, 2.0, 1e6, 1e15]))


@given(
    st.fixed_dictionaries({
        "rope.scaling.type": st.sampled_from(["yarn", "linear"]), "rope.freq_base": ANY, "rope.scaling.factor": ANY,
        "rope.scaling.original_context_length": st.integers(1, 1 << 24), "rope.scaling.yarn_beta_fast": ANY,
        "rope.scaling.yarn_beta_slow": ANY, "rope.scaling.attn_factor": ANY,
    })
)  # fmt: skip
def test_whatever_is_accepted_makes_finite_angles(changes):
    metadata = METADATA | {f"llama.{key}": value for key, value in changes.items()}
    try:
        d = read_decoder(metadata, 259, "m.gguf")
    except BadInput:
        return
    made = tables(d.head_size, d.rope_bases[0], d.rope_divisors[0], None, d.yarn, 64)
    assert all(np.isfinite(table).all() for table in made)


@pytest.mark.parametrize("factor", [0.0, -1.0, INF, NAN])
def test_factors_per_frequency_are_above_0(tmp_path, factor):
    def broken(tensors):
        values, kind = tensors["rope_freqs.weight"]
        broken_one = np.where(np.arange(len(values)) == 3, np.float32(factor), values)
        return tensors | {"rope_freqs.weight": (broken_one, kind)}

    source = write_model(tmp_path / "m.gguf", factors=True, change=broken)
    with pytest.raises(BadInput, match=r"rope_freqs\.weight holds other than finite (factors above 0|numbers)"):
        import_gguf(source, tmp_path / "out")
