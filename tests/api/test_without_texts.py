"""An agent without language models offers the same paths below /v1, and reads their code only when somebody asks."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

from agent.api.body import BodyBudget
from agent.api.openai import OpenAi
from agent.api.without_texts import WithoutTexts


def offered(routes: Any) -> dict[str, set[str]]:
    return {route.path: set(route.methods or ()) for route in routes}


def test_the_same_paths_take_the_same_methods_with_and_without_language_models() -> None:
    service: Any = object()
    budget = BodyBudget(1)
    assert offered(WithoutTexts(service, budget).routes()) == offered(OpenAi(service, service, budget).routes())


def test_the_agent_starts_without_reading_what_serves_texts() -> None:
    read = "import sys, agent.service.app; print([m for m in sys.modules if 'openai' in m or m == 'agent.schema.text'])"
    done = subprocess.run([sys.executable, "-c", read], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"
