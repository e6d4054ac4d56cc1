"""Bundle download: an archive from a URL or a file, resumed where it stopped. It is not trusted: its digest is checked
by whoever asked for it."""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from agent.storage.bundle_archive import BundleRefused

TIMEOUT_S = 20.0
_BLOCK = 256 * 1024
_PARTIAL_CONTENT = 206


def download(url: str, part: Path, size_bytes: int, progress: Callable[[float], None]) -> None:
    """Complete `part`, going on from what is there. `progress(share)` may raise to stop.

    BundleRefused (unreachable, invalid, wrong_size, storage): what arrived stays for the next attempt, unless it is too
    much.
    """
    try:
        have = part.stat().st_size if part.exists() else 0
        if have >= size_bytes:
            return
        # The scheme was checked by the offer's schema: http, https or file.
        request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})  # noqa: S310
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as source:  # noqa: S310
            if have and getattr(source, "status", None) != _PARTIAL_CONTENT:
                have = 0
            _copy(source, part, have, size_bytes, progress)
    except (urllib.error.URLError, http.client.HTTPException, TimeoutError) as error:
        reason = getattr(error, "reason", None) or error
        raise BundleRefused("unreachable", f"{_shown(url)}: {reason}") from error
    except ValueError as error:
        raise BundleRefused("invalid", f"{_shown(url)} is no address: {error}") from error
    except OSError as error:
        raise BundleRefused("storage", f"{error.filename or part}: {error.strerror or error}") from error


def _copy(
    source: http.client.HTTPResponse, part: Path, have: int, size_bytes: int, progress: Callable[[float], None]
) -> None:
    with part.open("r+b" if have else "wb") as stream:
        stream.seek(have)
        while block := source.read1(_BLOCK):  # what came so far: a slow server must not hide that it is to stop
            have += len(block)
            if have > size_bytes:
                stream.truncate(0)
                raise BundleRefused("wrong_size", f"more than the {size_bytes} bytes that the offer says")
            stream.write(block)
            progress(have / size_bytes)
        stream.flush()
        os.fsync(stream.fileno())
    if have < size_bytes:
        raise BundleRefused("unreachable", f"the connection ended after {have} of {size_bytes} bytes")


def _shown(url: str) -> str:
    """Without what may be a secret: user, password, query."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.split('?')[0].rpartition('@')[2]}"
