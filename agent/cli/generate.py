"""`qeil generate`: text from a decoder folder, streamed, with tokens per second and joules."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Final, Literal

import click

from agent.cli import complete
from agent.cli.generate_remote import generate_remotely
from agent.cli.reach import Reach, reach_options
from agent.errors import BadInput
from agent.schema.text import TextForm

_FORMS: Final[dict[str, Literal["json_schema", "gbnf"]]] = {".json": "json_schema", ".gbnf": "gbnf"}


@click.command("generate")
@click.argument("model", shell_complete=complete.names(complete.models))
@click.argument("prompt")
@reach_options
@click.option("--max-tokens", type=click.IntRange(1, 1 << 20), default=128, show_default=True, help="of the answer")
@click.option("--samples", "-n", type=click.IntRange(1, 64), default=1, show_default=True, help="continuations")
@click.option("--temperature", type=click.FloatRange(0, 5), default=0.0, show_default=True, help="0: the likeliest")
@click.option("--top-k", type=click.IntRange(0), default=0, help="only the k likeliest tokens")
@click.option("--top-p", type=click.FloatRange(1e-6, 1), default=1.0, help="only the likeliest up to this share")
@click.option("--min-p", type=click.FloatRange(0, 1), default=0.0, help="only those within this share of the likeliest")
@click.option("--repetition", type=click.FloatRange(0.1, 10), default=1.0, help="above 1: repeat less")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="of what is drawn by chance")
@click.option("--stop", "stops", multiple=True, help="end before this text; repeatable")
@click.option("--mode", help="exact (default), fast: activations rounded to 8 bits, or another one of the folder")
@click.option("--threads", type=click.IntRange(1, 256), default=os.cpu_count() or 1, show_default="one per core",
              help="that compute; not with --url")  # fmt: skip
@click.option("--form", help="json, or a file the text must keep to: a JSON schema (.json) or a GBNF grammar (.gbnf)")
@click.option("--raw", is_flag=True, help="continue the text as it is, without the chat template")
def generate_command(
    model: str, prompt: str, reach: Reach, max_tokens: int, samples: int, temperature: float, top_k: int, top_p: float,
    min_p: float, repetition: float, seed: int, stops: tuple[str, ...], mode: str | None, threads: int,
    form: str | None, raw: bool,
) -> None:  # fmt: skip
    """Write text that answers PROMPT with MODEL: one that the running agent serves, or a decoder folder.

    A folder (made by `qeil models import`) runs in this process, without an agent.
    """
    shape = None if form is None else _form(form)
    if "/" not in model and not Path(model).exists():
        asked = {
            "model": model, "max_tokens": max_tokens, "temperature": temperature, "top_k": top_k, "top_p": top_p,
            "min_p": min_p, "repetition_penalty": repetition, "seed": seed, "stop": list(stops) or None,
        }  # fmt: skip
        if mode is not None:
            raise BadInput("--mode is for a folder; a served model has the mode of the settings (models: decoder.mode)")
        if shape is not None and shape.kind == "gbnf":
            asked["grammar"] = shape.source
        elif shape is not None:
            schema = json.loads(shape.source) if shape.source else None
            asked["response_format"] = {"type": "json_object", **({"schema": schema} if schema is not None else {})}
        generate_remotely(reach, asked, prompt, samples, raw=raw)
        return
    try:
        from agent.llm.chat import render
        from agent.llm.folder import open_folder
        from agent.llm.generation import Prompt, generate
        from agent.llm.grammar import Grammars
        from agent.llm.sampler import Sampling
        from agent.llm.session import DecoderSession
    except ModuleNotFoundError as error:
        raise BadInput(f"generating needs the package {error.name}; install qeil-agent[llm]") from error
    folder = open_folder(Path(model))
    chat = folder.chat_template is not None and not raw
    text = render(folder, [{"role": "user", "content": prompt}]) if chat else prompt
    sampling = Sampling(temperature, top_k, top_p, min_p, repetition, seed)
    compiled = None if shape is None else Grammars(folder).compile(shape)
    order = Prompt(tuple(folder.encode(text, special=not chat)), max_tokens, samples, stops, sampling, form=compiled)
    session = DecoderSession(folder, threads=threads, mode=mode)
    started_s = time.perf_counter()
    first_s, tokens, texts = started_s, 0, [""] * samples
    for piece in generate(session, order):
        first_s = time.perf_counter() if tokens == 0 else first_s
        tokens += 1
        texts[piece.row] += piece.text
        if samples == 1:
            click.echo(piece.text, nl=False)
    ended_s = time.perf_counter()
    click.echo("" if samples == 1 else "\n".join(f"[{row + 1}] {written}" for row, written in enumerate(texts)))
    prefill = len(order.ids) / max(first_s - started_s, 1e-9)
    later = tokens - samples
    speed = f"{later / max(ended_s - first_s, 1e-9):.1f} tokens/s" if later > 0 else "too short to time"
    click.echo(
        f"{len(order.ids)} + {tokens} tokens, prompt {prefill:.0f} tokens/s, writing {speed} (measured); "
        "energy unknown: nothing meters this process, an agent's placement does",
        err=True,
    )


def _form(said: str) -> TextForm:
    if said == "json":
        return TextForm("json")
    file = Path(said)
    kind = _FORMS.get(file.suffix.lower())
    if kind is None:
        raise BadInput(f"--form {said}: expected json, a JSON schema in a file .json or a grammar in a file .gbnf")
    try:
        source = file.read_text()
        if kind == "json_schema":
            json.loads(source)
    except OSError as error:
        raise BadInput(f"--form {said}: {error.strerror}") from error
    except ValueError as error:
        raise BadInput(f"--form {said}: cannot be read ({error})") from error
    return TextForm(kind, source)
