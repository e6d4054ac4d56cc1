"""Opens the folder of an imported decoder: sizes, graphs, tokenizer, chat template."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from agent.errors import BadInput

MAX_JSON_BYTES = 256 << 20


@dataclass(frozen=True)
class DecoderFolder:
    """What a decoder folder holds."""

    path: Path
    name: str
    layers: int
    kv_heads: int
    head_size: int
    vocabulary: int
    context: int
    graphs: Mapping[str, str]
    default_mode: str
    end_ids: frozenset[int]
    tokenizer: Tokenizer
    chat_template: str | None
    special: Mapping[str, str]

    def graph(self, mode: str | None = None) -> Path:
        """File of the graph of a mode. Raises BadInput naming the modes there are."""
        chosen = mode or self.default_mode
        if chosen not in self.graphs:
            raise BadInput(f"{self.path}: no mode {chosen!r}; the folder has {', '.join(self.graphs)}")
        return self.path / self.graphs[chosen]

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; with `special` the tokens that the model expects at the beginning are added."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, control tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def open_folder(path: Path) -> DecoderFolder:
    """Read a folder that `import_gguf` wrote. Raises BadInput naming the file that is missing or wrong."""
    manifest, config, genai = (_json(path / f) for f in ("manifest.json", "tokenizer_config.json", "genai_config.json"))
    try:
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    except Exception as error:
        raise BadInput(f"{path / 'tokenizer.json'}: {error}") from error
    template = path / "chat_template.jinja"
    try:
        sizes = manifest["decoder"]
        return DecoderFolder(
            path=path,
            name=str(manifest["name"]),
            **{key: int(sizes[key]) for key in ("layers", "kv_heads", "head_size", "vocabulary", "context")},
            graphs=dict(manifest["graphs"]),
            default_mode=str(manifest["default_mode"]),
            end_ids=frozenset(genai["model"]["eos_token_id"]),
            tokenizer=tokenizer,
            chat_template=template.read_text() if template.is_file() else None,
            special={k: str(config[k]) for k in ("bos_token", "eos_token") if config.get(k)},
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: the manifest is not that of a decoder ({error}); import the model again") from error


def _json(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise BadInput(f"{path}: larger than {MAX_JSON_BYTES} bytes")
        data = json.loads(path.read_text())
    except OSError as error:
        raise BadInput(
            f"{path}: {error.strerror}; make the folder with: qeil models import FILE.gguf --out DIR"
        ) from error
    except ValueError as error:
        raise BadInput(f"{path}: not JSON ({error})") from error
    if not isinstance(data, dict):
        raise BadInput(f"{path}: expected a JSON object")
    return data
