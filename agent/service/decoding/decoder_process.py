"""Main program of a decoder's process: receives texts to write, runs them as one batch, sends every token at once.

    python -m agent.service.decoding.decoder_process --channel FD --vitals FD --parent PID --name MODEL

One thread receives and computes by turns, a second one writes the heartbeat. The process ends with its parent, as that
of every lane. Fields of a job: id; prompt (text), ids or messages; max_tokens or null; rows; written; stops; sampling;
logprobs; form: null or its kind and source; echo.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import select
import socket
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from agent.backends import segments
from agent.backends.messages import MAX_PACKET_BYTES, Channel, Closed, Header, parse, shorten
from agent.backends.vitals import PAGE_BYTES, VitalsPage, rss_bytes
from agent.backends.waiting import prepare
from agent.errors import BadInput, InferenceFailed, ModelLoadFailed, QeilError
from agent.llm.chat import render
from agent.llm.engine import Engine, Event, Failed, Job, Written
from agent.llm.folder import FolderShelf
from agent.llm.grammar import Grammars
from agent.llm.peer import PeerLost, SocketPeer
from agent.llm.row import Prompt
from agent.llm.sampler import Sampling
from agent.llm.session import DecoderSession
from agent.schema.text import TextForm
from agent.service.decoding.heartbeat import Heartbeat

READING_S: Final = 60.0
"""For a form and, with a process's first one, its vocabulary; then the process counts as stopped."""
PAUSE_MS: Final = 20
"""Look for a new permit this often while there is none."""


class DecoderProcess:
    """See module."""

    def __init__(self, channel: Channel, page: VitalsPage) -> None:
        self._channel, self._page, self._heart = channel, page, Heartbeat(page)
        self._poll = select.poll()
        self._poll.register(channel.sock, select.POLLIN)
        self._engine: Engine | None = None
        self._grammars: Grammars | None = None
        self._peer: SocketPeer | None = None
        self._shelf = FolderShelf()

    def serve(self) -> None:
        """Work until told to stop or until the other side is gone."""
        with self._heart, contextlib.suppress(Closed):
            while self._listen():
                self._work()

    def _listen(self) -> bool:
        """Take in what has arrived, waiting only where there is nothing else to do; False: told to stop."""
        wait_ms: int | None = 0
        if self._engine is None or self._engine.idle or not self._engine.session.complete:
            wait_ms = None
        elif not self._page.permitted(time.monotonic_ns()):
            wait_ms = PAUSE_MS
        else:
            wait_ms = math.ceil(self._page.rest_s(time.monotonic_ns()) * 1e3)
        while self._poll.poll(wait_ms):
            packet, fd = self._channel.receive()
            header = parse(packet)
            if header["k"] == "stop":
                return False
            if header["k"] == "prepare":
                self._shelf.prepare(Path(header["folder"]))
            elif header["k"] == "load":
                self._load(header)
            elif header["k"] == "write":
                text = (
                    header["job"] if fd is None else segments.attach(fd, header["bytes"]).tobytes()[: header["bytes"]]
                )
                self._write(json.loads(text))
            elif header["k"] == "cancel" and self._engine is not None:
                self._engine.cancel(header["id"])
            elif header["k"] == "peer" and fd is not None and self._engine is not None:
                self._meet(self._engine, socket.socket(fileno=fd))
            wait_ms = 0
        return True

    def _work(self) -> None:
        engine, now_ns = self._engine, time.monotonic_ns()
        if engine is None or engine.idle or not engine.session.complete:
            return
        if not self._page.permitted(now_ns) or self._page.rest_s(now_ns) > 0:
            return
        self._page.begin(now_ns)
        try:
            events = engine.turn()
        except PeerLost:
            engine.session.earlier = None  # texts wait for the next process of the other layers; the cache is there
            events = engine.take_events()
        except InferenceFailed as error:
            for number in engine.abandon():
                self._refuse(number, error)
            events = engine.take_events()
        finally:
            self._page.end(time.monotonic_ns())
        self._tell(engine, events)

    def _meet(self, engine: Engine, sock: socket.socket) -> None:
        """The agent brings the process that computes the other part."""
        if self._peer is not None:
            self._peer.close()
        self._peer = peer = SocketPeer(sock, engine.pool)
        if engine.session.layers_elsewhere:
            engine.session.earlier = peer
        else:
            engine.session.prompts = peer

    # ------------------------------------------------------------------ messages

    def _load(self, header: Header) -> None:
        answer: Header = {"k": "loaded"}
        before_bytes, started_s = rss_bytes(), time.monotonic()
        try:
            folder = self._shelf.take(Path(header["folder"]))
            self._grammars = Grammars(folder)
            threads: int = header["threads"]
            paired = header["role"] == "first"
            session = DecoderSession(
                folder,
                threads=threads,
                mode=header["mode"],
                layers_elsewhere=header["layers"] if paired else 0,
                graph=folder.scoring_graph(header["mode"]) if header["screen"] and not paired else None,
            )
            self._engine = Engine(
                session, rows=header["rows"], context=header["context"], max_waiting=header["max_waiting"],
                prefix_bytes=header["prefix_bytes"], shared=paired,
                clock=lambda: time.process_time() / threads,
            )  # fmt: skip
            if session.complete:
                self._engine.add(Job(0, Prompt((0,), 2), (0,)))
                while not self._engine.idle:
                    self._engine.turn()
        except QeilError as error:
            self._engine = None
            answer |= {"error": ModelLoadFailed.code, "text": shorten(error.message)}
        else:
            answer |= {
                "providers": session.providers, "load_s": time.monotonic() - started_s,
                "memory_bytes": max(0, rss_bytes() - before_bytes),
            }  # fmt: skip
        self._channel.send(answer)

    def _write(self, fields: Mapping[str, Any]) -> None:
        engine, grammars = self._engine, self._grammars
        try:
            if engine is None or grammars is None:
                raise InferenceFailed("no model is loaded")
            with contextlib.nullcontext() if fields.get("form") is None else self._heart.silence(READING_S):
                job = _job(engine, grammars, fields)
            engine.add(job)
        except QeilError as error:
            self._refuse(fields["id"], error)
        except Exception as error:  # noqa: BLE001  (root of a request: what a tokenizer or template chokes on costs it alone)
            self._refuse(fields["id"], BadInput(f"the text cannot be read: {type(error).__name__}: {error}"))

    def _refuse(self, number: int, error: QeilError) -> None:
        self._channel.send({"k": "failed", "id": number, "error": error.code, "text": shorten(error.message)})

    def _tell(self, engine: Engine, events: Sequence[Event]) -> None:
        pieces: list[list[Any]] = []
        ends: list[Header] = []
        for event in events:
            if isinstance(event, Written):
                pieces.append(_fields(engine, event))
            elif isinstance(event, Failed):
                ends.append({"k": "failed", "id": event.number, "error": event.error.code,
                             "text": shorten(event.error.message)})  # fmt: skip
            else:
                ends.append({"k": "done", "id": event.number, "usage": asdict(event.usage)})
        self._send_pieces(pieces)
        for end in ends:
            self._channel.send(end)

    def _send_pieces(self, pieces: list[list[Any]]) -> None:
        if not pieces:
            return
        packet = json.dumps({"k": "pieces", "p": pieces}, separators=(",", ":")).encode()
        if len(packet) <= MAX_PACKET_BYTES or len(pieces) == 1:
            self._channel.send_packet(packet)
            return
        half = len(pieces) // 2
        self._send_pieces(pieces[:half])
        self._send_pieces(pieces[half:])


def _job(engine: Engine, grammars: Grammars, fields: Mapping[str, Any]) -> Job:
    folder = engine.session.folder
    if fields.get("ids") is not None:
        ids = tuple(fields["ids"])
    elif fields.get("messages") is not None:
        ids = tuple(folder.encode(render(folder, fields["messages"]), special=False))
    else:
        ids = tuple(folder.encode(fields["prompt"]))
    room = engine.pool.capacity - len(ids)
    form = None if fields.get("form") is None else grammars.compile(TextForm(*fields["form"]))
    most = max(1, room) if fields["max_tokens"] is None else fields["max_tokens"]
    prompt = Prompt(
        ids, most, len(fields["rows"]), tuple(fields["stops"]),
        Sampling(**fields["sampling"]), fields["logprobs"], form,
        None if fields.get("screen") is None else tuple(fields["screen"]), bool(fields.get("echo")),
    )  # fmt: skip
    return Job(fields["id"], prompt, tuple(fields["rows"]), tuple(fields["written"]), fields.get("kept_as", ""))


def _fields(engine: Engine, event: Written) -> list[Any]:
    piece = event.piece
    fields: list[Any] = [event.number, piece.row, piece.token, piece.text, piece.end]
    if piece.logprob is not None or piece.prompt:
        shown = engine.session.folder.shown
        name = shown(piece.token) if piece.token >= 0 else ""
        fields += [piece.logprob, name, [[shown(token), value] for token, value in piece.likeliest]]
    if piece.prompt:
        fields.append(True)
    return fields


def begin(program: str, argv: Sequence[str], serve: Callable[[Channel, VitalsPage], None]) -> None:
    """Become the process of a lane and serve until its end."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--channel", type=int, required=True)
    parser.add_argument("--vitals", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--affinity")
    parser.add_argument("--memory-limit", type=int)
    given = parser.parse_args(argv)
    prepare(given.parent, given.affinity, given.memory_limit)
    with contextlib.suppress(ImportError):  # said when a model is to be loaded
        importlib.import_module("onnxruntime")
    page = VitalsPage(segments.attach(given.vitals, PAGE_BYTES))
    serve(Channel(socket.socket(fileno=given.channel)), page)
    # Native runtimes may hang or crash in their destructors; there is nothing left to save.
    os._exit(0)


def main(argv: Sequence[str]) -> None:
    """See module."""
    begin("agent.service.decoding.decoder_process", argv, lambda channel, page: DecoderProcess(channel, page).serve())


if __name__ == "__main__":
    main(sys.argv[1:])
