"""Doctor's look at the installed service: what its own user may open, which root running the doctor may anyway."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from agent.errors import ConfigError
from agent.schema.settings import Settings
from agent.service.check_result import CheckResult, fail, ok, warn
from agent.service.doctor.doctor_machine import group_of, nodes
from agent.service.doctor.doctor_settings import MOST_FILES
from agent.service.doctor.service_unit import Account, ServiceUnit, installed
from agent.storage import share

PRIVILEGED_PORTS = 1024
DROP_INS = {"nvidia": "nvidia-cuda", "nvhost": "jetson", "apex": "coral-hailo", "hailo": "coral-hailo"}
"""How a device node's name begins → the shipped drop-in that opens it; `npu` for all others."""
EXAMPLES = "/usr/share/doc/qeil-agent/examples/drop-ins"
CREDENTIALS = Path("/run/credentials")
"""Systemd shows these to the service only."""


def service(settings: Settings, config: Path | None, root: Path) -> list[CheckResult]:
    """What the service will not be able to do; one good line where it can do everything, none where it is not installed
    or uses other settings."""
    unit = _unit(config, root)
    if unit is None or config is None:
        return []
    account = unit.account()
    if account is None:
        user = unit.one("User")
        return [fail("service", f"its user {user} does not exist: it cannot start", "sudo systemd-sysusers")]
    wrong = [
        *_hidden(settings, config, unit, account),
        *_state(settings.state_dir, unit, account),
        *_port(settings, unit, account),
        *_nodes(unit, account, root),
    ]
    return wrong or [ok("service", f"{unit.file.name} may read and write what the settings name, as {account.name}")]


def serves(config: Path | None, root: Path) -> bool:
    """Whether a service is installed that runs with these settings."""
    return _unit(config, root) is not None


def _unit(config: Path | None, root: Path) -> ServiceUnit | None:
    unit = installed(root)
    if unit is None or config is None or unit.config is None:
        return None
    return unit if config.absolute() == root / str(unit.config)[1:] else None


def _hidden(settings: Settings, config: Path, unit: ServiceUnit, account: Account) -> Iterator[CheckResult]:
    for what, path in _files(settings, config):
        hider = unit.hides(path)
        if hider:
            mend = f"sudo mv {path} {settings.state_dir}/, and name it there in the settings"
            yield fail("service", f"{what} {path} is hidden from the service ({hider})", mend)
        elif not account.may(path, os.R_OK):  # true for a file that is not there, which another check says
            mend = (
                f"sudo chgrp -R {account.name} {_closed(path, account)} && sudo chmod -R g+rX {_closed(path, account)}"
            )
            yield fail("service", f"{what} {path} cannot be read by its user {account.name}", mend)


def _closed(path: Path, account: Account) -> Path:
    """The first folder on the way that stops the user, or the file itself."""
    for parent in reversed(path.absolute().parents):
        if not account.may(parent, os.X_OK):
            return parent
    return path


def _files(settings: Settings, config: Path) -> Iterator[tuple[str, Path]]:
    yield "the settings file", config
    for model in settings.models:
        yield f"model {model.name}:", model.path
        for variant in model.variants:
            yield f"model {model.name} {variant.name}:", variant.path
    with contextlib.suppress(ConfigError):  # said by the check of the policy
        yield "the policy", share.find_policy(settings.policy)
    tls = settings.mqtt.tls if settings.mqtt is not None else None
    named = [
        ("the collector's headers", settings.otlp.headers_file if settings.otlp is not None else None),
        ("the api key", settings.http.api_key_file), ("the certificate", settings.http.tls_certificate),
        ("the key", settings.http.tls_key),
        ("the broker password", settings.mqtt.password_file if settings.mqtt is not None else None),
        ("the broker's CA", tls.ca if tls is not None else None),
        ("the broker certificate", tls.certificate if tls is not None else None),
        ("the broker key", tls.key if tls is not None else None),
    ]  # fmt: skip
    yield from ((what, path) for what, path in named if path is not None and CREDENTIALS not in path.parents)


def _state(folder: Path, unit: ServiceUnit, account: Account) -> Iterator[CheckResult]:
    if not unit.may_write_below(folder):
        mend = f"sudo systemctl edit {unit.file.name}: [Service] ReadWritePaths={folder}"
        yield fail("service", f"the state folder {folder} is read-only for the service (ProtectSystem=strict)", mend)
    elif os.access(folder, os.R_OK | os.X_OK):
        inside = (folder, *sorted(islice(folder.rglob("*"), MOST_FILES)))
        closed = [path for path in inside if not account.may(path, os.R_OK | os.W_OK)]
        if closed:
            mend = f"sudo chown -R {account.name}: {folder}"
            yield fail("service", f"{closed[0]} cannot be written by its user {account.name}", mend)


def _port(settings: Settings, unit: ServiceUnit, account: Account) -> Iterator[CheckResult]:
    http = settings.http
    allowed = any("CAP_NET_BIND_SERVICE" in value for value in unit.values.get("AmbientCapabilities", ()))
    if http.unix_socket is None and 0 < http.port < PRIVILEGED_PORTS and account.uid != 0 and not allowed:
        mend = f"set http.port to {PRIVILEGED_PORTS} or more in the settings"
        yield fail("service", f"port {http.port} is root's: the user {account.name} cannot listen on it", mend)


def _nodes(unit: ServiceUnit, account: Account, root: Path) -> Iterator[CheckResult]:
    found = nodes(root)
    if not found:
        return
    names = ", ".join(node.name for node in found)
    if unit.is_on("PrivateDevices"):
        drop_in = next((d for begin, d in DROP_INS.items() if found[0].name.startswith(begin)), "npu")
        mend = (
            f"sudo install -Dm644 -t /etc/systemd/system/{unit.file.name}.d {EXAMPLES}/{drop_in}.conf && "
            "sudo systemctl daemon-reload && sudo systemctl restart qeil"
        )
        yield warn("service", f"the service does not see {names} (PrivateDevices=yes)", mend)
        return
    closed = [node for node in found if not account.may(node, os.R_OK | os.W_OK)]
    if closed:
        groups = ",".join(sorted({group_of(node) for node in closed}))
        mend = f"sudo usermod -aG {groups} {account.name} && sudo systemctl restart qeil"
        shown = ", ".join(node.name for node in closed)
        yield warn("service", f"its user {account.name} may not open {shown}", mend)
