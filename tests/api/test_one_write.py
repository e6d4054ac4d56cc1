"""Head and body of an answer leave in one piece, and nothing that is held back is forgotten."""

from __future__ import annotations

import asyncio

import pytest

from agent.api.http_protocol import JOINED_BYTES, OneWrite

HEAD = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Pipe:
    """A transport that remembers."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        self.sent.append(b"<closed>")

    def is_closing(self) -> bool:
        return b"<closed>" in self.sent


def written(*steps: bytes, turn: bool = False, close: bool = False) -> list[bytes]:
    async def run() -> list[bytes]:
        pipe = Pipe()
        one = OneWrite(pipe, asyncio.get_running_loop())  # type: ignore[arg-type] # only what is asked of it
        for step in steps:
            one.write(step)
        if turn:
            await asyncio.sleep(0)
        if close:
            one.close()
            assert one.is_closing()
        return list(pipe.sent)

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("steps", "options", "sent"),
    [
        ((HEAD, b"ok"), {}, [HEAD + b"ok"]),
        ((HEAD,), {}, []),
        ((HEAD,), {"turn": True}, [HEAD]),
        ((HEAD,), {"close": True}, [HEAD, b"<closed>"]),
        ((HEAD, b"ok"), {"turn": True, "close": True}, [HEAD + b"ok", b"<closed>"]),
        ((b"5\r\nhello\r\n",), {}, [b"5\r\nhello\r\n"]),
        ((HEAD, b"x" * (JOINED_BYTES + 1)), {}, [HEAD, b"x" * (JOINED_BYTES + 1)]),
        ((HEAD, b"ok", HEAD, b"ok"), {}, [HEAD + b"ok", HEAD + b"ok"]),
    ],
)
def test_a_head_waits_for_its_body_and_for_nothing_else(steps, options, sent) -> None:
    assert written(*steps, **options) == sent
