"""Reading files that nobody vouches for: in a child process with bounded memory, whose last line says what is wrong."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from agent import extras
from agent.child import child_command
from agent.errors import ModelLoadFailed

MEMORY_LIMIT_BYTES: Final = 8 * 1024**3
"""Address space of the child: a protobuf file of 2 GB is parsed in about twice its size."""
MAX_MESSAGE: Final = 300
"""Characters of the child's last line that are passed on."""


def limit_memory(wanted_bytes: int = MEMORY_LIMIT_BYTES) -> int:
    """Bound this process's address space; the bound in bytes."""
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    limit = wanted_bytes if most == resource.RLIM_INFINITY else min(wanted_bytes, most)
    resource.setrlimit(resource.RLIMIT_AS, (limit, most))
    return limit


def ask(module: str, arguments: Sequence[str], path: Path, timeout_s: float) -> str:
    """What `python -m MODULE ARGUMENTS` printed about a file. ModelLoadFailed with one line where it failed."""
    command = child_command(module, *arguments)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelLoadFailed(f"{path}: reading the file took longer than {timeout_s:g} s") from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"its reader ended with code {done.returncode}"]
        raise ModelLoadFailed(f"{path}: {lines[-1][:MAX_MESSAGE]}")
    return done.stdout


def answer(read: Callable[[], object]) -> int:
    """In the child: what `read` returns as JSON, else one line on standard error and code 1."""
    limit = limit_memory()
    try:
        document = read()
    except ModelLoadFailed as error:
        return fail(error.message)
    except ImportError as error:
        return fail(f"{error.name} is not installed: {extras.command('onnx')}")
    except MemoryError:
        return fail(f"reading the file needs more than {limit >> 20} MiB")
    except (OSError, RecursionError) as error:
        return fail(f"cannot be read: {error}")
    json.dump(document, sys.stdout)
    return 0


def fail(message: str) -> int:
    """Say what is wrong; the exit code that goes with it."""
    sys.stderr.write(f"{message}\n")
    return 1
