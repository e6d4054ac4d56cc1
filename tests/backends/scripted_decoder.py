"""A decoder's process that does as each job says: `python -m tests.backends.scripted_decoder`, as a lane starts it."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time

from agent.backends import segments
from agent.backends.messages import Channel, Closed, parse
from agent.backends.vitals import PAGE_BYTES, VitalsPage

USAGE = {
    "prompt_tokens": 3, "cached_tokens": 1, "prefilled_tokens": 2, "tokens": 2, "steps": 2.0, "prefill_s": 0.01,
    "decode_s": 0.02,
}  # fmt: skip


def load(channel: Channel, order: dict) -> None:
    if order["folder"] == "damaged":
        channel.send({"k": "loaded", "error": "model_load_failed", "text": "damaged: no weights"})
    elif order["folder"] != "slow":
        channel.send({"k": "loaded", "providers": ["P"], "load_s": 0.5, "memory_bytes": order["rows"]})


def write(channel: Channel, job: dict) -> None:
    number, what = job["id"], job["what"]
    if what == "crash":
        os.write(2, b"scripted: the page table is full\n")
        os.kill(os.getpid(), signal.SIGSEGV)
    elif what == "nonsense":
        channel.send({"k": "pieces", "p": [[number]]})
    elif what == "noise":
        channel.send_packet(b"\xff no message")
    elif what == "refuse":
        channel.send({"k": "failed", "id": number, "error": "bad_input", "text": "too long"})
    elif what in {"stream", "length"}:
        text = str(len(job["text"])) if what == "length" else "a"
        channel.send({"k": "pieces", "p": [[number, 0, 7, text, None], [number, 0, 8, "b", "stop"]]})
        channel.send({"k": "done", "id": number, "usage": USAGE})


def main() -> None:
    given = dict(zip(sys.argv[1::2], sys.argv[2::2], strict=False))
    channel = Channel(socket.socket(fileno=int(given["--channel"])))
    page = VitalsPage(segments.attach(int(given["--vitals"]), PAGE_BYTES))
    page.beat(time.monotonic_ns(), 1)
    while True:
        try:
            packet, fd = channel.receive()
        except Closed:
            return
        header = parse(packet)
        if header["k"] == "load":
            load(channel, header)
        elif header["k"] == "write":
            text = header["job"] if fd is None else bytes(segments.attach(fd, header["bytes"]))
            write(channel, json.loads(text))
        elif header["k"] == "cancel":
            channel.send({"k": "pieces", "p": [[header["id"], 0, 9, "unheard", None]]})
            channel.send({"k": "done", "id": header["id"], "usage": USAGE})
        elif header["k"] == "peer" and fd is not None:
            os.write(fd, b"met")
        elif header["k"] == "stop":
            return


if __name__ == "__main__":
    main()
