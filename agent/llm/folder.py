"""Opens a decoder folder: sizes, graphs, tokenizer, chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from agent.errors import BadInput
from agent.llm.chat import ChatTemplate
from agent.llm.sizes import DecoderSizes, read_json, read_sizes


@dataclass(frozen=True, kw_only=True)
class DecoderFolder(DecoderSizes):
    """What a decoder folder holds, its text part included."""

    tokenizer: Tokenizer
    chat_template: str | None
    special: Mapping[str, str]

    @cached_property
    def chat(self) -> ChatTemplate | None:
        """The chat template, compiled at its first use; None where there is none."""
        return None if self.chat_template is None else ChatTemplate(self.name, self.chat_template, self.special)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids; with `special` the tokens that the model expects at the beginning are added."""
        return list(self.tokenizer.encode(text, add_special_tokens=special).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of tokens, control tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def shown(self, token: int) -> str:
        """Text of one token by itself, control tokens included."""
        return str(self.tokenizer.decode([token], skip_special_tokens=False))


def open_folder(path: Path) -> DecoderFolder:
    """Read a decoder folder. Raises BadInput naming the file that is missing or wrong."""
    sizes, config = read_sizes(path), read_json(path / "tokenizer_config.json")
    file = path / "tokenizer.json"
    read_json(file)
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower than Exception itself
        raise BadInput(f"{file}: {error}") from error
    template = path / "chat_template.jinja"
    chat_template = template.read_text() if template.is_file() else _default(config.get("chat_template"))
    return DecoderFolder(
        **vars(sizes), tokenizer=tokenizer,
        chat_template=chat_template if isinstance(chat_template, str) else None,
        special={k: _text(config[k]) for k in ("bos_token", "eos_token") if config.get(k)},
    )  # fmt: skip


def _default(templates: Any) -> Any:
    """Of several named templates, as some folders have, the one called default."""
    if not isinstance(templates, list):
        return templates
    named = {t["name"]: t.get("template") for t in templates if isinstance(t, dict) and isinstance(t.get("name"), str)}
    return named.get("default")


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
