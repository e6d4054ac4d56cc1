"""`qeil generate` of a model that the running agent serves: streamed text, and what it cost by the agent's account."""

from __future__ import annotations

import time
from typing import Any

import click

from agent.cli.client import AgentClient
from agent.cli.reach import Reach


def generate_remotely(reach: Reach, asked: dict[str, Any], prompt: str, samples: int, *, raw: bool) -> None:
    """Ask and print. `asked`: model and sampling in OpenAI's words."""
    document = {**asked, "n": samples, "stream": True, "stream_options": {"include_usage": True}}
    path = "/v1/completions" if raw else "/v1/chat/completions"
    document |= {"prompt": prompt} if raw else {"messages": [{"role": "user", "content": prompt}]}
    texts, usage = [""] * samples, None
    started_s = time.perf_counter()
    first_s = started_s
    with AgentClient(reach, timeout_s=600.0) as client:
        for event in client.events(path, document):
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                text = choice.get("text") or choice.get("delta", {}).get("content") or ""
                first_s = time.perf_counter() if text and first_s == started_s else first_s
                texts[choice["index"]] += text
                if samples == 1:
                    click.echo(text, nl=False)
    ended_s = time.perf_counter()
    click.echo("" if samples == 1 else "\n".join(f"[{row + 1}] {written}" for row, written in enumerate(texts)))
    if usage is None:
        return
    energy = usage["energy"]
    joules = f"joules unknown: {energy.get('reason') or 'the agent does not say why'}"
    if energy["energy_j"] is not None:
        joules = f"{energy['energy_j']:.3g} J {energy['provenance']}"
    later = usage["completion_tokens"] - samples
    speed = f"{later / max(ended_s - first_s, 1e-9):.1f} tokens/s" if later > 0 else "too short to time"
    click.echo(
        f"{usage['prompt_tokens']} + {usage['completion_tokens']} tokens on {energy['placement']}, "
        f"first after {first_s - started_s:.2f} s, then {speed} (measured); {joules}",
        err=True,
    )
