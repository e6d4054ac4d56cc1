"""Board choice: the profile and the policy of a command that asks what if, from its options and the settings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from agent.errors import PlacementError
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy


def board_and_policy(profile: str | None, policy: str | None, config: Path | None) -> tuple[DeviceProfile, Policy]:
    """Profile (with this machine's calibration, where it was made for it) and policy.

    What is not given comes from the settings – the file, then QEIL_… variables – with their simulated accelerators, so
    that the answer is about the board that `qeil run` would use with them.
    """
    from agent.service import assembly, configuration
    from agent.service.calibration import calibration
    from agent.storage import share, yaml_files

    settings = configuration.load_settings(config, {}, dict(os.environ))
    wishes = yaml_files.load_policy(share.find_policy(policy or settings.policy))
    if profile is None:
        return assembly.board(settings).profile, wishes
    return calibration.apply_saved(assembly.base_profile(profile), settings.state_dir), wishes


def calibration_notes(config: Path | None, board: DeviceProfile) -> list[str]:
    """One line where nobody named settings: whose calibration counts, as an agent may have another state folder."""
    from agent.service import configuration
    from agent.service.calibration import calibration
    from agent.storage import state_file

    if config is not None:
        return []
    state_dir = configuration.load_settings(None, {}, dict(os.environ)).state_dir
    saved = state_file.read_json(state_dir / calibration.FILE)
    own = isinstance(saved, dict) and saved.get("profile") == board.name
    return [
        f"{'calibrated as' if own else 'not calibrated: nothing for this board'} in {state_dir}; "
        "--config FILE for an agent with settings of its own"
    ]


def about_board(error: PlacementError, board: DeviceProfile, policy: Policy, assumed: bool) -> PlacementError:
    """The error with the board and the policy that it is about; assumed: nobody named a board."""
    which = f"{board.name}, the board of the settings," if assumed else board.name
    other = "; --profile NAME for another board" if assumed else ""
    return PlacementError(f"{which} under policy {policy.name}: {error.message}{other}", **error.context)


def headline(document: dict[str, Any]) -> str:
    """What a document of a model is about, and whose board was taken where nobody named one."""
    assumed = (
        ", the board of the settings (--profile NAME for another)" if document["board_from"] != "--profile" else ""
    )
    return f"{document['model']}, {document['phase']}, on {document['board']}{assumed}: every figure is modelled"


def prediction(document: dict[str, Any]) -> str:
    """What the choice is to an agent that runs: a prediction, which it holds against times of its own."""
    if document["phase"] != "forward":
        return (
            "a prediction of one pass: an agent that serves a language model's folder weighs 512 tokens of prompt and "
            "128 written ones together, in other figures: candidates in qeil status --json"
        )
    return (
        "a prediction: a running agent times the placements that it has loaded, on the idle board, and may then serve "
        "another one: qeil status"
    )
