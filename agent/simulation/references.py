"""References: what a scenario names – boards, policy, models, accelerators – found, or said to be missing by line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import field, replace
from pathlib import Path

from agent.errors import ConfigError
from agent.evaluation.profile_efficiencies import as_planned
from agent.records import record
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.scenario import SINGLE, Scenario
from agent.schema.simulated_board import SimulatedBoard
from agent.simulation.cases import Case, make_case
from agent.storage import share, yaml_files
from agent.storage.problem import Problem, config_error, problems_of
from agent.storage.schema_problems import closest
from agent.storage.yaml_text import Document, KeyPath, key_text


@record(frozen=True)
class Resolved:
    """A scenario with everything that it names."""

    scenario: Scenario
    profiles: tuple[DeviceProfile, ...]
    policy: Policy
    cases: tuple[Case, ...]
    beside: tuple[DeviceProfile, ...] = ()
    heated: dict[str, SimulatedBoard] = field(default_factory=dict)
    """Simulated boards by the names of the profiles whose heat they describe."""

    def changed(self, **keys: int) -> Resolved:
        """The same with other values of `seed` or `search_evaluations`."""
        return replace(self, scenario=self.scenario.model_copy(update=keys))


def load(path: Path) -> Resolved:
    """Read a scenario and all that it names. Raises ConfigError with every problem found.

    Paths in the file are relative to its folder. Efficiencies that a profile does not state come from the fit over
    published measurements, as in a plan. An accelerator must exist on one of the boards, not on all.
    """
    document = yaml_files.read_document(path)
    scenario = yaml_files.validate(document, Scenario, str(path))
    finder = _Finder(path, document)
    profiles = finder.profiles(scenario.profiles, ("profiles",))
    beside = finder.profiles(scenario.beside.profiles, ("beside", "profiles")) if scenario.beside else ()
    heated = finder.heated(scenario, (*profiles, *beside))
    policy = finder.policy(scenario.policy)
    cases = tuple(case for i in range(len(scenario.workloads)) if (case := finder.case(scenario, i)))
    if len(profiles) + len(beside) == len(scenario.every_profile):
        finder.accelerators(scenario.placements, (*profiles, *beside))
    if finder.problems or policy is None:
        raise config_error(finder.problems)
    return Resolved(scenario, profiles, policy, cases, beside, heated)


def problems(path: Path) -> tuple[Problem, ...]:
    """Everything wrong with a scenario file and what it names."""
    try:
        load(path)
    except ConfigError as error:
        return problems_of(error)
    return ()


class _Finder:
    """Collects problems instead of stopping at the first."""

    def __init__(self, path: Path, document: Document) -> None:
        self._path = path
        self._document = document
        self.problems: list[Problem] = []

    def profiles(self, names: Sequence[str], key: KeyPath) -> tuple[DeviceProfile, ...]:
        found = (self.profile(name, (*key, i)) for i, name in enumerate(names))
        return tuple(profile for profile in found if profile is not None)

    def heated(self, scenario: Scenario, profiles: Sequence[DeviceProfile]) -> dict[str, SimulatedBoard]:
        if scenario.operation is None or len(profiles) < len(scenario.every_profile):
            return {}
        found = {}
        names = dict(zip(scenario.every_profile, (p.name for p in profiles), strict=True))
        for index, heated in enumerate(scenario.operation.endurance.boards):
            board = self._simulated_board(heated.board, ("operation", "endurance", "boards", index, "board"))
            if board is not None:
                found[names[heated.profile]] = board
        return found

    def _simulated_board(self, name: str, key: KeyPath) -> SimulatedBoard | None:
        try:
            return yaml_files.load_simulated_board(share.find_simulated_board(self._placed(name)))
        except ConfigError as error:
            self._note(key, error)
        return None

    def profile(self, name: str, key: KeyPath) -> DeviceProfile | None:
        try:
            return as_planned(yaml_files.load_profile(share.find_profile(self._placed(name))))
        except ConfigError as error:
            self._note(key, error)
        return None

    def policy(self, name: str) -> Policy | None:
        try:
            return yaml_files.load_policy(share.find_policy(self._placed(name)))
        except ConfigError as error:
            self._note(("policy",), error)
        return None

    def case(self, scenario: Scenario, index: int) -> Case | None:
        try:
            return make_case(scenario.workloads[index])
        except ConfigError as error:
            self._note(("workloads", index, "model"), error)
        return None

    def accelerators(self, placements: Sequence[str], profiles: Sequence[DeviceProfile]) -> None:
        known = list(dict.fromkeys(a.name for profile in profiles for a in profile.accelerators))
        for index, placement in enumerate(placements):
            name = placement.removeprefix(SINGLE)
            if name == placement or name in known:
                continue
            near = closest(name, known)
            boards = "the board has" if len(profiles) == 1 else "the boards have"
            message = f"there is no accelerator {name!r}; {boards} {', '.join(known)}"
            self._add(("placements", index), message, f"{SINGLE}{near}" if near else None)

    def _placed(self, name: str) -> str:
        if not yaml_files.names_a_file(name):
            return name
        return str(self._path.absolute().parent / yaml_files.expanded(Path(name)))

    def _note(self, key: KeyPath, error: ConfigError) -> None:
        """A problem inside a named file keeps its own place."""
        if "problems" in error.context:
            self.problems += problems_of(error)
        else:
            self._add(key, error.message)

    def _add(self, key: KeyPath, message: str, suggestion: str | None = None) -> None:
        line = self._document.line(key)
        self.problems.append(Problem(str(self._path), line, key_text(key), message, suggestion))
