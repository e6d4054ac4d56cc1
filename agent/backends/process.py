"""One child process of a lane: started, watched through its stderr, ended, and described when it dies."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path
from typing import Final

from agent.backends.head_start import Spare, environment, with_huge_pages
from agent.backends.messages import one_line, shorten
from agent.child import child_command
from agent.errors import LaneDied
from agent.ports import LaneSpec

STDERR_TAIL_BYTES: Final = 8192
WORKER: Final = "agent.backends.waiting"


def arguments(spec: LaneSpec) -> list[str]:
    """Arguments of a lane's main program but its descriptors, as of `agent.backends.waiting`."""
    command = ["--parent", str(os.getpid()), "--name", spec.accelerator]
    if spec.simulated:
        command.append("--simulated")
    if spec.cpu_affinity is not None:
        command += ["--affinity", ",".join(str(core) for core in spec.cpu_affinity)]
    if spec.memory_limit_bytes is not None:
        command += ["--memory-limit", str(spec.memory_limit_bytes)]
    if spec.nice:
        command += ["--nice", str(spec.nice)]
    return command


class Child:
    """See module."""

    def __init__(
        self, spec: LaneSpec, channel_fd: int, vitals_fd: int, program: str = WORKER, spare: Spare | None = None
    ) -> None:
        """Start it, or take the spare process that has begun already. Raises LaneDied when there can be none."""
        fds = (channel_fd, vitals_fd)
        taken = spare.adopt(arguments(spec), fds) if spare is not None else None
        self._popen = taken or _started(spec, fds, program)
        assert self._popen.stdout is not None  # noqa: S101  (stdout=PIPE)
        self._output = self._popen.stdout
        os.set_blocking(self._output.fileno(), False)
        self._tail = b""

    @property
    def pid(self) -> int:
        """Process id."""
        return self._popen.pid

    @property
    def output_fd(self) -> int:
        """What the process prints."""
        return self._output.fileno()

    def read_output(self) -> bool:
        """Take what was printed, keeping the tail; False at the end."""
        while True:
            try:
                data = os.read(self._output.fileno(), STDERR_TAIL_BYTES)
            except BlockingIOError:
                return True
            if not data:
                return False
            self._tail = (self._tail + data)[-STDERR_TAIL_BYTES:]

    def last_line(self) -> str:
        """The last line printed that is not merely informative, or nothing."""
        lines = map(one_line, self._tail.decode(errors="replace").splitlines())
        spoken = [line for line in lines if line and not line.startswith("INFO:")]
        return spoken[-1] if spoken else ""

    def scheduling(self) -> tuple[float | None, bool]:
        """(seconds its main thread waited for a core, whether the kernel holds it), from /proc."""
        return scheduling(Path(f"/proc/{self._popen.pid}"))

    def kill(self) -> None:
        """SIGKILL; nothing if it is gone."""
        self._popen.kill()

    def gone(self) -> bool:
        """Whether it ended (and was reaped)."""
        return self._popen.poll() is not None

    def wait(self, timeout_s: float) -> bool:
        """Wait for its end; False when it is still there."""
        try:
            self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def close(self) -> None:
        """Close the pipe."""
        self._output.close()

    def epitaph(self) -> str:
        """How it ended: signal or exit code, and its last word."""
        return describe(self._popen.returncode, self.last_line())


def scheduling(folder: Path) -> tuple[float | None, bool]:
    """As of Child, from a process's folder in /proc. Kernels without scheduler statistics tell only the second.

    A starved process looks like a hung one from its clock alone; the scheduler knows the difference.
    """
    try:
        state = (folder / "stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()[0]
    except (OSError, IndexError):
        return None, False
    held = state in {"T", "t"}
    try:
        waited_ns = (folder / "schedstat").read_text(encoding="ascii").split()[1]
    except (OSError, IndexError):
        return None, held
    return int(waited_ns) / 1e9, held


def _started(spec: LaneSpec, fds: tuple[int, int], program: str) -> subprocess.Popen[bytes]:
    variables = environment(dict(os.environ), spec.threads)
    if program != WORKER:
        variables = with_huge_pages(variables)
    descriptors = ["--channel", str(fds[0]), "--vitals", str(fds[1])]
    try:
        return subprocess.Popen(
            child_command(program, *descriptors, *arguments(spec)), stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=fds,
            env=variables, start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        raise LaneDied(f"{spec.accelerator}: its process cannot be started: {error.strerror}") from error


def describe(returncode: int | None, last_line: str) -> str:
    """One sentence of a process's end; its last line is made fit to be shown anywhere."""
    last_line = shorten(last_line)
    if returncode is None:
        end = "its process does not end"
    elif returncode < 0:
        end = f"its process was ended by {_signal_name(-returncode)}"
    else:
        end = f"its process exited with code {returncode}"
    return f"{end}; last words: {last_line}" if last_line else end


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
