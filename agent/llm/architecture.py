"""What a GGUF's metadata says about a decoder: sizes, norms, angles, scales; per family where they differ."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

from agent.errors import BadInput
from agent.llm.rotary import Yarn
from agent.records import record


@record(frozen=True)
class Family:
    """How a family of models differs from the plain Llama decoder."""

    norm: Literal["rms", "layer"] = "rms"
    rotary: Literal["interleaved", "halves", "none"] = "halves"
    activation: Literal["silu", "gelu_tanh"] = "silu"
    embedding_times_root: bool = False
    """Embeddings are multiplied by the square root of their width (Gemma)."""
    local_period: int = 0
    """Every n-th layer sees everything and the others a window; 0: all see everything."""


FAMILIES: Mapping[str, Family] = {
    "llama": Family(rotary="interleaved"),
    "mistral": Family(rotary="interleaved"),
    "granite": Family(rotary="interleaved"),
    "qwen2": Family(),
    "qwen3": Family(),
    "gemma3": Family(activation="gelu_tanh", embedding_times_root=True, local_period=6),
    "gpt2": Family(norm="layer", rotary="none", activation="gelu_tanh"),
}
"""`general.architecture` → family. Mistral files call themselves llama."""


@record(frozen=True)
class Decoder:
    """A decoder's sizes and constants. Lengths count elements; `windows` has 0 where a layer sees all positions."""

    architecture: str
    family: Family
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    epsilon: float
    rope_bases: tuple[float, ...]
    rope_divisors: tuple[float, ...]
    windows: tuple[int, ...]
    yarn: Yarn | None
    embedding_scale: float
    residual_scale: float
    attention_scale: float
    logit_scale: float
    logit_softcap: float

    @property
    def filled_size(self) -> int:
        """Size of a head in attention and cache: filled up with zeros to what the runtime's attention takes."""
        step = HEAD_STEP[self.family.rotary != "none"]
        return -(-self.head_size // step) * step

    @property
    def kv_bytes_per_token(self) -> int:
        """Bytes of float32 keys and values that one position of one sequence keeps."""
        return self.layers * 2 * self.kv_heads * self.filled_size * 4


HEAD_STEP: Mapping[bool, int] = {True: 16, False: 8}
"""What the size of a head must be a multiple of, by whether it is rotated (ONNX Runtime's GroupQueryAttention)."""
_FACTOR, _FIRST_FACTOR = "rope.scaling.factor", "rope.scale_linear"
# Far beyond what any model was trained with, near enough that every angle stays a number.
_BASES = (2.0, 1e15)
_DIVISORS = (1e-6, 1e6)
_FACTORS = (1.0, 1e6)
_TURNS = (1e-3, 1e6)
_AMPLITUDES = (1e-3, 1e3)


class _Keys:
    """Typed reading of `{architecture}.{key}`."""

    def __init__(self, metadata: Mapping[str, Any], architecture: str, source: str) -> None:
        self.metadata, self.architecture, self.source = metadata, architecture, source

    def number(self, key: str, default: float | None = None) -> float:
        name = f"{self.architecture}.{key}"
        value = self.metadata.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            what = "is missing" if value is None else f"is {str(value)[:40]!r}, expected one number"
            raise BadInput(f"{self.source}: metadata key {name} {what}")
        if not math.isfinite(value):
            raise BadInput(f"{self.source}: metadata key {name} is {value}, expected a finite number")
        return float(value)

    def within(self, key: str, bounds: tuple[float, float], default: float | None = None) -> float:
        value = self.number(key, default)
        if not bounds[0] <= value <= bounds[1]:
            name = f"{self.architecture}.{key}"
            raise BadInput(f"{self.source}: metadata key {name} is {value}, expected {bounds[0]:g} to {bounds[1]:g}")
        return value

    def count(self, key: str, default: int | None = None) -> int:
        value = self.number(key, default)
        if value != int(value) or not 1 <= value <= 1 << 24:
            raise BadInput(f"{self.source}: metadata key {self.architecture}.{key} is {value:g}, expected a count")
        return int(value)


def read_decoder(metadata: Mapping[str, Any], vocabulary: int, source: str, context: int | None = None) -> Decoder:
    """The decoder that the metadata describe, with at most `context` positions. Raises BadInput naming the key."""
    architecture = metadata.get("general.architecture")
    family = FAMILIES.get(architecture) if isinstance(architecture, str) else None
    if family is None or not isinstance(architecture, str):
        raise BadInput(f"{source}: architecture {architecture!r} is not supported; known are {', '.join(FAMILIES)}")
    keys = _Keys(metadata, architecture, source)
    layers, hidden, heads = (keys.count(k) for k in ("block_count", "embedding_length", "attention.head_count"))
    head_size = keys.count("attention.key_length", max(1, hidden // heads))
    kv_heads = keys.count("attention.head_count_kv", heads)
    if heads % kv_heads or keys.count("attention.value_length", head_size) != head_size:
        raise BadInput(f"{source}: {heads} heads, {kv_heads} KV heads of size {head_size} do not fit together")
    if family.rotary != "none" and keys.count("rope.dimension_count", head_size) != head_size:
        raise BadInput(f"{source}: rotary angles on a part of the head are not supported")
    if family.rotary != "none" and head_size % 2:
        raise BadInput(
            f"{source}: metadata key {architecture}.attention.key_length: {head_size} is odd, so there are no "
            "pairs of values to rotate"
        )
    if metadata.get(f"{architecture}.attention.causal", True) is not True:
        raise BadInput(f"{source}: metadata key {architecture}.attention.causal is false; this model writes no text")
    windows = _windows(keys, family, layers)
    trained = keys.count("context_length")
    epsilon = "attention.layer_norm_rms_epsilon" if family.norm == "rms" else "attention.layer_norm_epsilon"
    return Decoder(
        architecture=architecture,
        family=family,
        layers=layers,
        hidden=hidden,
        inner=keys.count("feed_forward_length"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        vocabulary=vocabulary,
        context=min(trained, context or trained),
        epsilon=keys.number(epsilon),
        rope_bases=_bases(keys, windows),
        rope_divisors=tuple(_divisor(keys, window) for window in windows),
        windows=windows,
        yarn=_yarn(keys),
        embedding_scale=keys.number("embedding_scale", hidden**0.5 if family.embedding_times_root else 1.0) or 1.0,
        residual_scale=keys.number("residual_scale", 1.0) or 1.0,
        attention_scale=keys.number("attention.scale", 0.0) or head_size**-0.5,
        logit_scale=keys.number("logit_scale", 1.0) or 1.0,
        logit_softcap=keys.number("final_logit_softcapping", 0.0),
    )


def _windows(keys: _Keys, family: Family, layers: int) -> tuple[int, ...]:
    if f"{keys.architecture}.attention.sliding_window" not in keys.metadata:
        return (0,) * layers
    window = int(keys.number("attention.sliding_window"))
    if family.local_period == 0:
        return (window if keys.architecture in {"mistral", "llama"} else 0,) * layers
    return tuple(window if local else 0 for local in _local(keys, family, layers))


def _local(keys: _Keys, family: Family, layers: int) -> list[bool]:
    """Which layers see a window only: as the file says, a period or one truth a layer, else as the family does."""
    name = "attention.sliding_window_pattern"
    listed = keys.metadata.get(f"{keys.architecture}.{name}")
    if isinstance(listed, list):
        if len(listed) != layers or not all(isinstance(local, bool | int) for local in listed):
            raise BadInput(f"{keys.source}: metadata key {keys.architecture}.{name} needs {layers} truths")
        return [bool(local) for local in listed]
    period = keys.count(name, family.local_period)
    return [bool((layer + 1) % period) for layer in range(layers)]


def _bases(keys: _Keys, windows: tuple[int, ...]) -> tuple[float, ...]:
    base = keys.within("rope.freq_base", _BASES, 10_000.0)
    if keys.architecture != "gemma3":
        return (base,) * len(windows)
    local = keys.within("rope.freq_base_swa", _BASES, 10_000.0)
    return tuple(local if window else base for window in windows)


def _scaling(keys: _Keys) -> str:
    kind = keys.metadata.get(f"{keys.architecture}.rope.scaling.type") or _unnamed_scaling(keys)
    if kind not in ("none", "linear", "yarn"):
        raise BadInput(f"{keys.source}: rotary scaling {kind!r} is not supported; known are none, linear and yarn")
    return str(kind)


def _unnamed_scaling(keys: _Keys) -> str:
    """Without a type a factor means the linear one, as llama.cpp reads it."""
    return "linear" if keys.number(_factor_key(keys), 0.0) else "none"


def _factor_key(keys: _Keys) -> str:
    """Where a linear factor stands: in such files perhaps under the name that it had first."""
    names = (_FACTOR, _FIRST_FACTOR)
    return next((key for key in names if f"{keys.architecture}.{key}" in keys.metadata), _FACTOR)


def _divisor(keys: _Keys, window: int) -> float:
    """Linear scaling divides the angles, in Gemma of the layers that see everything only."""
    if _scaling(keys) != "linear":
        return 1.0
    local = bool(window) and keys.architecture == "gemma3"
    return 1.0 if local else keys.within(_factor_key(keys), _DIVISORS)


def _yarn(keys: _Keys) -> Yarn | None:
    if _scaling(keys) != "yarn":
        return None
    found = Yarn(
        factor=keys.within("rope.scaling.factor", _FACTORS),
        trained=keys.count("rope.scaling.original_context_length"),
        beta_fast=keys.within("rope.scaling.yarn_beta_fast", _TURNS, 32.0),
        beta_slow=keys.within("rope.scaling.yarn_beta_slow", _TURNS, 1.0),
        attention=keys.within(
            "rope.scaling.yarn_attn_factor", _AMPLITUDES, keys.within("rope.scaling.attn_factor", _AMPLITUDES, 1.0)
        ),
    )
    if keys.number("rope.scaling.yarn_ext_factor", 1.0) not in (1.0, -1.0):
        raise BadInput(f"{keys.source}: metadata key {keys.architecture}.rope.scaling.yarn_ext_factor is not supported")
    if keys.number("rope.scaling.yarn_log_multiplier", 0.0):
        raise BadInput(
            f"{keys.source}: metadata key {keys.architecture}.rope.scaling.yarn_log_multiplier is not supported"
        )
    if found.beta_fast <= found.beta_slow:
        raise BadInput(
            f"{keys.source}: metadata key {keys.architecture}.rope.scaling.yarn_beta_fast is {found.beta_fast:g}, "
            f"expected more than yarn_beta_slow, {found.beta_slow:g}"
        )
    return found
