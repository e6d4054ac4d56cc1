"""Desired apply: puts a desired state into force – checked as a whole, then planned, loaded and swapped as one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any

from agent.errors import ConfigError, NotFound, QeilError
from agent.records import record
from agent.schema.desired import Desired
from agent.schema.policy import Policy
from agent.service import logs
from agent.service.remote.command_actions import Actions, Agent
from agent.service.remote.commands import CommandFailed, Run
from agent.storage import share, yaml_files

KeyResults = Mapping[str, Mapping[str, Any]]


@record(frozen=True)
class Applied:
    """Outcome: `error` None and everything in force, or the sentence why nothing is. Results by key path."""

    error: str | None
    keys: KeyResults = field(default_factory=dict)


class DesiredApplier:
    """Applies one at a time, whoever asks. A desired state that cannot be had leaves everything as it was."""

    def __init__(self, agent: Agent, actions: Actions) -> None:
        self._agent = agent
        self._actions = actions
        self.window_s: float | None = None
        """Telemetry window over the policy's, while one is desired."""
        self._lock = threading.Lock()
        self._last: Desired | None = None

    def apply(self, desired: Desired | None, run: Run) -> Applied:
        """Bring it into force; None is the board's own files and bundle alone."""
        run.wait(lambda: self._lock.acquire(blocking=False), "another change comes into force")
        try:
            outcome = self._apply(desired, run)
            if outcome.error is None:
                self._last = desired
            return outcome
        finally:
            self._lock.release()

    def again(self, run: Run, change: Callable[[], None]) -> Applied:
        """Make a change below the desired state – another bundle – and bring what is desired into force upon it."""
        run.wait(lambda: self._lock.acquire(blocking=False), "another change comes into force")
        try:
            change()
            return self._apply(self._last, run)
        finally:
            self._lock.release()

    def _apply(self, desired: Desired | None, run: Run) -> Applied:
        policy, problems = self._policy(desired)
        before = None
        try:
            before = self._agent.models.select(None if desired is None else desired.models)
        except NotFound as error:
            problems["models"] = error.message
        if policy is None or before is None or problems:
            if before is not None:
                self._agent.models.restore(before)
            return Applied("; ".join(f"{key}: {why}" for key, why in problems.items()), _rejected(problems))
        ver = "withdrawn" if desired is None else f"version {desired.ver}"
        try:
            self._actions.bring_up(run, lambda: self._agent.models.propose(policy, f"desired state {ver}"))
        except QeilError as error:
            self._agent.models.restore(before)
            code = error.reason if isinstance(error, CommandFailed) else error.code
            return Applied(error.message, {"policy": {"status": "rejected", "code": code, "message": error.message}})
        except BaseException:
            self._agent.models.restore(before)
            raise
        self._settle(desired)
        with contextlib.suppress(CommandFailed):  # in force already: the results say which model is not there yet
            run.wait(lambda: not self._loading(), "loading models")
        return Applied(None, self._results(desired, policy))

    def _policy(self, desired: Desired | None) -> tuple[Policy | None, dict[str, str]]:
        if desired is not None and desired.inline_policy is not None:
            return desired.inline_policy, {}
        try:
            named = desired is not None and desired.policy is not None
            if not named and self._agent.layer.policy is not None:
                return self._agent.layer.policy, {}
            path = share.find_policy(str(desired.policy)) if named and desired else self._agent.policy_path
            return yaml_files.load_policy(path), {}
        except ConfigError as error:
            return None, {"policy": error.message}

    def _settle(self, desired: Desired | None) -> None:
        self.window_s = None if desired is None else desired.window_s
        wanted = None if desired is None else desired.log_level
        logs.set_level(wanted or self._agent.settings.log_level)

    def _loading(self) -> bool:
        return any(m.state == "loading" for m in self._agent.snapshot().models)

    def _results(self, desired: Desired | None, policy: Policy) -> dict[str, dict[str, Any]]:
        """One entry per key that was wanted; a model that cannot be served is said to be so."""
        if desired is None:
            return {}
        applied = {"status": "applied"}
        found: dict[str, dict[str, Any]] = {}
        if desired.policy is not None or desired.inline_policy is not None:
            key = "policy" if desired.policy is not None else "inline_policy"
            found[key] = {**applied, "digest": yaml_files.digest(policy)}
        states = {m.name: m for m in self._agent.snapshot().models}
        for i, name in enumerate(desired.models or ()):
            model = states.get(name)
            ready = model is not None and model.state == "ready"
            why = (model.reason if model else None) or "no placement is loaded"
            found[f"models.{i}"] = {"model": name, **(applied if ready else {"status": "unavailable", "message": why})}
        for key in ("log_level", "window_s"):
            if getattr(desired, key) is not None:
                found[key] = dict(applied)
        return found


def _rejected(problems: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    return {key: {"status": "rejected", "code": "config", "message": why} for key, why in problems.items()}
