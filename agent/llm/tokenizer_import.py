"""A GGUF's vocabulary as the tokenizer.json that the `tokenizers` library reads.

Split patterns are those the model families publish in their own tokenizer.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from agent.errors import BadInput
from agent.records import record

_NORMAL, _UNKNOWN, _CONTROL, _USER = 1, 2, 3, 4
_ENDS = frozenset({"<|im_end|>", "<|eot_id|>", "<|eom_id|>", "<|end|>", "<end_of_turn>", "<|endoftext|>",
                   "<|end_of_text|>", "<eos>", "</s>"})  # fmt: skip
"""Control tokens that end a turn or a text wherever a vocabulary has them."""

_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
_DIGITS = {"type": "Digits", "individual_digits": True}
_PIECES: dict[str, list[dict[str, Any]]] = {
    **{name: [_BYTES] for name in ("gpt-2", "default", "mpt", "olmo")},
    **{name: [_DIGITS, _BYTES] for name in ("smollm", "starcoder", "refact", "codeshell")},
    **{
        name: [
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {**_BYTES, "use_regex": False},
        ]
        for name, pattern in {
            "llama-bpe": _LLAMA3, "llama3": _LLAMA3, "llama-v3": _LLAMA3, "qwen2": _QWEN2, "tekken": _TEKKEN,
            "deepseek-r1-qwen": _QWEN2,
        }.items()
    },
}  # fmt: skip


@record(frozen=True)
class TokenizerFiles:
    """Contents of tokenizer.json and tokenizer_config.json; ids of the tokens that begin and end a text."""

    tokenizer: dict[str, Any]
    config: dict[str, Any]
    chat_template: str | None
    begin_id: int | None
    end_ids: tuple[int, ...]


def read_tokenizer(metadata: Mapping[str, Any], vocabulary: int, source: str) -> TokenizerFiles:
    """The tokenizer that the metadata hold, for `vocabulary` embeddings. Raises BadInput naming the key."""
    tokens = _tokens(metadata, vocabulary, source)
    kinds = _list(metadata, "token_type", source) or [_NORMAL] * len(tokens)
    if len(kinds) != len(tokens):
        raise BadInput(f"{source}: {len(kinds)} token types for {len(tokens)} tokens")
    family = metadata.get("tokenizer.ggml.model")
    if family == "gpt2":
        body = _byte_level(metadata, tokens, source)
    elif family in ("llama", "gemma"):
        body = _sentence_pieces(metadata, tokens, kinds, source)
    else:
        raise BadInput(f"{source}: tokenizer.ggml.model {family!r} is not supported; known are gpt2 and llama")
    ids = {name: _id(metadata, f"{name}_token_id", len(tokens), source) for name in ("bos", "eos", "eot")}
    begin = ids["bos"]
    default_begin = family != "gpt2" or metadata.get("tokenizer.ggml.pre") in ("llama-bpe", "llama3", "llama-v3")
    adds_begin = bool(metadata.get("tokenizer.ggml.add_bos_token", default_begin)) and begin is not None
    ends = {i for i in (ids["eos"], ids["eot"]) if i is not None}
    ends |= {
        i for i, (token, kind) in enumerate(zip(tokens, kinds, strict=True)) if kind == _CONTROL and token in _ENDS
    }
    template = metadata.get("tokenizer.chat_template")
    config: dict[str, Any] = {
        "add_bos_token": adds_begin,
        "bos_token": None if begin is None else tokens[begin],
        "eos_token": None if ids["eos"] is None else tokens[ids["eos"]],
        "clean_up_tokenization_spaces": False,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None,
        "added_tokens": _added(tokens, kinds),
        **body,
        "post_processor": None if begin is None or not adds_begin else _template(tokens[begin], begin),
    }  # fmt: skip
    return TokenizerFiles(
        tokenizer, config, template if isinstance(template, str) else None, begin, tuple(sorted(ends))
    )


def _tokens(metadata: Mapping[str, Any], vocabulary: int, source: str) -> list[str]:
    tokens = _list(metadata, "tokens", source)
    if not tokens:
        raise BadInput(f"{source}: metadata key tokenizer.ggml.tokens is missing; the file holds no tokenizer")
    if len(tokens) > vocabulary:
        raise BadInput(f"{source}: {len(tokens)} tokens, but embeddings for {vocabulary}")
    for index, token in enumerate(tokens):
        if not isinstance(token, str) or any("\ud800" <= c <= "\udfff" for c in token):
            raise BadInput(f"{source}: token {index} is not UTF-8 text")
    return tokens


def _list(metadata: Mapping[str, Any], key: str, source: str) -> list[Any]:
    value = metadata.get(f"tokenizer.ggml.{key}", [])
    if not isinstance(value, list):
        raise BadInput(f"{source}: metadata key tokenizer.ggml.{key} is not a list")
    return value


def _id(metadata: Mapping[str, Any], key: str, count: int, source: str) -> int | None:
    value = metadata.get(f"tokenizer.ggml.{key}")
    if value is None:
        return None
    if not isinstance(value, int) or not 0 <= value < count:
        raise BadInput(f"{source}: tokenizer.ggml.{key} is {value!r}, but there are {count} tokens")
    return value


def _added(tokens: list[str], kinds: list[int]) -> list[dict[str, Any]]:
    return [
        {
            "id": index, "content": token, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": False, "special": kind in (_CONTROL, _UNKNOWN),
        }
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True))
        if kind in (_CONTROL, _USER, _UNKNOWN)
    ]  # fmt: skip


def _template(token: str, index: int) -> dict[str, Any]:
    begin = {"SpecialToken": {"id": token, "type_id": 0}}
    sequence = {"Sequence": {"id": "A", "type_id": 0}}
    return {
        "type": "TemplateProcessing",
        "single": [begin, sequence],
        "pair": [begin, sequence, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {token: {"id": token, "ids": [index], "tokens": [token]}},
    }


def _byte_level(metadata: Mapping[str, Any], tokens: list[str], source: str) -> dict[str, Any]:
    kind = metadata.get("tokenizer.ggml.pre", "default")
    pieces = _PIECES.get(kind) if isinstance(kind, str) else None
    if pieces is None:
        raise BadInput(f"{source}: tokenizer.ggml.pre {kind!r} is not supported; known are {', '.join(_PIECES)}")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    merges = []
    for index, merge in enumerate(_list(metadata, "merges", source)):
        pair = merge.split(" ") if isinstance(merge, str) else []
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise BadInput(f"{source}: merge {index} of the tokenizer names unknown tokens")
        merges.append(pair)
    return {
        "normalizer": {"type": "NFC"} if kind == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pieces},
        "decoder": {**_BYTES, "trim_offsets": True},
        "model": _bpe(vocabulary, merges, byte_fallback=False, unknown=None, ignore_merges=kind.startswith("llama")),
    }


def _bpe(
    vocabulary: dict[str, int],
    merges: list[list[str]],
    *,
    byte_fallback: bool,
    unknown: str | None,
    ignore_merges: bool,
) -> dict[str, Any]:
    return {
        "type": "BPE", "dropout": None, "unk_token": unknown, "continuing_subword_prefix": None,
        "end_of_word_suffix": None, "fuse_unk": True, "byte_fallback": byte_fallback, "ignore_merges": ignore_merges,
        "vocab": vocabulary, "merges": merges,
    }  # fmt: skip


def _sentence_pieces(metadata: Mapping[str, Any], tokens: list[str], kinds: list[int], source: str) -> dict[str, Any]:
    scores = _list(metadata, "scores", source)
    if len(scores) != len(tokens):
        raise BadInput(f"{source}: {len(scores)} token scores for {len(tokens)} tokens")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = next((t for t, k in zip(tokens, kinds, strict=True) if k == _UNKNOWN), None)
    prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    spaces: dict[str, Any] = {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}
    front = [{"type": "Prepend", "prepend": "▁"}] if prefix else []
    back: list[dict[str, Any]] = [
        {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
    ]
    if prefix:
        back.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    merges = _merges_by_score(tokens, kinds, scores)
    return {
        "normalizer": {"type": "Sequence", "normalizers": [*front, spaces]},
        "pre_tokenizer": None,
        "decoder": {"type": "Sequence", "decoders": back},
        "model": _bpe(vocabulary, merges, byte_fallback=True, unknown=unknown, ignore_merges=False),
    }


def _merges_by_score(tokens: list[str], kinds: list[int], scores: list[float]) -> list[list[str]]:
    """Every way to join two pieces into a third, best score of the third first, as SentencePiece joins them."""
    rank = {t: i for i, (t, k) in enumerate(zip(tokens, kinds, strict=True)) if k in (_NORMAL, _USER)}
    found: list[tuple[float, int, int, str, str]] = []
    for token, index in rank.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in rank and right in rank:
                found.append((-scores[index], rank[left], rank[right], left, right))
    return [[left, right] for _, _, _, left, right in sorted(found)]
