"""Signed messages as a fleet sends them."""

from __future__ import annotations

import itertools
import json
import time

from agent.mqtt import signing_key
from agent.mqtt.envelope import sealed

KEY = signing_key.generate()
STRANGER = signing_key.generate()
_numbers = itertools.count(1)


def command_text(name: str, now_s: float | None = None, **fields) -> str:
    """A command for acme/b1, valid for a minute."""
    now_s = time.time() if now_s is None else now_s
    document = {
        "v": 1, "kind": "command", "id": f"test-{time.time_ns():x}-{next(_numbers)}", "tenant": "acme", "board": "b1",
        "command": name, "args": {}, "iat": now_s, "exp": now_s + 60.0,
    }  # fmt: skip
    return json.dumps({**document, **fields})


def signed(text: str, key=KEY) -> bytes:
    return sealed(text, key.sign(text.encode(), "test"))


def desired_text(ver: int, **fields) -> str:
    """A desired state of acme/b1."""
    document = {"v": 1, "kind": "desired", "tenant": "acme", "board": "b1", "ver": ver, "iat": time.time()}
    return json.dumps({**document, **fields})
