"""Encoders and encoder–decoders: BERT and its relatives, vision transformers, CLIP towers, Whisper, RNN-T."""

from __future__ import annotations

from agent.records import record
from agent.workload.catalogue_net import Net, Options, Wire
from agent.workload.graph import Graph


@record(frozen=True)
class Encoder:
    """Transformer encoder; `vocab` 0 means images in `patch`·`patch` pieces. `outputs`: width of the head (0: none)."""

    layers: int
    hidden: int
    heads: int
    ffn: int
    source: str
    vocab: int = 0
    patch: int = 0
    outputs: int = 0
    pooled: bool = True


@record(frozen=True)
class Speech:
    """Whisper: encoder and decoder with the same number of layers."""

    layers: int
    hidden: int
    heads: int
    source: str
    vocab: int = 51865


AUDIO_FRAMES = 3000
"""Mel frames of Whisper's 30 s window."""
AUDIO_POSITIONS = 1500

ENCODERS: dict[str, Encoder] = {
    "bert-base": Encoder(12, 768, 12, 3072, "google-bert/bert-base-uncased", 30522 + 514, outputs=768),
    "bert-large": Encoder(24, 1024, 16, 4096, "google-bert/bert-large-uncased", 30522 + 514, outputs=2, pooled=False),
    "distilbert": Encoder(6, 768, 12, 3072, "distilbert/distilbert-base-uncased", 30522 + 512),
    "minilm-l6": Encoder(6, 384, 12, 1536, "sentence-transformers/all-MiniLM-L6-v2", 30522 + 514),
    "minilm-l12": Encoder(12, 384, 12, 1536, "microsoft/MiniLM-L12-H384-uncased", 30522 + 514),
    "clip-text": Encoder(12, 512, 8, 2048, "openai/clip-vit-base-patch32, text tower", 49408 + 77, outputs=512),
    "vit-base-16": Encoder(12, 768, 12, 3072, "google/vit-base-patch16-224", patch=16, outputs=1000),
    "clip-vit-base-16": Encoder(12, 768, 12, 3072, "openai/clip-vit-base-patch16, image tower", patch=16, outputs=512),
    "clip-vit-base-32": Encoder(12, 768, 12, 3072, "openai/clip-vit-base-patch32, image tower", patch=32, outputs=512),
}

SPEECH: dict[str, Speech] = {
    "whisper-tiny": Speech(4, 384, 6, "openai/whisper-tiny"),
    "whisper-base": Speech(6, 512, 8, "openai/whisper-base"),
    "whisper-small": Speech(12, 768, 12, "openai/whisper-small"),
    "whisper-medium": Speech(24, 1024, 16, "openai/whisper-medium"),
}


def build_encoder(name: str, arch: Encoder, options: Options) -> tuple[Graph, float]:
    """Graph and number of parameters."""
    net = Net(name, options)
    if arch.patch:
        image = net.input(options.batch, 3, options.size or 224, options.size or 224)
        pieces = net.conv(image, arch.hidden, arch.patch, arch.patch, name="patches", valid=True)
        steps = pieces.shape[2] * pieces.shape[3] + 1
        x = net.light([pieces], (options.batch, steps, arch.hidden), "Concat", 0.0, "positions",
                      parameters=(steps + 1) * arch.hidden)  # fmt: skip
    else:
        ids = net.input(options.batch, options.tokens, dtype="int64")
        x = net.norm(net.embed(ids, arch.hidden, arch.vocab), "embedding.norm")
    for layer in range(arch.layers):
        x = _block(net, x, arch.heads, arch.ffn, f"layer{layer}")
    if arch.outputs:
        if arch.pooled:
            x = net.light([x], (options.batch, arch.hidden), "Gather", 0.0, "pooled")
        x = net.dense(x, arch.outputs, "head")
    return net.graph(x), net.parameters


def _block(net: Net, x: Wire, heads: int, ffn: int, name: str) -> Wire:
    hidden = x.shape[-1]
    packed = net.dense(x, 3 * hidden, f"{name}.qkv")
    seen = net.full_attention(packed, heads, f"{name}.attention")
    x = net.norm(net.add(x, net.dense(seen, hidden, f"{name}.out")), f"{name}.norm1")
    wide = net.dense(x, ffn, f"{name}.up")
    return net.norm(net.add(x, net.dense(wide, hidden, f"{name}.down")), f"{name}.norm2")


def build_speech(name: str, arch: Speech, options: Options) -> tuple[Graph, float]:
    """Whisper: forward and prefill are the encoder over 30 s, decode is one token of the decoder at `context`."""
    net = Net(name, options, weights_only=True)
    if options.phase != "decode":
        sound = net.input(options.batch, 80, AUDIO_FRAMES)
        x = net.conv(net.conv(sound, arch.hidden, 3, name="conv1"), arch.hidden, 3, 2, name="conv2")
        x = net.light([x], (options.batch, AUDIO_POSITIONS, arch.hidden), "Transpose", 0.0, "positions",
                      parameters=AUDIO_POSITIONS * arch.hidden)  # fmt: skip
        for layer in range(arch.layers):
            x = _block(net, x, arch.heads, 4 * arch.hidden, f"layer{layer}")
        keys = [net.dense(x, 2 * arch.hidden, f"cross{i}") for i in range(arch.layers)]
        return net.graph(x, *keys), net.parameters
    x = net.embed(net.input(options.batch, 1, dtype="int64"), arch.hidden, arch.vocab, tied=True)
    for layer in range(arch.layers):
        x = _speech_block(net, x, arch, f"layer{layer}")
    logits = net.dense(net.norm(x, "head.norm"), arch.vocab, "head", bias=False)
    return net.graph(logits), net.parameters


def _speech_block(net: Net, x: Wire, arch: Speech, name: str) -> Wire:
    hidden = arch.hidden
    packed = net.dense(net.norm(x, f"{name}.norm1"), 3 * hidden, f"{name}.qkv")
    seen = net.attention(packed, arch.heads, arch.heads, hidden // arch.heads, None, f"{name}.self")
    x = net.add(x, net.dense(seen, hidden, f"{name}.out"))
    asked = net.dense(net.norm(x, f"{name}.norm2"), hidden, f"{name}.query")
    heard = net.cross(asked, AUDIO_POSITIONS, arch.heads, f"{name}.cross", cached=True)
    x = net.add(x, net.dense(heard, hidden, f"{name}.cross_out"))
    wide = net.dense(net.norm(x, f"{name}.norm3"), 4 * hidden, f"{name}.up")
    return net.add(x, net.dense(wide, hidden, f"{name}.down"))


def build_rnnt(name: str, options: Options) -> tuple[Graph, float]:
    """MLPerf's RNN-T; `tokens` is the number of 30 ms frames (Librispeech dev-clean: about 250 per utterance).

    Two LSTM layers of 1024 over the frames, three over pairs of them, a prediction network of two LSTM layers of 320
    and a joint network, once per pair of frames and per letter (about as many). Weights are read once per layer and
    pass: runtimes keep them on chip or batch the steps.
    """
    net = Net(name, options)
    steps = options.tokens
    pairs = max(1, steps // 2)
    x = net.input(options.batch, steps, 240)
    for layer in range(2):
        x = _lstm(net, x, 1024, f"encoder{layer}")
    x = net.light([x], (options.batch, pairs, 2048), "Concat", 0.0, "stack")
    for layer in range(2, 5):
        x = _lstm(net, x, 1024, f"encoder{layer}")
    letters = net.embed(net.input(options.batch, pairs, dtype="int64"), 320, 29, "letters")
    for layer in range(2):
        letters = _lstm(net, letters, 320, f"prediction{layer}")
    joined = net.concat([x, letters], axis=2)
    joined = net.light([joined], (options.batch, 2 * pairs, 1344), "Expand", 0.0, "joint.pairs")
    return net.graph(net.dense(net.dense(joined, 512, "joint"), 29, "head")), net.parameters


def _lstm(net: Net, x: Wire, hidden: int, name: str) -> Wire:
    """Input and hidden weights as one product over (input, hidden) per step, then the gates."""
    both = net.light([x], (*x.shape[:-1], x.shape[-1] + hidden), "Concat", 0.0, f"{name}.state")
    gates = net.dense(both, 4 * hidden, name)
    return net.light([gates], (*x.shape[:-1], hidden), "LSTM", 9.0, f"{name}.gates")
