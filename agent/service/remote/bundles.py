"""Bundles: takes an offer, fetches, checks and tries it against the board's own past, keeps it or reverts by itself.

Every phase is on disk before it begins. A start that finds a trial counts it and goes on with it, and reverts after too
many; nothing here needs a connection once the archive is there.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any

import structlog
from pydantic import ValidationError

from agent.errors import QeilError, StorageError
from agent.mqtt.inbound import Inbound
from agent.records import record
from agent.schema.bundle import Offer
from agent.schema.device import DeviceProfile
from agent.schema.settings import BundleSettings
from agent.service.remote import bundle_offer
from agent.service.remote.bundle_deferral import Deferral
from agent.service.remote.bundle_fetch import Fetch
from agent.service.remote.bundle_layer import BundleLayer
from agent.service.remote.bundle_offer import LATER, Content, Judged
from agent.service.remote.bundle_trial import BundleTrial, Health
from agent.service.remote.command_actions import Agent
from agent.service.remote.command_intake import Refusal
from agent.service.remote.commands import CommandFailed, Interrupted, Run
from agent.service.remote.desired_apply import Applied
from agent.service.remote.follower import Follower
from agent.service.remote.physics_windows import Observation, PhysicsWindow, observation
from agent.storage import bundle_archive
from agent.storage.bundle_archive import BundleRefused
from agent.storage.bundle_store import BundleStore, Phase, Record

APPLY_LIMIT_S = 600.0
LOOK_S = 1.0
SERVE_S = 120.0
"""Longest wait for a bundle's models to be served."""
_log = structlog.get_logger("bundles")


@record(frozen=True)
class Ties:
    """What bundles need of the rest of the agent. Every call but `again` returns at once.

    judge(payload, record): the verdict on an offer; again(run, change): make a change and bring it into force;
    overruled(): why a bundle's policy would not count; refused, report, event: where it is told; unfit(profile): why
    that cannot be this board's.
    """

    judge: Callable[[bytes, Record], Judged | Refusal | None]
    again: Callable[[Run, Callable[[], None]], Applied]
    taken: Callable[[], frozenset[str]]
    overruled: Callable[[], str | None]
    probe: Callable[[bundle_archive.Unpacked, Run], str | None]
    refused: Callable[[Refusal], None]
    report: Callable[[dict[str, Any]], bool]
    event: Callable[[dict[str, Any]], None]
    unfit: Callable[[DeviceProfile], str | None] = lambda _: None


class Bundles(Follower):
    """The methods of other threads only leave notes for its own."""

    def __init__(self, store: BundleStore, agent: Agent, ties: Ties) -> None:
        """Counts this start, where it falls into a trial. StorageError or ValidationError for a damaged record."""
        super().__init__("bundles")
        self._store = store
        self._agent = agent
        self._ties = ties
        self._clock = agent.clock
        self._layer: BundleLayer = agent.layer
        self._lock = threading.Lock()
        self._latest: bytes | None = None
        self._waiting: bytes | None = None
        self._refused: bytes | None = None
        self._fetch: Fetch | None = None
        self._reported_s = float("-inf")
        self._progress: dict[str, Any] = {}
        self.record = store.read()
        if self.record.phase == "trial":
            self._save(starts=self.record.starts + 1)

    # ------------------------------------------------------------------ any thread

    def on_request(self, inbound: Inbound) -> None:
        """An offer; the newest counts."""
        with self._lock:
            self._latest = inbound.payload
        inbound.acknowledge()  # retained: it comes again with the next connection
        self._wake.set()

    def on_piece(self, sha256: str, number: int, inbound: Inbound) -> None:
        """A piece of an archive."""
        fetch = self._fetch
        if fetch is not None:
            fetch.piece(sha256, number, inbound.payload)
        inbound.acknowledge()

    # ------------------------------------------------------------------ own thread

    def round(self) -> None:
        """Judge the newest offer and do what it asks, to its end; then report."""
        with self._lock:
            payload, self._latest = self._latest, None
        payload = payload if payload is not None else self._waiting
        self._waiting = None  # nor does one that was taken back wait on
        if payload:
            self._take(payload)
        self._tell()

    def _take(self, payload: bytes) -> None:
        judged = self._ties.judge(payload, self.record)
        if isinstance(judged, Refusal):
            if judged.code in LATER:
                self._waiting = payload
            if self._refused != payload:  # retained, it comes with every connection
                self._refused = payload
                self._ties.refused(judged)
        elif judged is not None:
            self._begin(judged)

    def _begin(self, judged: Judged) -> None:
        fresh = {"ver": judged.offer.ver, "digest": judged.digest, "text": judged.text, "phase": "offered"}
        made = self.record.model_copy(update={**fresh, "code": None, "message": None, "starts": 0, "trial": {}})
        try:
            self._store.write(made)
        except StorageError as error:
            self._ties.refused(Refusal("storage", error.message, str(judged.offer.ver), "bundle"))
            return
        self.record = made
        _log.info("bundle offered", name=judged.offer.name, ver=judged.offer.ver)
        self._work(judged.offer)

    def resume(self) -> None:
        """As after a start."""
        self._bring_back()
        record = self.record
        if record.text is None or record.phase not in {"offered", "fetching", "trial"}:
            return
        offer = Offer.model_validate_json(record.text)
        if record.phase != "trial":
            self._work(offer)
        elif record.starts > offer.trial.max_starts:
            self._settle("reverted", "crash_loop", f"the agent was started {record.starts} times within the trial")
        else:
            self._guarded(offer, self._try)

    def _bring_back(self) -> None:
        """The bundle that was kept, into force again; where it is gone the board's own files serve."""
        if self.record.kept is None:
            return
        kept = Offer.model_validate_json(self.record.kept)
        try:
            unpacked = self._store.unpacked(kept.sha256)
            if unpacked is None:
                raise BundleRefused("gone", "its files are not there any more")
            self._switch(self._content(kept, unpacked))
        except (BundleRefused, QeilError) as error:
            self._layer.content = None
            message = f"version {kept.ver} cannot be had any more: {error.message}"
            _log.warning("kept bundle is not in force", cause=message)
            self._ties.event({"ver": kept.ver, "status": "lost", "message": message})

    # ------------------------------------------------------------------ one offer

    def _work(self, offer: Offer) -> None:
        self._guarded(offer, self._install)

    def _guarded(self, offer: Offer, step: Callable[[Offer], None]) -> None:
        """Do it; whatever goes wrong settles the offer, and what served before serves on."""
        try:
            step(offer)
        except Interrupted:
            raise
        except BundleRefused as refused:
            self._settle("refused", refused.code, refused.message)
        except CommandFailed as failed:
            self._settle("refused", failed.reason, failed.message)
        except QeilError as error:
            self._settle("refused", error.code, error.message)
        except Exception as error:  # noqa: BLE001  (root of what a bundle does: its bug is its result)
            _log.exception("bundle failed", ver=offer.ver)
            self._settle("refused", "bug", f"{type(error).__name__}: {error}")

    def _install(self, offer: Offer) -> None:
        """Fetch, check, unpack, look through it, measure the board as it is, then try."""
        self._await(offer)
        overruled = self._ties.overruled() if offer.policy is not None else None
        if overruled is not None:
            raise BundleRefused("overruled", overruled)
        unpacked = self._store.unpacked(offer.sha256) or self._fetched(offer)
        self._content(offer, unpacked)
        baseline = self._baseline(offer)
        trial = {"baseline": [window.as_json() for window in baseline]}
        self._must_save(phase="trial", trial=trial, starts=0)
        self._try(offer)

    def _await(self, offer: Offer) -> None:
        """Until the offer's time has come and the board's own settings let it begin, unless it ends before."""
        mqtt = self._agent.settings.mqtt
        deferral = Deferral(BundleSettings() if mqtt is None else mqtt.bundles)
        while True:
            wall_s = self._clock.wall_s()
            why = deferral.why(offer, self._agent.snapshot(), wall_s, self._clock.monotonic_s())
            if wall_s >= offer.exp:
                raise BundleRefused("expired", f"its time was over before it could begin{f' ({why})' if why else ''}")
            if why is None:
                return
            self._pause("waiting", {"problem": why})

    def _fetched(self, offer: Offer) -> bundle_archive.Unpacked:
        self._must_save(phase="fetching")
        part = self._store.part(offer.sha256)
        self._fetch = Fetch(offer, part, self._clock)
        try:
            self._fetch.run(self._pause)
        finally:
            self._fetch = None
        try:
            bundle_archive.check(part, offer.sha256, offer.bytes)
            return bundle_archive.unpack(part, self._store.target(offer.sha256))
        finally:
            part.unlink(missing_ok=True)
            part.with_suffix(".json").unlink(missing_ok=True)

    def _baseline(self, offer: Offer) -> list[Observation]:
        """The board as it is, in as many windows with requests as the trial's; where nobody asks, none."""
        found: list[Observation] = []
        wanted, number = offer.trial.windows, 0
        while len(found) < wanted and number < (4 * wanted if found else wanted):
            window = self._window(offer, "measuring", {"windows": len(found)})
            number += 1
            found += [window] if window.models else []
        return found

    def _window(self, offer: Offer, phase: str, progress: Mapping[str, Any]) -> Observation:
        # A profile says what is modelled: only what was measured is the same before and after.
        window = PhysicsWindow(lambda: self._agent.dispatcher.meters, measured_only=offer.profile is not None)
        end_s = self._clock.monotonic_s() + offer.trial.window_s
        while (left_s := end_s - self._clock.monotonic_s()) > 0:
            window.look(self._agent.snapshot())
            self._pause(phase, progress, min(LOOK_S, left_s))
        return window.close(offer.trial.min_requests)

    def _pause(self, phase: str, progress: Mapping[str, Any] | None = None, seconds: float = LOOK_S) -> None:
        self._progress = {"phase": phase, **(progress or {})}
        self._tell(often=False)
        if self._stopping.wait(seconds):
            raise Interrupted
        payload = self._latest
        if payload == b"" and phase == "waiting":
            raise BundleRefused("withdrawn", "the offer was taken back before it could begin")
        if payload and isinstance(self._ties.judge(payload, self.record), Judged):
            raise BundleRefused("superseded", "a newer bundle was offered")

    def _try(self, offer: Offer) -> None:
        """Bring it into force and watch; revert at the first proof that anything became worse."""
        before, health = self._layer.content, Health.of(self._agent.snapshot())
        unpacked = self._store.unpacked(offer.sha256)
        if unpacked is None:
            raise BundleRefused("gone", "its files are not there any more")
        self._switch(self._content(offer, unpacked))
        try:
            verdict = self._watched(offer, unpacked, health)
        except Interrupted:
            raise
        except (QeilError, BundleRefused) as error:
            verdict = (error.code, error.message)
        if verdict is None:
            self._keep(offer)
        else:
            self._revert(before, *verdict)

    def _watched(self, offer: Offer, unpacked: bundle_archive.Unpacked, health: Health) -> tuple[str, str] | None:
        unserved = self._unserved(offer)
        if unserved is not None:
            return "model_not_served", unserved
        failed = self._ties.probe(unpacked, self._new_run())
        if failed is not None:
            return "self_test", failed
        baseline = [observation(w) for w in self.record.trial.get("baseline", [])]
        trial = BundleTrial(offer.trial, baseline, health)
        end_s = self._clock.monotonic_s() + min(offer.trial.limit_s, 4 * offer.trial.windows * offer.trial.window_s)
        while not trial.enough and self._clock.monotonic_s() < end_s:
            found = trial.add(self._window(offer, "trial", trial.figures()))
            snapshot = self._agent.snapshot()
            found = found or trial.broken(Health.of(snapshot), snapshot.agent.mode)
            self._progress = {"phase": "trial", **trial.figures(), "proven": trial.proven}
            if found is not None:
                return found
        return None

    def _unserved(self, offer: Offer) -> str | None:
        """The first model of the bundle that is not served, and why; None where all are."""
        end_s = self._clock.monotonic_s() + SERVE_S
        while True:
            states = {m.name: m for m in self._agent.snapshot().models}
            waits = [name for name in offer.models if name not in states or states[name].state != "ready"]
            if not waits:
                return None
            if self._clock.monotonic_s() >= end_s:
                found = states.get(waits[0])
                return f"{waits[0]}: {(found.reason if found else None) or 'no placement is loaded'}"
            self._pause("trial")

    # ------------------------------------------------------------------ ends

    def _new_run(self) -> Run:
        return Run(self._clock, APPLY_LIMIT_S, self._stopping, lambda _text, _share: None)

    def _content(self, offer: Offer, unpacked: bundle_archive.Unpacked) -> Content:
        """What it brings into force, fit for this board; BundleRefused."""
        content = bundle_offer.content(offer, unpacked, self._ties.taken())
        unfit = None if content.profile is None else self._ties.unfit(content.profile)
        if unfit is not None:
            raise BundleRefused("profile_differs", unfit)
        return content

    def _switch(self, content: Content | None) -> None:
        """Bring it into force; BundleRefused, and everything as before, where it cannot be had."""
        before = self._layer.content

        def change() -> None:
            self._layer.content = content

        outcome = self._ties.again(self._new_run(), change)
        if outcome.error is not None:
            self._layer.content = before
            raise BundleRefused("not_placeable", outcome.error)

    def _keep(self, offer: Offer) -> None:
        figures = {k: v for k, v in self._progress.items() if k != "phase"}
        self._settle("kept", None, None, kept=self.record.text, kept_ver=offer.ver, figures=figures)
        self._store.prune({offer.sha256})

    def _revert(self, before: Content | None, code: str, message: str) -> None:
        figures = {k: v for k, v in self._progress.items() if k != "phase"}
        _log.warning("bundle reverted", ver=self.record.ver, code=code, cause=message)
        try:
            self._switch(before)
        except BundleRefused as refused:
            message = f"{message}; and what served before cannot be had: {refused.message}"
        self._settle("reverted", code, message, figures=figures)

    def _settle(
        self, phase: Phase, code: str | None, message: str | None, figures: Mapping[str, Any] | None = None, **more: Any
    ) -> None:
        self._progress = {}
        self._save(phase=phase, code=code, message=message, trial=dict(figures or {}), starts=0, **more)
        _log.info("bundle settled", ver=self.record.ver, status=phase, code=code, cause=message)
        fields: dict[str, Any] = {"ver": self.record.ver, "status": phase, "figures": dict(figures or {})}
        fields |= {key: value for key, value in (("code", code), ("message", message)) if value is not None}
        self._ties.event(fields)

    def _must_save(self, **changes: Any) -> None:
        self._store.write(made := self.record.model_copy(update=changes))
        self.record = made

    def _save(self, **changes: Any) -> None:
        """Remember; where the disk refuses, the next start does again what was being done."""
        try:
            self._must_save(**changes)
        except StorageError as error:
            _log.warning("bundle not remembered", cause=error.message)
            self.record = self.record.model_copy(update=changes)

    def _tell(self, often: bool = True) -> None:
        """Report what changed; progress at most once a second."""
        now_s = self._clock.monotonic_s()
        if not often and now_s - self._reported_s < LOOK_S:
            return
        fields = self.report()
        if fields != self._reported and self._ties.report(fields):
            self._reported, self._reported_s = fields, now_s

    def report(self) -> dict[str, Any]:
        """What became of the offer, without time stamps."""
        record, content = self.record, self._layer.content
        fields: dict[str, Any] = {
            "ver": record.ver, "status": record.phase, "code": record.code, "message": record.message,
            "digest": record.digest, "in_force_ver": content.ver if content else None, **self._progress,
        }  # fmt: skip
        fetch = self._fetch
        if fetch is not None:
            fields["wanted"] = fetch.wanted()
        if record.phase in {"kept", "reverted"}:
            fields["figures"] = record.trial
        return fields


def open_bundles(agent: Agent, ties: Ties) -> Bundles:
    """Bundles of this state folder. StorageError says what to do where the record is damaged."""
    try:
        return Bundles(BundleStore(agent.settings.state_dir), agent, ties)
    except ValidationError as error:
        raise StorageError("bundles.json is not one of ours; remove it") from error
