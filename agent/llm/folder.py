"""Opens a decoder folder: sizes, graphs, tokenizer, chat template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from agent.errors import BadInput
from agent.llm.chat import ChatTemplate
from agent.llm.sizes import DecoderSizes, read_json, read_sizes
from agent.records import record


@record(frozen=True, kw_only=True)
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
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower than Exception itself
        read_json(file)  # which says better what is wrong with a file that is missing or no JSON
        raise BadInput(f"{file}: {error}") from error
    template = path / "chat_template.jinja"
    chat_template = _read(template) if template.is_file() else _default(config.get("chat_template"))
    return DecoderFolder(
        **vars(sizes), tokenizer=tokenizer,
        chat_template=chat_template if isinstance(chat_template, str) else None,
        special={k: _text(config[k]) for k in ("bos_token", "eos_token") if config.get(k)},
    )  # fmt: skip


def _read(template: Path) -> str:
    try:
        return template.read_text("utf-8")
    except OSError as error:
        raise BadInput(f"{template}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise BadInput(f"{template}: not UTF-8 text ({error.reason} at byte {error.start})") from error


class FolderShelf:
    """A folder read ahead of its load, in a process that waits. Not thread-safe."""

    def __init__(self) -> None:
        self._folder: DecoderFolder | None = None
        self._state: _State = ()

    def prepare(self, path: Path) -> None:
        """Read it now. What is wrong with it is said when it is taken."""
        state = _state_of(path)
        with suppress(BadInput):
            self._folder, self._state = open_folder(path), state

    def take(self, path: Path) -> DecoderFolder:
        """The folder, read again where it has changed meanwhile. Raises what `open_folder` raises."""
        folder, self._folder = self._folder, None
        known = folder is not None and folder.path == path and self._state == _state_of(path)
        return folder if known and folder is not None else open_folder(path)


_State = tuple[tuple[str, int, int], ...]


def _state_of(path: Path) -> _State:
    """Name, size and time of each file."""
    try:
        found = [(file.name, file.stat()) for file in sorted(path.iterdir())]
    except OSError:
        return ()
    return tuple((name, stat.st_size, stat.st_mtime_ns) for name, stat in found)


def _default(templates: Any) -> Any:
    """Of several named templates, as some folders have, the one called default."""
    if not isinstance(templates, list):
        return templates
    named = {t["name"]: t.get("template") for t in templates if isinstance(t, dict) and isinstance(t.get("name"), str)}
    return named.get("default")


def _text(token: Any) -> str:
    return str(token["content"] if isinstance(token, dict) else token)
