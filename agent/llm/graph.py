"""The ONNX graph of a decoder: embedding, layers with a key/value cache, logits.

Inputs and outputs are those of ONNX Runtime GenAI: input_ids (batch, steps), attention_mask (batch, total),
past_key_values.{i}.key|value (batch, kv_heads, past, head size as filled up); logits, present.{i}.key|value.
"""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from agent.llm.architecture import Decoder
from agent.llm.graph_nodes import MICROSOFT, Nodes
from agent.llm.weight_file import Product, Stored
from agent.records import record

OPSET = 18
_QUERIES = frozenset({"qkv", "attn_q", "attn_k", "attn_v"})
IR_VERSION = 9


@record(frozen=True)
class Weights:
    """What the importer stored: products by role ("blk.0.qkv"), tensors by name."""

    products: dict[str, Product]
    stored: dict[str, Stored]


def write_graph(decoder: Decoder, weights: Weights, path: Path, *, fast: bool, every_position: bool) -> None:
    """Write one graph; `fast` rounds activations to 8 bits, `every_position` gives logits of all, not the last only."""
    graph = _Graph(decoder, weights, fast=fast, every_position=every_position)
    onnx.save_model(graph.model(), str(path))


class _Graph:
    def __init__(self, decoder: Decoder, weights: Weights, *, fast: bool, every_position: bool) -> None:
        self.d, self.w, self.every_position = decoder, weights, every_position
        self.n = Nodes(weights.stored, fast=fast)

    def model(self) -> onnx.ModelProto:
        self._lengths()
        x = self._embedding()
        normed = self._norm(x, "blk.0.attn_norm")
        for layer in range(self.d.layers):
            following = f"blk.{layer + 1}.attn_norm" if layer + 1 < self.d.layers else "output_norm"
            x, normed = self._layer(layer, x, normed, following)
        self._logits(normed)
        cache = ("batch", self.d.kv_heads, "past", self.d.filled_size)
        grown = ("batch", self.d.kv_heads, "total", self.d.filled_size)
        sides = [f"{i}.{side}" for i in range(self.d.layers) for side in ("key", "value")]
        info = helper.make_tensor_value_info
        inputs = [
            info("input_ids", TensorProto.INT64, ("batch", "steps")),
            info("attention_mask", TensorProto.INT64, ("batch", "total")),
            *(info(f"past_key_values.{s}", TensorProto.FLOAT, cache) for s in sides),
        ]
        steps = "steps" if self.every_position else 1
        outputs = [
            info("logits", TensorProto.FLOAT, ("batch", steps, self.d.vocabulary)),
            *(info(f"present.{s}", TensorProto.FLOAT, grown) for s in sides),
        ]
        graph = helper.make_graph(
            self.n.nodes, self.d.architecture, inputs, outputs, list(self.n.initialisers.values())
        )
        opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="qeil-agent")

    def _lengths(self) -> None:
        n = self.n
        seen = n.op("ReduceSum", "attention_mask", n.constant([1]), keepdims=0)
        self.last = n.op("Sub", seen, n.constant(1))
        self.last32 = n.op("Cast", self.last, to=TensorProto.INT32)
        width = n.op("Gather", n.op("Shape", "attention_mask"), n.constant(1))
        self.total32 = n.op("Cast", width, to=TensorProto.INT32)

    def _embedding(self) -> str:
        n = self.n
        x = n.scaled(n.rows_of("input_ids", self.w.products["token_embd"]), self.d.embedding_scale)
        if "position_embd" not in self.w.products:
            return x
        steps = n.op("Gather", n.op("Shape", "input_ids"), n.constant(1))
        before = n.op("Sub", n.op("Add", self.last, n.constant(1)), steps)
        ramp = n.op("Range", n.constant(0), steps, n.constant(1))
        positions = n.op("Add", n.op("Unsqueeze", before, n.constant([1])), n.op("Unsqueeze", ramp, n.constant([0])))
        return n.op("Add", x, n.rows_of(positions, self.w.products["position_embd"]))

    def _norm(self, x: str, name: str) -> str:
        weight = self.n.weight(f"{name}.weight")
        if self.d.family.norm == "layer":
            return self.n.op(
                "LayerNormalization", x, weight, self.n.weight(f"{name}.bias"), axis=-1, epsilon=self.d.epsilon
            )
        return self.n.op("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=self.d.epsilon, stash_type=1)

    def _add_and_norm(self, x: str, change: str, name: str) -> tuple[str, str]:
        """(x + change, its norm), as one node."""
        n = self.n
        inputs = [x, n.scaled(change, self.d.residual_scale), n.weight(f"{name}.weight")]
        kind = "SkipSimplifiedLayerNormalization"
        if self.d.family.norm == "layer":
            kind = "SkipLayerNormalization"
            inputs.append(n.weight(f"{name}.bias"))
        normed, total = n.fresh("normed"), n.fresh("x")
        n.ops(kind, inputs, [normed, "", "", total], domain=MICROSOFT, epsilon=self.d.epsilon)
        return total, normed

    def _layer(self, layer: int, x: str, normed: str, following: str) -> tuple[str, str]:
        block = f"blk.{layer}"
        change = self._product(self._attention(layer, normed), f"{block}.attn_output")
        if f"{block}.post_attention_norm.weight" in self.w.stored:
            change = self._norm(change, f"{block}.post_attention_norm")
        x, normed = self._add_and_norm(x, change, f"{block}.ffn_norm")
        change = self._product(self._inner(block, normed), f"{block}.ffn_down")
        if f"{block}.post_ffw_norm.weight" in self.w.stored:
            change = self._norm(change, f"{block}.post_ffw_norm")
        return self._add_and_norm(x, change, following)

    def _product(self, x: str, name: str) -> str:
        """A product of a layer. Rounding hurts most in front of the attention and in the last layer (see docs)."""
        _, layer, role = name.split(".", 2)
        careful = role in _QUERIES or int(layer) == self.d.layers - 1
        return self.n.product(x, self.w.products[name], careful=careful)

    def _attention(self, layer: int, x: str) -> str:
        d, n, block = self.d, self.n, f"blk.{layer}"
        widths = [d.heads * d.head_size, d.kv_heads * d.head_size, d.kv_heads * d.head_size]
        normed_heads, filled = f"{block}.attn_q_norm.weight" in self.w.stored, d.filled_size > d.head_size
        if f"{block}.qkv" in self.w.products:
            packed = self._product(x, f"{block}.qkv")
            qkv = n.split(packed, widths) if normed_heads or filled else [packed, "", ""]
        else:
            qkv = [self._product(x, f"{block}.attn_{part}") for part in "qkv"]
        if normed_heads:
            qkv[0] = self._head_norm(qkv[0], f"{block}.attn_q_norm", d.heads)
            qkv[1] = self._head_norm(qkv[1], f"{block}.attn_k_norm", d.kv_heads)
        if filled:
            qkv = [self._filled(part, width // d.head_size) for part, width in zip(qkv, widths, strict=True)]
        past = [f"past_key_values.{layer}.{side}" for side in ("key", "value")]
        present = [f"present.{layer}.{side}" for side in ("key", "value")]
        inputs = [*qkv, *past, self.last32, self.total32]
        rotary = d.family.rotary != "none"
        if rotary:
            inputs += [n.weight(f"{table}.{rope_table(d, layer)}") for table in ("cos", "sin")]
        attributes = {"local_window_size": d.windows[layer]} if d.windows[layer] else {}
        out = n.fresh("attention")
        n.ops(
            "GroupQueryAttention", inputs, [out, *present], domain=MICROSOFT, num_heads=d.heads,
            kv_num_heads=d.kv_heads, scale=d.attention_scale, do_rotary=int(rotary),
            rotary_interleaved=int(d.family.rotary == "interleaved"), **attributes,
        )  # fmt: skip
        return self._emptied(out) if filled else out

    def _filled(self, x: str, heads: int) -> str:
        """Zeros behind every head, which change no product of a query and a key; behind each half where these pair."""
        n, d, parts = self.n, self.d, self._parts
        apart = n.op("Reshape", x, n.constant([0, 0, heads * parts, d.head_size // parts]))
        more = n.constant([0, 0, 0, 0, 0, 0, 0, (d.filled_size - d.head_size) // parts])
        return n.op("Reshape", n.op("Pad", apart, more), n.constant([0, 0, heads * d.filled_size]))

    def _emptied(self, x: str) -> str:
        """What `_filled` was given, from what it made."""
        n, d, parts = self.n, self.d, self._parts
        apart = n.op("Reshape", x, n.constant([0, 0, d.heads * parts, d.filled_size // parts]))
        own = n.op("Slice", apart, n.constant([0]), n.constant([d.head_size // parts]), n.constant([-1]))
        return n.op("Reshape", own, n.constant([0, 0, d.heads * d.head_size]))

    @property
    def _parts(self) -> int:
        """Pieces of a head that stay side by side when it is filled up."""
        return 2 if self.d.family.rotary == "halves" else 1

    def _head_norm(self, x: str, name: str, heads: int) -> str:
        n, size = self.n, self.d.head_size
        apart = n.op("Reshape", x, n.constant([0, 0, heads, size]))
        return n.op("Reshape", self._norm(apart, name), n.constant([0, 0, heads * size]))

    def _inner(self, block: str, x: str) -> str:
        n, products = self.n, self.w.products
        if f"{block}.gate_up" in products:
            gate, up = n.split(self._product(x, f"{block}.gate_up"), [self.d.inner, self.d.inner])
        elif f"{block}.ffn_gate" in products:
            gate, up = (self._product(x, f"{block}.ffn_{part}") for part in ("gate", "up"))
        else:
            return self._activated(self._product(x, f"{block}.ffn_up"))
        return n.op("Mul", self._activated(gate), up)

    def _activated(self, x: str) -> str:
        if self.d.family.activation == "silu":
            return self.n.op("QuickGelu", x, domain=MICROSOFT, alpha=1.0)
        return self.n.op("FastGelu", x, domain=MICROSOFT)

    def _logits(self, x: str) -> None:
        n, d = self.n, self.d
        if not self.every_position:
            x = n.op("Unsqueeze", n.op("Gather", x, n.constant(-1), axis=1), n.constant([1]))
        head = self.w.products.get("output", self.w.products["token_embd"])
        logits = n.scaled(n.product(x, head), 1.0 / d.logit_scale)
        if d.logit_softcap:
            logits = n.scaled(n.op("Tanh", n.scaled(logits, 1.0 / d.logit_softcap)), d.logit_softcap)
        n.op("Identity", logits, output="logits")


def rope_table(decoder: Decoder, layer: int) -> str:
    """Name of the table of angles that a layer uses."""
    return f"{decoder.rope_bases[layer]:g}.{decoder.rope_divisors[layer]:g}"
