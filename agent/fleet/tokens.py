"""Tokens: who may use the API, as what and until when. The file has digests only."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import get_args

from agent.errors import ConfigError
from agent.records import record
from agent.schema.fleet import Role

ROLES: tuple[Role, ...] = get_args(Role)
"""Each may what those before it may."""


@record(frozen=True)
class Token:
    """One line of the file. `expires_s`: seconds since 1970, 0: never."""

    name: str
    role: Role
    expires_s: float
    digest: str

    def may(self, role: Role) -> bool:
        """Whether it is good for what that role may."""
        return ROLES.index(self.role) >= ROLES.index(role)

    def line(self) -> str:
        """As the file has it."""
        return f"{self.name} {self.role} {self.expires_s:.0f} {self.digest}"


def make(name: str, role: Role, expires_s: float) -> tuple[str, Token]:
    """A new secret and its line. ValueError for a name with blanks."""
    if not name or any(c.isspace() or c == "#" for c in name) or len(name) > 120:
        raise ValueError("a token's name is one word of at most 120 characters")
    secret = f"qeil_{secrets.token_urlsafe(32)}"
    return secret, Token(name, role, expires_s, _digest(secret))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


class Tokens:
    """Reads the file again whenever it changes, so that a token can be withdrawn without a restart."""

    def __init__(self, path: Path) -> None:
        """ConfigError says what is wrong with the file."""
        self._path = path
        self._stamp: tuple[int, int] | None = None
        self._by_digest: dict[str, Token] = {}
        self._refresh()

    def who(self, secret: str, now_s: float) -> Token | None:
        """The token of that secret, None where there is none or it has expired."""
        self._refresh()
        found = self._by_digest.get(_digest(secret))
        return found if found is not None and (found.expires_s == 0 or now_s < found.expires_s) else None

    def _refresh(self) -> None:
        try:
            stat = self._path.stat()
            stamp = (stat.st_mtime_ns, stat.st_size)
            if stamp == self._stamp:
                return
            if stat.st_mode & 0o077:
                raise ConfigError(f"{self._path}: others can read it; chmod 600")
            lines = self._path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path}: {error}; make a token with: qeil fleet token NAME") from error
        found = [_parsed(self._path, n, line) for n, line in enumerate(lines, 1) if line.strip() and line[0] != "#"]
        self._by_digest = {token.digest: token for token in found}
        self._stamp = stamp


def _parsed(path: Path, number: int, line: str) -> Token:
    parts = line.split()
    if len(parts) == 4 and parts[1] in ROLES and parts[2].isdigit() and len(parts[3]) == 64:
        role: Role = ROLES[ROLES.index(parts[1])]
        return Token(parts[0], role, float(parts[2]), parts[3])
    raise ConfigError(f"{path}:{number}: expected NAME ROLE EXPIRES DIGEST, as qeil fleet token writes it")
