"""Plan variants: which file of a configured model `qeil plan NAME` is about, chosen as the agent would."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agent.cli.plan_model import Ask
    from agent.schema.device import DeviceProfile
    from agent.schema.policy import Policy
    from agent.schema.settings import ModelEntry
    from agent.service.planning.plan import ModelPlan


def of_settings(ask: Ask, board: DeviceProfile, policy: Policy) -> tuple[Ask, list[dict[str, Any]]]:
    """The ask about the file that would serve first, and what is to be said of each file of the model.

    The ask as it is and nothing where the settings have no model of that name with variants; a language model's folder
    and mode.
    """
    from agent.service import configuration
    from agent.service.board import make_board
    from agent.service.planning.planner import Planner
    from agent.service.serving import model_store

    settings = configuration.load_settings(ask.config, {}, dict(os.environ))
    entry = next((e for e in model_store.tensor_models(settings) if e.name == ask.model), None)
    if entry is None:
        text = next((e for e in model_store.language_models(settings) if e.name == ask.model), None)
        return (ask if text is None else replace(ask, model=str(text.path), mode=text.decoder.mode)), []
    # Simulated accelerators are in the profile already, and compute nothing here.
    whole = make_board(board, (), lambda _: board)
    planned = Planner(whole, None).plan_model(policy, entry, ask.state)
    chosen = planned.candidates[0].variant if planned.candidates else ""
    paths = {"": entry.path, **{v.name: v.path for v in entry.variants}}
    rows = [_row(name, entry, planned, chosen) for name in paths] if entry.variants else []
    return replace(ask, model=str(paths[chosen])), rows


def _row(name: str, entry: ModelEntry, planned: ModelPlan, chosen: str) -> dict[str, Any]:
    quality = entry.quality if not name else next(v.quality for v in entry.variants if v.name == name)
    best = next((c for c in planned.candidates if c.variant == name), None)
    why = dict(planned.rejected).get(f"variant {name}") if name else None
    return {
        "variant": name or "model file", "quality": quality, "chosen": name == chosen,
        "accelerators": [c.accelerator for c in planned.candidates if c.variant == name],
        "latency_s": best.predicted_s if best else None, "energy_j": best.predicted_energy_j if best else None,
        "why": why or (None if best else "another file is better on every accelerator"),
    }  # fmt: skip
