"""Head start: child processes that begin while the agent still imports itself, so that a second core has work.

Imports little on purpose: what stands here delays the processes that it starts.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from agent.child import child_command

_THREAD_VARIABLES: Final = ("OMP_", "KMP_", "GOMP_", "ORT_", "OPENBLAS_", "MKL_", "TF_", "PYTHON", "LD_PRELOAD")
"""Prefixes of variables that change a runtime's threads, logging or imports behind the profile's back."""
_TUNABLES: Final = "GLIBC_TUNABLES"
_HUGE_PAGES: Final = "glibc.malloc.hugetlb"
END_S: Final = 5.0
"""How long the end of a killed process is awaited."""


def environment(inherited: dict[str, str], threads: int) -> dict[str, str]:
    """The child's environment: everything a vendor's driver may need, nothing that overrides the profile."""
    kept = {key: value for key, value in inherited.items() if not key.startswith(_THREAD_VARIABLES)}
    kept["OMP_NUM_THREADS"] = str(threads)
    kept["OPENBLAS_NUM_THREADS"] = "1"
    kept["TF_CPP_MIN_LOG_LEVEL"] = "1"
    kept["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])
    kept["PYTHONSAFEPATH"] = "1"
    return kept


def with_huge_pages(variables: dict[str, str]) -> dict[str, str]:
    """The same environment for a process that reads all its weights at every step: malloc asks for pages of 2 MB.

    With 4 kB pages a token took up to 15 % longer, by where the weights came to lie. What an owner set stays.
    """
    set_already = variables.get(_TUNABLES, "")
    if _HUGE_PAGES in set_already:
        return variables
    return {**variables, _TUNABLES: ":".join(filter(None, (set_already, f"{_HUGE_PAGES}=1")))}


def start_probe(timeout_s: float) -> subprocess.Popen[bytes]:
    """A process that looks at this machine's runtimes (`probe.read_inventory` takes its answer). Raises OSError."""
    return subprocess.Popen(
        child_command("agent.backends.probe", "--everything", str(timeout_s)), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(dict(os.environ), 1),
    )  # fmt: skip


class Spare:
    """A lane's process without a lane: it imports its runtime and waits to be told whose it is.

    Made on the thread that lives longest, the main one: the kernel ties the child's life to it.
    """

    def __init__(self, threads: int) -> None:
        """`threads`: of the lane that may take it. Raises OSError."""
        self.threads = threads
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            try:
                self.popen = subprocess.Popen(
                    child_command("agent.backends.standby", str(theirs.fileno()), str(os.getpid())),
                    stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                    pass_fds=(theirs.fileno(),), env=environment(dict(os.environ), threads), start_new_session=True,
                )  # fmt: skip
            except OSError:
                ours.close()
                raise
        self._channel = ours

    def adopt(self, arguments: Sequence[str], fds: Sequence[int]) -> subprocess.Popen[bytes] | None:
        """The process, from now on that of the worker with these arguments; None where it has ended.

        `fds` are the worker's descriptors, whose numbers the process puts in the place of --channel and --vitals.
        """
        try:
            with self._channel as channel:
                socket.send_fds(channel, [json.dumps(list(arguments)).encode()], list(fds))
        except OSError:
            self.end()
            return None
        return self.popen

    def end(self) -> None:
        """Nobody needs it."""
        self._channel.close()
        self.popen.kill()
        if self.popen.stdout is not None:
            self.popen.stdout.close()
        self.popen.wait(END_S)
