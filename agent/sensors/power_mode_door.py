"""Power mode door: one call of nvpmodel through the socket of the root service that may make it.

    python -I power_mode_door.py SOCKET (-q | -m NUMBER)

Run by itself, so that the supervisor waits for it as for nvpmodel: it writes what nvpmodel wrote and ends as it ended.
The other end is `systemd/qeil-power-mode`. Imports nothing of the agent.
"""

from __future__ import annotations

import socket
import sys

LIMIT_S = 9.0
"""A little less than the supervisor waits, so that the reason is told by the one that knows it."""
MAX_BYTES = 4096
NO_ANSWER = 70


def ask(path: str, words: str) -> tuple[str, int]:
    """Send one line, read to the end; what was written, and the exit code that its last line tells."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as door:
        door.settimeout(LIMIT_S)
        try:
            door.connect(path)
            door.sendall(f"{words}\n".encode())
            door.shutdown(socket.SHUT_WR)
            read = b""
            while len(read) < MAX_BYTES and (part := door.recv(MAX_BYTES)):
                read += part
        except OSError as error:
            return f"{path}: {error.strerror or error}\n", NO_ANSWER
    text, _, last = read.decode("utf-8", "replace").rstrip("\n").rpartition("\n")
    if last.startswith("exit ") and last[5:].isdigit():
        return f"{text}\n", int(last[5:])
    return f"{path}: ended without an answer\n", NO_ANSWER


def main() -> int:
    """Ask, write, end as nvpmodel did."""
    text, code = ask(sys.argv[1], " ".join(sys.argv[2:]))
    sys.stdout.write(text)
    return min(code, 255)


if __name__ == "__main__":
    sys.exit(main())
