"""Decoder language models: architectures in one table, and the graph of their prefill and decode phases.

Numbers are those of the published config.json (or paper) named in `source`. Attention is causal: a position sees those
before it and itself. A decode step reads every weight but the embedding table, and the whole cache.
"""

from __future__ import annotations

from agent.records import record
from agent.workload.catalogue_net import Net, Options, Wire
from agent.workload.graph import Graph


@record(frozen=True)
class Decoder:
    """A decoder-only transformer or one of its relatives.

    experts/active: mixture of experts. window/global_every: sliding attention but for every n-th layer.
    mixers: layers with a short convolution or recurrence instead of attention, with `mixer_matrices`·hidden² weights
    and `state` elements of fp32 state. attention_weights: weights of an attention block that is not the usual one.
    weight_bits: storage of a weight where the model is published in one format only.
    """

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    vocab: int
    tied: bool
    source: str
    gated: bool = True
    experts: int = 0
    active: int = 0
    window: int | None = None
    global_every: int = 0
    mixers: int = 0
    mixer_matrices: float = 4.0
    state: int = 0
    attention_weights: int | None = None
    weight_bits: float | None = None

    def attends(self, layer: int) -> bool:
        """Whether the layer has attention; mixers are spread evenly between them."""
        kept = self.layers - self.mixers
        return (layer + 1) * kept // self.layers > layer * kept // self.layers

    def sees_all(self, layer: int) -> bool:
        """Whether the layer's attention is not limited to the window."""
        return self.window is None or (self.global_every > 0 and (layer + 1) % self.global_every == 0)


def build(name: str, arch: Decoder, options: Options) -> tuple[Graph, float]:
    """Graph and number of parameters. prefill: `tokens` new positions; decode: one position per sequence."""
    steps = 1 if options.phase == "decode" else options.tokens
    net = Net(name, options, weights_only=True)
    ids = net.input(options.batch, steps, dtype="int64")
    x = net.embed(ids, arch.hidden, arch.vocab, tied=arch.tied)
    for layer in range(arch.layers):
        x = _mixing(net, x, arch, layer)
        x = _feed_forward(net, x, arch, layer)
    x = net.norm(x, "head.norm", 5.0)
    last = net.light([x], (options.batch, 1, arch.hidden), "Slice", 0.0, "head.last") if steps > 1 else x
    logits = net.dense(last, arch.vocab, "head", bias=False)
    return net.graph(logits), net.parameters


def _mixing(net: Net, x: Wire, arch: Decoder, layer: int) -> Wire:
    name = f"layer{layer}.attention"
    normed = net.norm(x, name, 5.0)
    if not arch.attends(layer):
        return net.add(x, _mixer(net, normed, arch, f"layer{layer}.mixer"))
    width = arch.heads * arch.head_dim
    packed = width + 2 * arch.kv_heads * arch.head_dim
    mixed = net.dense(normed, packed, f"{name}.qkv", bias=False)
    rotated = net.light([mixed], mixed.shape, "RotaryEmbedding", 3.0, f"{name}.rotary", "elementwise")
    window = None if arch.sees_all(layer) else arch.window
    seen = net.attention(rotated, arch.heads, arch.kv_heads, arch.head_dim, window, f"{name}.core")
    if arch.attention_weights is not None:
        seen = _extra(net, seen, arch, packed, width, name)
    return net.add(x, net.dense(seen, arch.hidden, f"{name}.out", bias=False))


def _extra(net: Net, x: Wire, arch: Decoder, packed: int, width: int, name: str) -> Wire:
    """Weights of low-rank projections beyond (or short of) the usual four matrices, as one product."""
    usual = arch.hidden * (packed + width)
    missing = max(0, (arch.attention_weights or usual) - usual)
    inner = net.dense(x, max(1, missing // x.shape[-1]), f"{name}.low_rank", bias=False)
    return net.light([inner], x.shape, "Reshape", 0.0, f"{name}.merge")


def _mixer(net: Net, x: Wire, arch: Decoder, name: str) -> Wire:
    """Gated short convolution (LFM2) or linear recurrence (RWKV): projections in and out, and a small state."""
    inner = net.dense(x, round(arch.hidden * (arch.mixer_matrices - 1)), f"{name}.in", bias=False)
    moved = 2.0 * 4.0 * arch.state * x.shape[0]
    mixed = net.light([inner], x.shape, "ShortConv", 8.0, name, state_bytes=moved)
    return net.dense(mixed, arch.hidden, f"{name}.out", bias=False)


def _feed_forward(net: Net, x: Wire, arch: Decoder, layer: int) -> Wire:
    name = f"layer{layer}.mlp"
    normed = net.norm(x, name, 5.0)
    if arch.experts:
        net.dense(normed, arch.experts, f"{name}.router")
        return net.add(x, net.experts(normed, arch.ffn, arch.experts, arch.active, f"{name}.experts"))
    if not arch.gated:
        wide = net.dense(normed, arch.ffn, f"{name}.up")
        return net.add(x, net.dense(wide, arch.hidden, f"{name}.down"))
    gate = net.dense(normed, arch.ffn, f"{name}.gate", bias=False)
    up = net.dense(normed, arch.ffn, f"{name}.up", bias=False)
    gated = net.light([up, gate], up.shape, "Mul", 2.0, f"{name}.gated", "elementwise")
    return net.add(x, net.dense(gated, arch.hidden, f"{name}.down", bias=False))


# layers, hidden, heads, KV heads, head width, feed-forward width, vocabulary
DECODERS: dict[str, Decoder] = {
    "gpt2-125m": Decoder(12, 768, 12, 12, 64, 3072, 50257, tied=True, gated=False, source="openai-community/gpt2"),
    "gpt-j-6b": Decoder(28, 4096, 16, 16, 256, 16384, 50400, tied=False, gated=False, source="EleutherAI/gpt-j-6b"),
    "granite-350m": Decoder(28, 1024, 16, 4, 64, 2048, 100352, tied=True, source="ibm-granite/granite-4.0-350m"),
    "granite-3.1-8b": Decoder(
        40, 4096, 32, 8, 128, 12800, 49155, tied=True, source="ibm-granite/granite-3.1-8b-instruct"
    ),
    "qwen2-0.5b": Decoder(24, 896, 14, 2, 64, 4864, 151936, tied=True, source="Qwen/Qwen2-0.5B"),
    "qwen2-1.5b": Decoder(28, 1536, 12, 2, 128, 8960, 151936, tied=True, source="Qwen/Qwen2-1.5B"),
    "qwen2-7b": Decoder(28, 3584, 28, 4, 128, 18944, 152064, tied=False, source="Qwen/Qwen2-7B"),
    "qwen2.5-0.5b": Decoder(24, 896, 14, 2, 64, 4864, 151936, tied=True, source="Qwen/Qwen2.5-0.5B"),
    "qwen2.5-1.5b": Decoder(28, 1536, 12, 2, 128, 8960, 151936, tied=True, source="Qwen/Qwen2.5-1.5B"),
    "qwen2.5-3b": Decoder(36, 2048, 16, 2, 128, 11008, 151936, tied=True, source="Qwen/Qwen2.5-3B"),
    "qwen2.5-7b": Decoder(28, 3584, 28, 4, 128, 18944, 152064, tied=False, source="Qwen/Qwen2.5-7B"),
    "qwen2.5-14b": Decoder(48, 5120, 40, 8, 128, 13824, 152064, tied=False, source="Qwen/Qwen2.5-14B"),
    "qwen2.5-32b": Decoder(64, 5120, 40, 8, 128, 27648, 152064, tied=False, source="Qwen/Qwen2.5-32B"),
    "qwen3-0.6b": Decoder(28, 1024, 16, 8, 128, 3072, 151936, tied=True, source="Qwen/Qwen3-0.6B"),
    "qwen3-1.7b": Decoder(28, 2048, 16, 8, 128, 6144, 151936, tied=True, source="Qwen/Qwen3-1.7B"),
    "qwen3-4b": Decoder(36, 2560, 32, 8, 128, 9728, 151936, tied=True, source="Qwen/Qwen3-4B"),
    "qwen3-8b": Decoder(36, 4096, 32, 8, 128, 12288, 151936, tied=False, source="Qwen/Qwen3-8B"),
    "qwen3-14b": Decoder(40, 5120, 40, 8, 128, 17408, 151936, tied=False, source="Qwen/Qwen3-14B"),
    "qwen3-32b": Decoder(64, 5120, 64, 8, 128, 25600, 151936, tied=False, source="Qwen/Qwen3-32B"),
    "qwen3-30b-a3b": Decoder(
        48, 2048, 32, 4, 128, 768, 151936, tied=False, experts=128, active=8, source="Qwen/Qwen3-30B-A3B"
    ),
    "bonsai-4b": Decoder(
        36, 2560, 32, 8, 128, 9728, 151936, tied=True, weight_bits=1.125,
        source="Qwen3-4B with 1-bit weights in groups of 128 with a 16-bit scale",
    ),
    "ternary-bonsai-1.7b": Decoder(
        28, 2048, 16, 8, 128, 6144, 151936, tied=True, weight_bits=2.125,
        source="Qwen3-1.7B with ternary weights in 2 bits, groups of 128 with a 16-bit scale",
    ),
    "llama-2-7b": Decoder(32, 4096, 32, 32, 128, 11008, 32000, tied=False, source="meta-llama/Llama-2-7b"),
    "llama-2-13b": Decoder(40, 5120, 40, 40, 128, 13824, 32000, tied=False, source="meta-llama/Llama-2-13b"),
    "llama-2-70b": Decoder(80, 8192, 64, 8, 128, 28672, 32000, tied=False, source="meta-llama/Llama-2-70b"),
    "llama-3-8b": Decoder(32, 4096, 32, 8, 128, 14336, 128256, tied=False, source="meta-llama/Meta-Llama-3-8B"),
    "llama-3.1-8b": Decoder(32, 4096, 32, 8, 128, 14336, 128256, tied=False, source="meta-llama/Llama-3.1-8B"),
    "llama-3.2-1b": Decoder(16, 2048, 32, 8, 64, 8192, 128256, tied=True, source="meta-llama/Llama-3.2-1B"),
    "llama-3.2-3b": Decoder(28, 3072, 24, 8, 128, 8192, 128256, tied=True, source="meta-llama/Llama-3.2-3B"),
    "llama-3.3-70b": Decoder(80, 8192, 64, 8, 128, 28672, 128256, tied=False, source="meta-llama/Llama-3.3-70B"),
    "tinyllama-1.1b": Decoder(22, 2048, 32, 4, 64, 5632, 32000, tied=False, source="TinyLlama/TinyLlama-1.1B"),
    "mistral-7b": Decoder(32, 4096, 32, 8, 128, 14336, 32768, tied=False, source="mistralai/Mistral-7B-v0.3"),
    "smollm2-135m": Decoder(30, 576, 9, 3, 64, 1536, 49152, tied=True, source="HuggingFaceTB/SmolLM2-135M"),
    "smollm2-360m": Decoder(32, 960, 15, 5, 64, 2560, 49152, tied=True, source="HuggingFaceTB/SmolLM2-360M"),
    "smollm2-1.7b": Decoder(24, 2048, 32, 32, 64, 8192, 49152, tied=True, source="HuggingFaceTB/SmolLM2-1.7B"),
    "gemma-2-2b": Decoder(
        26, 2304, 8, 4, 256, 9216, 256000, tied=True, window=4096, global_every=2, source="google/gemma-2-2b"
    ),
    "gemma-2-9b": Decoder(
        42, 3584, 16, 8, 256, 14336, 256000, tied=True, window=4096, global_every=2, source="google/gemma-2-9b"
    ),
    "gemma-3-270m": Decoder(
        18, 640, 4, 1, 256, 2048, 262144, tied=True, window=512, global_every=6, source="google/gemma-3-270m"
    ),
    "gemma-3-1b": Decoder(
        26, 1152, 4, 1, 256, 6912, 262144, tied=True, window=512, global_every=6, source="google/gemma-3-1b-it"
    ),
    "gemma-3-4b": Decoder(
        34, 2560, 8, 4, 256, 10240, 262208, tied=True, window=1024, global_every=6, source="google/gemma-3-4b-it"
    ),
    "phi-3-mini": Decoder(32, 3072, 32, 32, 96, 8192, 32064, tied=False, source="microsoft/Phi-3-mini-4k-instruct"),
    "phi-3.5-mini": Decoder(32, 3072, 32, 32, 96, 8192, 32064, tied=False, source="microsoft/Phi-3.5-mini-instruct"),
    "phi-4-mini": Decoder(32, 3072, 24, 8, 128, 8192, 200064, tied=True, source="microsoft/Phi-4-mini-instruct"),
    "lfm2-350m": Decoder(
        16, 1024, 16, 8, 64, 4608, 65536, tied=True, mixers=10, state=3072, source="LiquidAI/LFM2-350M"
    ),
    "lfm2-1.2b": Decoder(
        16, 2048, 32, 8, 64, 8192, 65536, tied=True, mixers=10, state=6144, source="LiquidAI/LFM2-1.2B"
    ),
    "lfm2-2.6b": Decoder(
        30, 2048, 32, 8, 64, 10752, 65536, tied=True, mixers=22, state=6144, source="LiquidAI/LFM2-2.6B"
    ),
    "deepseek-r1-distill-qwen-1.5b": Decoder(
        28, 1536, 12, 2, 128, 8960, 151936, tied=False, source="deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
    ),
    "deepseek-r1-distill-qwen-7b": Decoder(
        28, 3584, 28, 4, 128, 18944, 152064, tied=False, source="deepseek-ai/DeepSeek-R1-Distill-Qwen-7B"
    ),
    "deepseek-r1-distill-llama-8b": Decoder(
        32, 4096, 32, 8, 128, 14336, 128256, tied=False, source="deepseek-ai/DeepSeek-R1-Distill-Llama-8B"
    ),
    "deepseek-r1-distill-qwen-14b": Decoder(
        48, 5120, 40, 8, 128, 13824, 152064, tied=False, source="deepseek-ai/DeepSeek-R1-Distill-Qwen-14B"
    ),
    "deepseek-r1-distill-qwen-32b": Decoder(
        64, 5120, 40, 8, 128, 27648, 152064, tied=False, source="deepseek-ai/DeepSeek-R1-Distill-Qwen-32B"
    ),
    "chatglm3-6b": Decoder(28, 4096, 32, 2, 128, 13696, 65024, tied=False, source="THUDM/chatglm3-6b"),
    "internlm2-1.8b": Decoder(24, 2048, 16, 8, 128, 8192, 92544, tied=False, source="internlm/internlm2-1_8b"),
    "minicpm4-0.5b": Decoder(24, 1024, 16, 2, 64, 4096, 73448, tied=True, source="openbmb/MiniCPM4-0.5B"),
    "minicpm3-4b": Decoder(
        62, 2560, 40, 1, 64, 6400, 73448, tied=True, attention_weights=13_533_184, source="openbmb/MiniCPM3-4B"
    ),
    "rwkv7-1.5b": Decoder(
        24, 2048, 32, 32, 64, 8192, 65536, tied=False, gated=False, mixers=24, mixer_matrices=4.5, state=131072,
        source="BlinkDL/rwkv-7-world 1.5B",
    ),
    "gpt-oss-20b": Decoder(
        24, 2880, 64, 8, 64, 2880, 201088, tied=False, experts=32, active=4, weight_bits=5.28,
        window=128, global_every=2, source="openai/gpt-oss-20b (MXFP4 experts, bf16 attention: 13.8 GB for 20.9 B)",
    ),
}  # fmt: skip
"""weight_bits of gpt-oss: stored size over parameters."""
