"""What a command must say of itself."""

import pytest

from agent.schema.command import Command
from tests.mqtt.signed import command_text


def test_the_command_schema_bounds_a_commands_life():
    with pytest.raises(ValueError, match="exp must lie after iat"):
        Command.model_validate_json(command_text("plan", 1000.0, exp=999.0))
