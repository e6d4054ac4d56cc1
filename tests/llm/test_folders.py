from __future__ import annotations

import json
import re
import shutil

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from agent.errors import BadInput, ModelLoadFailed
from agent.llm import folder as module
from agent.llm.engine import Engine, Finished, Job
from agent.llm.folder import FolderShelf, open_folder
from agent.llm.generation import generate
from agent.llm.row import Prompt
from agent.llm.session import DecoderSession
from agent.llm.sizes import is_decoder_folder, read_sizes

SIZE, CONTEXT = 8, 64
IDS = (5, 80, 200, 7, 7, 31, 90)


@pytest.fixture
def genai(tiny, tmp_path):
    """The folder as ONNX Runtime GenAI's builder would leave it."""
    out = shutil.copytree(tiny.folder.path, tmp_path / "genai")
    (out / "manifest.json").unlink()
    return out


def grown_model(vocabulary, kind=TensorProto.FLOAT):
    """A decoder of one layer and one head as Optimum exports them: positions given, a cache that grows."""
    rng = np.random.default_rng(0)
    weights = {
        "embedding": rng.standard_normal((vocabulary, SIZE)), "positions": rng.standard_normal((CONTEXT, SIZE)),
        "wq": rng.standard_normal((SIZE, SIZE)), "wk": rng.standard_normal((SIZE, SIZE)),
        "wv": rng.standard_normal((SIZE, SIZE)), "head": rng.standard_normal((SIZE, vocabulary)),
    }  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Gather", ["embedding", "input_ids"], ["token"]), node("Gather", ["positions", "position_ids"], ["place"]),
        node("Add", ["token", "place"], ["x"]), node("MatMul", ["x", "wq"], ["q"]),
        node("MatMul", ["x", "wk"], ["k0"]), node("MatMul", ["x", "wv"], ["v0"]),
        node("Unsqueeze", ["k0", "one"], ["k1"]), node("Unsqueeze", ["v0", "one"], ["v1"]),
        node("Cast", ["past_key_values.0.key"], ["pk"], to=TensorProto.FLOAT),
        node("Cast", ["past_key_values.0.value"], ["pv"], to=TensorProto.FLOAT),
        node("Concat", ["pk", "k1"], ["k"], axis=2), node("Concat", ["pv", "v1"], ["v"], axis=2),
        node("Cast", ["k"], ["present.0.key"], to=kind), node("Cast", ["v"], ["present.0.value"], to=kind),
        node("Unsqueeze", ["q", "one"], ["q1"]), node("Transpose", ["k"], ["kt"], perm=[0, 1, 3, 2]),
        node("MatMul", ["q1", "kt"], ["scores"]),
        # What lies ahead of a position is hidden by position: a key's own is its rank among the keys that are there.
        node("CumSum", ["attention_mask", "axis"], ["rank"]), node("Sub", ["rank", "one_value"], ["rank0"]),
        node("Unsqueeze", ["rank0", "both"], ["key_place"]), node("Unsqueeze", ["position_ids", "ends"], ["own_place"]),
        node("LessOrEqual", ["key_place", "own_place"], ["past"]), node("Cast", ["attention_mask"], ["there0"], to=9),
        node("Unsqueeze", ["there0", "both"], ["there"]), node("And", ["past", "there"], ["seen"]),
        node("Where", ["seen", "scores", "hidden"], ["masked"]), node("Softmax", ["masked"], ["chances"], axis=-1),
        node("MatMul", ["chances", "v"], ["mixed"]), node("Squeeze", ["mixed", "one"], ["y"]),
        node("MatMul", ["y", "head"], ["logits"]),
    ]  # fmt: skip
    constants = {
        "one": np.array([1]), "both": np.array([1, 2]), "ends": np.array([1, 3]), "axis": np.array(1),
        "one_value": np.array(1), "hidden": np.array(-1e9, np.float32),
    }  # fmt: skip
    stored = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()]
    stored += [numpy_helper.from_array(v, k) for k, v in constants.items()]
    info = helper.make_tensor_value_info
    ints = [info(n, TensorProto.INT64, ("batch", d)) for n, d in
            (("input_ids", "steps"), ("attention_mask", "total"), ("position_ids", "steps"))]  # fmt: skip
    past = [info(f"past_key_values.0.{s}", kind, ("batch", 1, "past", SIZE)) for s in ("key", "value")]
    out = [info("logits", TensorProto.FLOAT, ("batch", "steps", vocabulary))]
    out += [info(f"present.0.{s}", kind, ("batch", 1, "total", SIZE)) for s in ("key", "value")]
    graph = helper.make_graph(nodes, "grown", [*ints, *past], out, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), weights


def reference(weights, ids):
    """Logits of every position."""
    w = {k: v.astype(np.float32) for k, v in weights.items()}
    x = w["embedding"][list(ids)] + w["positions"][: len(ids)]
    scores = (x @ w["wq"]) @ (x @ w["wk"]).T
    scores[np.triu_indices(len(ids), 1)] = -np.inf
    chances = np.exp(scores - scores.max(-1, keepdims=True))
    return (chances / chances.sum(-1, keepdims=True)) @ (x @ w["wv"]) @ w["head"]


def written(weights, ids, count):
    ids = list(ids)
    for _ in range(count):
        ids.append(int(reference(weights, ids)[-1].argmax()))
    return ids[-count:]


def optimum(tiny, out, kind=TensorProto.FLOAT):
    out.mkdir()
    model, weights = grown_model(tiny.folder.vocabulary, kind)
    onnx.save_model(model, str(out / "model.onnx"))
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(tiny.folder.path / name, out / name)
    config = {
        "num_attention_heads": 1, "hidden_size": SIZE, "num_hidden_layers": 1, "num_key_value_heads": 1,
        "vocab_size": tiny.folder.vocabulary, "max_position_embeddings": CONTEXT, "eos_token_id": 256,
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config))
    return out, weights


def test_a_folder_of_the_genai_builder_writes_what_the_imported_one_does(tiny, genai):
    assert is_decoder_folder(genai)
    session = DecoderSession(open_folder(genai), threads=1)
    texts = [[p.token for p in generate(s, Prompt(IDS, 20))] for s in (tiny, session)]
    assert texts[0] == texts[1]


def test_an_exported_folder_with_a_growing_cache_has_the_reference_logits(tiny, tmp_path):
    out, weights = optimum(tiny, tmp_path / "out")
    session = DecoderSession(open_folder(out), threads=1)
    cache = session.cache(1, 20)
    seen = [session.step(cache, np.array([IDS[:4]]))[0]] + [session.step(cache, np.array([[i]]))[0] for i in IDS[4:]]
    np.testing.assert_allclose(np.concatenate(seen), reference(weights, IDS), atol=1e-3)


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_rows_of_unequal_length_share_a_batch_there_too(tiny, tmp_path, kind):
    out, weights = optimum(tiny, tmp_path / "out", kind)
    engine = Engine(DecoderSession(open_folder(out), threads=1), rows=3, context=CONTEXT)
    prompts = {0: IDS, 1: IDS[:2], 2: IDS[1:5]}
    tokens = {number: [] for number in prompts}
    for number, ids in prompts.items():
        engine.add(Job(number, Prompt(ids, 12, through_end=True), (0,)))
    while not engine.idle:
        for event in engine.turn():
            if not isinstance(event, Finished):
                tokens[event.number].append(event.piece.token)
    if kind == TensorProto.FLOAT:
        assert tokens == {number: written(weights, ids, 12) for number, ids in prompts.items()}
    assert {len(row) for row in tokens.values()} == {12}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("genai_config.json", "{", "not JSON"),
        ("genai_config.json", "[]", "JSON object"),
        ("genai_config.json", '{"model": {}}', "not the description of a decoder"),
        ("tokenizer.json", '{"a": 1}', "tokenizer.json"),
        ("tokenizer.json", None, "tokenizer.json"),
        ("tokenizer_config.json", None, "tokenizer_config.json"),
        ("chat_template.jinja", "\udcff", "chat_template.jinja: not UTF-8 text"),
    ],
)
def test_a_damaged_folder_is_refused_with_the_file(genai, name, content, says):
    (genai / name).unlink(missing_ok=True)
    if content is not None:
        (genai / name).write_text(content, "utf-8", "surrogateescape")
    with pytest.raises(BadInput, match=says):
        open_folder(genai)


@pytest.mark.parametrize(
    ("part", "change", "says"),
    [
        ("cache_item_bytes", {"exact": -4}, "cache_item_bytes of exact is -4, expected 1, 2 or 4"),
        ("cache_item_bytes", {"exact": 0}, "cache_item_bytes of exact is 0, expected"),
        ("cache_item_bytes", {"exact": 1.7}, "cache_item_bytes of exact is 1.7, expected"),
        ("cache_item_bytes", {"exact": True}, "cache_item_bytes of exact is True, expected"),
        ("cache_item_bytes", {"none such": 1}, "none such has a size or quality and no graph"),
        ("quality", {"fast": {"kl_nats": float("nan")}}, "quality of fast is nan nats, expected 0 or more"),
        ("quality", {"fast": {"kl_nats": float("inf")}}, "quality of fast is inf nats"),
        ("quality", {"fast": {"kl_nats": -1e-9}}, "quality of fast is -1e-09 nats"),
        ("quality", {"none such": {"kl_nats": 0.1}}, "none such has a size or quality and no graph"),
        ("decoder", {"layers": -2}, "layers is -2, expected at least 1"),
        ("decoder", {"context": 0}, "context is 0, expected at least 1"),
        ("decoder", {"context": float("inf")}, "not the description of a decoder"),
        ("stage_bytes", {"more": -(10**12)}, "stage_bytes add up to -"),
        ("graphs", {"exact": "../model.onnx"}, "graphs of exact is '../model.onnx', expected the name"),
        ("graphs", {"fast": "/etc/passwd"}, "graphs of fast is '/etc/passwd', expected"),
        ("graphs", {"fast": "in\\model.onnx"}, "expected the name of a file in the folder"),
        ("graphs", {"fast": None}, "graphs of fast is None, expected"),
        ("graphs", {"exact": ""}, "graphs of exact is '', expected"),
        ("graphs", {"exact": ".."}, "graphs of exact is '..', expected"),
        ("graphs", {"exact": 3}, "graphs of exact is 3, expected"),
        ("scoring_graphs", {"exact": "../score.onnx"}, "scoring_graphs of exact is '../score.onnx', expected"),
    ],
)
def test_a_manifest_of_sizes_that_no_decoder_has_is_refused_with_the_entry(tiny, tmp_path, part, change, says):
    out = shutil.copytree(tiny.folder.path, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    manifest[part] = manifest.get(part, {}) | change
    (out / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(BadInput, match=re.escape(says)) as refused:
        read_sizes(out)
    assert "manifest.json" in refused.value.message


def test_a_default_mode_without_a_graph_is_refused(tiny, tmp_path):
    out = shutil.copytree(tiny.folder.path, tmp_path / "out")
    manifest = json.loads((out / "manifest.json").read_text())
    (out / "manifest.json").write_text(json.dumps(manifest | {"default_mode": "quick"}))
    with pytest.raises(BadInput, match="default_mode is 'quick', graphs has exact"):
        read_sizes(out)


@pytest.mark.parametrize("name", [None, "../model.onnx", "/model.onnx", ""])
def test_a_graph_of_genai_that_is_not_in_the_folder_is_refused(genai, name):
    file = genai / "genai_config.json"
    config = json.loads(file.read_text())
    config["model"]["decoder"]["filename"] = name
    file.unlink()
    file.write_text(json.dumps(config))
    with pytest.raises(BadInput, match=r"filename is .*expected the name of a file in the folder"):
        read_sizes(genai)


def test_a_folder_without_a_decoder_is_no_decoder_folder(tmp_path):
    assert not is_decoder_folder(tmp_path)
    assert not is_decoder_folder(tmp_path / "missing")
    with pytest.raises(BadInput, match="no decoder folder"):
        read_sizes(tmp_path)
    (tmp_path / "config.json").write_text('{"num_attention_heads": 1, "hidden_size": 8}')
    with pytest.raises(BadInput, match="no graph"):
        read_sizes(tmp_path)


def test_a_graph_that_wants_more_than_a_decoder_gives_is_refused_by_name(tiny, tmp_path):
    out, _ = optimum(tiny, tmp_path / "out")
    model = onnx.load(str(out / "model.onnx"))
    model.graph.input.append(helper.make_tensor_value_info("pixels", TensorProto.FLOAT, (1,)))
    onnx.save_model(model, str(out / "model.onnx"))
    with pytest.raises(ModelLoadFailed, match="pixels"):
        DecoderSession(open_folder(out), threads=1)
    (out / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(ModelLoadFailed, match=r"model\.onnx"):
        DecoderSession(open_folder(out), threads=1)


@pytest.fixture
def reads(monkeypatch):
    """Paths of the folders that were read."""
    read = []

    def reading(path):
        read.append(path)
        return open_folder(path)

    monkeypatch.setattr(module, "open_folder", reading)
    return read


def test_a_folder_read_ahead_is_not_read_again(genai, reads):
    shelf = FolderShelf()
    shelf.prepare(genai)
    folder = shelf.take(genai)
    assert reads == [genai]
    assert folder.encode("once") == open_folder(genai).encode("once")


def test_a_folder_that_changed_since_it_was_read_ahead_is_read_again(genai, tiny, reads):
    shelf = FolderShelf()
    shelf.prepare(genai)
    (genai / "chat_template.jinja").write_text("another")
    assert shelf.take(genai).chat_template == "another"
    shelf.prepare(genai)
    assert shelf.take(tiny.folder.path).path == tiny.folder.path
    assert reads == [genai, genai, genai, tiny.folder.path]


def test_what_is_wrong_with_a_folder_read_ahead_is_said_at_its_load(genai):
    shelf = FolderShelf()
    (genai / "tokenizer.json").write_text("{")
    shelf.prepare(genai)
    with pytest.raises(BadInput, match=r"tokenizer\.json: not JSON"):
        shelf.take(genai)
