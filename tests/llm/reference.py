"""Small random decoders as GGUF files, and a plain float32 forward pass over the dequantised weights."""

from __future__ import annotations

import gguf
import numpy as np

HIDDEN, INNER, HEADS, KV, LAYERS, CONTEXT = 64, 96, 4, 2, 2, 64
ROTARY = {"llama": "pairs", "granite": "pairs", "qwen2": "halves", "qwen3": "halves", "gemma3": "halves", "gpt2": None}


def byte_tokens():
    """The 256 byte characters of GPT-2's alphabet."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = iter(range(256, 512))
    return [chr(b) if b in shown else chr(next(hidden)) for b in range(256)]


TOKENS = [*byte_tokens(), "<|im_end|>", "th", "he"]
VOCABULARY = len(TOKENS)


def write_model(  # noqa: C901, PLR0912
    path, architecture="llama", kind="Q4_1", seed=0, *, factors=False, context=CONTEXT, change=dict, keys=id, head=None
):
    """A random model; `change` edits its tensors (name → (array, format)), `keys` adds metadata to the writer."""
    layers = 7 if architecture == "gemma3" else LAYERS
    head = head or (32 if architecture == "gemma3" else HIDDEN // HEADS)
    kv = HEADS if architecture == "gpt2" else KV
    rng = np.random.default_rng(seed)
    tensors = {}

    def matrix(name, rows, columns, scale=0.3, fmt=kind):
        tensors[name] = ((rng.standard_normal((rows, columns)) * scale).astype(np.float32), fmt)

    def vector(name, size, mean=0.0):
        tensors[name] = ((mean + 0.2 * rng.standard_normal(size)).astype(np.float32), "F32")

    def norm(name, size=HIDDEN):
        vector(f"{name}.weight", size, 1.0)
        if architecture == "gpt2":
            vector(f"{name}.bias", size)

    matrix("token_embd.weight", VOCABULARY, HIDDEN, fmt="Q8_0" if kind != "F32" else kind)
    if architecture == "gpt2":
        matrix("position_embd.weight", CONTEXT, HIDDEN, fmt="F32")
    if architecture in ("llama", "granite"):
        matrix("output.weight", VOCABULARY, HIDDEN)
    if factors:
        tensors["rope_freqs.weight"] = (np.linspace(1, 4, head // 2, dtype=np.float32), "F32")
    for i in range(layers):
        b = f"blk.{i}"
        norm(f"{b}.attn_norm")
        norm(f"{b}.ffn_norm")
        q, k = HEADS * head, kv * head
        if architecture == "gpt2":
            matrix(f"{b}.attn_qkv.weight", q + 2 * k, HIDDEN)
            for name, size in (
                ("attn_qkv", q + 2 * k),
                ("attn_output", HIDDEN),
                ("ffn_up", INNER),
                ("ffn_down", HIDDEN),
            ):
                vector(f"{b}.{name}.bias", size)
        else:
            matrix(f"{b}.attn_q.weight", q, HIDDEN)
            matrix(f"{b}.attn_k.weight", k, HIDDEN)
            matrix(f"{b}.attn_v.weight", k, HIDDEN, fmt="Q8_0" if kind == "Q4_0" else kind)
            matrix(f"{b}.ffn_gate.weight", INNER, HIDDEN)
        if architecture == "qwen2":
            for name, size in (("q", q), ("k", k), ("v", k)):
                vector(f"{b}.attn_{name}.bias", size)
        if architecture in ("qwen3", "gemma3"):
            norm(f"{b}.attn_q_norm", head)
            norm(f"{b}.attn_k_norm", head)
        if architecture == "gemma3":
            norm(f"{b}.post_attention_norm")
            norm(f"{b}.post_ffw_norm")
        matrix(f"{b}.attn_output.weight", HIDDEN, q)
        matrix(f"{b}.ffn_up.weight", INNER, HIDDEN)
        matrix(f"{b}.ffn_down.weight", HIDDEN, INNER)
    norm("output_norm")
    tensors = change(tensors)

    w = gguf.GGUFWriter(str(path), architecture)
    w.add_name("tiny")
    w.add_license("mit")
    w.add_block_count(layers)
    w.add_context_length(context)
    w.add_embedding_length(HIDDEN)
    w.add_feed_forward_length(INNER)
    w.add_head_count(HEADS)
    w.add_head_count_kv(kv)
    w.add_key_length(head)
    w.add_value_length(head)
    if architecture == "gpt2":
        w.add_layer_norm_eps(1e-5)
    else:
        w.add_layer_norm_rms_eps(1e-5)
        w.add_rope_freq_base(5000.0)
    if architecture == "gemma3":
        w.add_sliding_window(8)
    if architecture == "granite":
        w.add_embedding_scale(3.0)
        w.add_residual_scale(0.5)
        w.add_logit_scale(2.0)
        w.add_attention_scale(0.1)
    keys(w)
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(TOKENS)
    w.add_token_types([1] * 256 + [3, 1, 1])
    w.add_token_merges(["t h", "h e"])
    w.add_eos_token_id(256)
    w.add_chat_template("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>")
    for name, (values, fmt) in tensors.items():
        code = gguf.GGMLQuantizationType[fmt]
        w.add_tensor(name, gguf.quants.quantize(values, code), raw_dtype=code)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


class Reference:
    """Float32 logits of every position."""

    def __init__(self, path):
        reader = gguf.GGUFReader(path)
        self.t = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
        self.f = {name: field.contents() for name, field in reader.fields.items() if len(field.data) == 1}
        self.a = self.f["general.architecture"]

    def get(self, key, default=None):
        return self.f.get(f"{self.a}.{key}", default)

    def norm(self, x, name):
        if self.a == "gpt2":
            centred = x - x.mean(-1, keepdims=True)
            x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self.get("attention.layer_norm_epsilon"))
            return x * self.t[f"{name}.weight"] + self.t[f"{name}.bias"]
        scale = np.sqrt((x**2).mean(-1, keepdims=True) + self.get("attention.layer_norm_rms_epsilon"))
        return x / scale * self.t[f"{name}.weight"]

    def linear(self, x, name):
        y = x @ self.t[f"{name}.weight"].T
        return y + self.t[f"{name}.bias"] if f"{name}.bias" in self.t else y

    def rotate(self, x, base):
        """x: (positions, heads, size)."""
        size = x.shape[-1]
        step = base ** (-np.arange(0, size, 2) / size) / self.t.get("rope_freqs.weight", 1.0)
        angle = np.outer(np.arange(len(x)), step)
        cos, sin = np.cos(angle)[:, None].astype(np.float32), np.sin(angle)[:, None].astype(np.float32)
        y = np.empty_like(x)
        if ROTARY[self.a] == "pairs":
            a, b = x[..., 0::2], x[..., 1::2]
            y[..., 0::2], y[..., 1::2] = a * cos - b * sin, a * sin + b * cos
        else:
            a, b = x[..., : size // 2], x[..., size // 2 :]
            y[..., : size // 2], y[..., size // 2 :] = a * cos - b * sin, a * sin + b * cos
        return y

    def attention(self, x, i):
        b, heads = f"blk.{i}", self.get("attention.head_count")
        kv, size = self.get("attention.head_count_kv", heads), self.get("attention.key_length", x.shape[-1] // heads)
        if f"{b}.attn_qkv.weight" in self.t:
            qkv = np.split(self.linear(x, f"{b}.attn_qkv"), [heads * size, (heads + kv) * size], -1)
        else:
            qkv = [self.linear(x, f"{b}.attn_{part}") for part in "qkv"]
        q, k, v = (part.reshape(len(x), -1, size) for part in qkv)
        if f"{b}.attn_q_norm.weight" in self.t:
            q, k = self.norm(q, f"{b}.attn_q_norm"), self.norm(k, f"{b}.attn_k_norm")
        window = self.get("attention.sliding_window") if self.a == "gemma3" and (i + 1) % 6 else None
        if ROTARY[self.a]:
            base = 10000.0 if window else self.get("rope.freq_base")
            q, k = self.rotate(q, base), self.rotate(k, base)
        k, v = np.repeat(k, heads // kv, 1), np.repeat(v, heads // kv, 1)
        scores = np.einsum("qhd,khd->hqk", q, k) * (self.get("attention.scale") or size**-0.5)
        distance = np.arange(len(x))[:, None] - np.arange(len(x))
        hidden = (distance < 0) | (distance >= (window or 1 << 30))
        scores = np.where(hidden, -np.inf, scores)
        chances = np.exp(scores - scores.max(-1, keepdims=True))
        chances /= chances.sum(-1, keepdims=True)
        return self.linear(np.einsum("hqk,khd->qhd", chances, v).reshape(len(x), -1), f"{b}.attn_output")

    def inner(self, x, i):
        up = self.linear(x, f"blk.{i}.ffn_up")
        gated = f"blk.{i}.ffn_gate.weight" in self.t
        gate = self.linear(x, f"blk.{i}.ffn_gate") if gated else up
        if self.a in ("gpt2", "gemma3"):
            gate = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate**3)))
        else:
            gate = gate / (1 + np.exp(-gate))
        return self.linear(gate * up if gated else gate, f"blk.{i}.ffn_down")

    def logits(self, ids):
        x = self.t["token_embd.weight"][ids]
        x = x * (x.shape[-1] ** 0.5 if self.a == "gemma3" else self.get("embedding_scale", 1.0))
        if "position_embd.weight" in self.t:
            x = x + self.t["position_embd.weight"][: len(ids)]
        for i in range(self.get("block_count")):
            for part, before, after in (
                (self.attention, "attn_norm", "post_attention_norm"),
                (self.inner, "ffn_norm", "post_ffw_norm"),
            ):
                change = part(self.norm(x, f"blk.{i}.{before}"), i)
                if f"blk.{i}.{after}.weight" in self.t:
                    change = self.norm(change, f"blk.{i}.{after}")
                x = x + change * self.get("residual_scale", 1.0)
        head = self.t.get("output.weight", self.t["token_embd.weight"])
        return self.norm(x, "output_norm") @ head.T / self.get("logit_scale", 1.0)
