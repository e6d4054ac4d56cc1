"""Main program of a decoder's second process: computes prompts, or the first layers of every step, for the first one.

    python -m agent.service.decoding.stage_process --channel FD --vitals FD --parent PID --name MODEL

The agent starts, watches and ends it as any lane. What is computed comes from the first process through a socket that
the agent hands to both, over a cache that both map. The first process looks at the run permits of both accelerators.
"""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from agent.backends.messages import Channel, Closed, Header, parse, shorten
from agent.backends.vitals import VitalsPage, rss_bytes
from agent.errors import ModelLoadFailed, QeilError
from agent.llm.folder import DecoderFolder, FolderShelf
from agent.llm.graph_part import GraphPart, cut
from agent.llm.peer import PeerServer
from agent.llm.session import cache_type, runtime_errors
from agent.service.decoding.decoder_process import begin
from agent.service.decoding.heartbeat import Heartbeat


class StageProcess:
    """See module."""

    def __init__(self, channel: Channel, page: VitalsPage) -> None:
        self._channel, self._page = channel, page
        self._loaded: tuple[DecoderFolder, GraphPart] | None = None
        self._threads = 1
        self._server: PeerServer | None = None
        self._shelf = FolderShelf()

    def serve(self) -> None:
        """Work until told to stop or until the other side is gone."""
        with Heartbeat(self._page), contextlib.suppress(Closed):
            while self._listen():
                continue

    def _listen(self) -> bool:
        """Wait for a message or a question, and take it; False: told to stop."""
        server = self._server
        sources: list[socket.socket] = [self._channel.sock] + ([server.sock] if server is not None else [])
        ready, _, _ = select.select(sources, [], [])
        if self._channel.sock in ready:
            packet, fd = self._channel.receive()
            header = parse(packet)
            if header["k"] == "stop":
                return False
            if header["k"] == "prepare":
                self._shelf.prepare(Path(header["folder"]))
            elif header["k"] == "load":
                self._load(header)
            elif header["k"] == "peer" and fd is not None:
                self._meet(socket.socket(fileno=fd))
        elif server is not None:
            self._answer(server)
        return True

    def _answer(self, server: PeerServer) -> None:
        self._page.begin(time.monotonic_ns())
        try:
            server.serve_one()
        except (OSError, EOFError, ValueError, LookupError):
            server.sock.close()  # the first process is gone; the agent pairs us with the next one
            self._server = None
        finally:
            self._page.end(time.monotonic_ns())

    def _meet(self, sock: socket.socket) -> None:
        if self._loaded is None:
            sock.close()
            return
        if self._server is not None:
            self._server.sock.close()
        folder, part = self._loaded
        kv_type = cache_type(part.types, part.names, str(folder.path))
        self._server = PeerServer(
            sock, part, folder, kv_type, runtime_errors(), lambda: time.process_time() / self._threads
        )

    def _load(self, header: Header) -> None:
        answer: Header = {"k": "loaded"}
        before_bytes, started_s = rss_bytes(), time.monotonic()
        try:
            folder, layers = self._shelf.take(Path(header["folder"])), header["layers"]
            self._threads = header["threads"]
            source = cut(folder, header["mode"], layers, "first") if layers else folder.graph(header["mode"])
            part = GraphPart(source, folder, self._threads, runtime_errors())
            self._loaded = folder, part
        except QeilError as error:
            answer |= {"error": ModelLoadFailed.code, "text": shorten(error.message)}
        else:
            answer |= {
                "providers": part.session.get_providers(), "load_s": time.monotonic() - started_s,
                "memory_bytes": max(0, rss_bytes() - before_bytes),
            }  # fmt: skip
        self._channel.send(answer)


def main(argv: Sequence[str]) -> None:
    """See module."""
    begin("agent.service.decoding.stage_process", argv, lambda channel, page: StageProcess(channel, page).serve())


if __name__ == "__main__":
    main(sys.argv[1:])
