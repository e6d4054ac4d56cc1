"""Board choice: the profile and the policy of a command that asks what if, from its options and the settings."""

from __future__ import annotations

import os
from pathlib import Path

from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy


def board_and_policy(profile: str | None, policy: str | None, config: Path | None) -> tuple[DeviceProfile, Policy]:
    """Profile (with this machine's calibration, where it was made for it) and policy.

    What is not given comes from the settings – the file, then QEIL_… variables – with their simulated accelerators, so
    that the answer is about the board that `qeil run` would use with them.
    """
    from agent.service import assembly, calibration, configuration
    from agent.storage import share, yaml_files

    settings = configuration.load_settings(config, {}, dict(os.environ))
    wishes = yaml_files.load_policy(share.find_policy(policy or settings.policy))
    if profile is None:
        return assembly.board(settings).profile, wishes
    return calibration.apply_saved(assembly.base_profile(profile), settings.state_dir), wishes
