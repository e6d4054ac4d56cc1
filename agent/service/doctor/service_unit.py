"""Service unit: what systemd lets the installed service do – its user, groups, folders and device nodes.

`sudo qeil doctor` may open everything; the service may not. Read from the unit and its drop-ins, so that the doctor can
say what the service will meet without starting it.
"""

from __future__ import annotations

import grp
import os
import pwd
import re
import stat
from collections.abc import Sequence
from pathlib import Path

from agent.records import record
from agent.service.doctor import access_list

UNIT = "qeil.service"
FOLDERS = ("etc/systemd/system", "run/systemd/system", "usr/local/lib/systemd/system", "usr/lib/systemd/system",
           "lib/systemd/system")  # fmt: skip
"""Where systemd looks for units, the first that has one wins; drop-ins count from all of them."""
HOMES = ("/home", "/root", "/run/user")
TEMPORARY = ("/tmp", "/var/tmp")  # noqa: S108  (what PrivateTmp= hides, nothing is written there)
_TRUE = frozenset({"yes", "true", "on", "1"})
_LISTS = frozenset({"DeviceAllow", "SupplementaryGroups", "ReadWritePaths", "AmbientCapabilities", "StateDirectory"})


@record(frozen=True)
class Account:
    """Whose rights count: a user and all of its groups."""

    name: str
    uid: int
    gids: frozenset[int]

    def may(self, path: Path, wanted: int) -> bool:
        """Whether permission bits or access lists grant `wanted` (of os.R_OK, W_OK, X_OK) on the path and a way to it.

        True where that cannot be seen.
        """
        path = path.absolute()
        return all(self._granted(parent, os.X_OK) for parent in path.parents) and self._granted(path, wanted)

    def _granted(self, path: Path, wanted: int) -> bool:
        try:
            facts = path.stat()
        except OSError:
            return True
        if self.uid == 0:
            return True
        if facts.st_uid != self.uid and (entries := access_list.entries(path)):
            return access_list.grants(entries, self.uid, self.gids, facts.st_gid, wanted)
        shift = 6 if facts.st_uid == self.uid else 3 if facts.st_gid in self.gids else 0
        return (stat.S_IMODE(facts.st_mode) >> shift) & wanted == wanted


@record(frozen=True)
class ServiceUnit:
    """The unit with its drop-ins: the last value of each directive, all values of those that are lists."""

    file: Path
    values: dict[str, tuple[str, ...]]

    def one(self, directive: str, default: str = "") -> str:
        """The value in force of a directive that has one."""
        return self.values.get(directive, (default,))[-1]

    def is_on(self, directive: str) -> bool:
        """Whether a directive with yes and no says yes."""
        return self.one(directive).lower() in _TRUE

    @property
    def config(self) -> Path | None:
        """The settings file that the service is started with."""
        found = re.search(r"--config[ =](\S+)", self.one("ExecStart"))
        return Path(found[1]) if found else None

    def hides(self, path: Path) -> str:
        """The directive that hides a path from the service, as it is written; "" where none does."""
        text = f"{path.absolute()}/"
        if self.one("ProtectHome").lower() not in {"", "no", "false", "read-only"} and _below(text, HOMES):
            return f"ProtectHome={self.one('ProtectHome')}"
        return "PrivateTmp=yes" if self.is_on("PrivateTmp") and _below(text, TEMPORARY) else ""

    def may_write_below(self, folder: Path) -> bool:
        """Whether ProtectSystem=strict leaves a folder open for writing."""
        if self.one("ProtectSystem") != "strict":
            return True
        states = [f"/var/lib/{name}" for value in self.values.get("StateDirectory", ()) for name in value.split()]
        more = [p.lstrip("-+") for value in self.values.get("ReadWritePaths", ()) for p in value.split()]
        return _below(f"{folder.absolute()}/", (*states, *more))

    def account(self) -> Account | None:
        """The service's user with its groups and the unit's own; None where there is no such user."""
        try:
            user = pwd.getpwnam(self.one("User", "root"))
        except KeyError:
            return None
        groups = {user.pw_gid, *os.getgrouplist(user.pw_name, user.pw_gid)}
        for value in self.values.get("SupplementaryGroups", ()):
            groups |= {gid for name in value.split() if (gid := _gid(name)) is not None}
        return Account(user.pw_name, user.pw_uid, frozenset(groups))


def installed(root: Path) -> ServiceUnit | None:
    """The unit that is installed here; None where the agent is no service, or its file cannot be read."""
    files = [root / folder / UNIT for folder in FOLDERS]
    file = next((f for f in files if f.is_file()), None)
    if file is None:
        return None
    drop_ins = [p for folder in reversed(FOLDERS) for p in (root / folder / f"{UNIT}.d").glob("*.conf")]
    values: dict[str, tuple[str, ...]] = {}
    try:
        for part in (file, *sorted(drop_ins, key=lambda p: p.name)):
            _add(values, part.read_text(errors="replace"))
    except OSError:
        return None
    return ServiceUnit(file, values)


def _add(values: dict[str, tuple[str, ...]], text: str) -> None:
    for line in text.splitlines():
        key, equals, value = (part.strip() for part in line.partition("="))
        if not equals or key.startswith(("#", ";")):
            continue
        earlier = values.get(key, ()) if key in _LISTS and value else ()
        values[key] = (*earlier, value)


def _below(text: str, folders: Sequence[str]) -> bool:
    return text.startswith(tuple(f"{folder.rstrip('/')}/" for folder in folders))


def _gid(name: str) -> int | None:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
