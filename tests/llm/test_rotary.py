from __future__ import annotations

import numpy as np
import pytest

from agent.errors import BadInput
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
        ({"yarn_beta_slow": 64.0}, "make no YaRN scaling"),
        ({"factor": 0.5}, "make no YaRN scaling"),
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
