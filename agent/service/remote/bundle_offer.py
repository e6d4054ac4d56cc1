"""Bundle offer: judges a signed offer, and looks through an unpacked bundle before anything of it comes into force."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence

from agent.errors import ConfigError
from agent.mqtt import envelope
from agent.mqtt.minisign import PublicKey, SignatureRefused
from agent.mqtt.topics import Topics
from agent.records import record
from agent.schema.bundle import Offer
from agent.schema.device import DeviceProfile
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.service.clock import CLOCK_SET_S
from agent.service.remote.command_intake import MAX_AHEAD_S, Refusal
from agent.storage import yaml_files
from agent.storage.bundle_archive import BundleRefused, Unpacked
from agent.storage.bundle_store import Record
from agent.storage.problem import problems_of
from agent.storage.yaml_text import Document

LATER = frozenset({"clock_unset", "not_yet"})
"""Refusals that time may lift."""


@record(frozen=True)
class Judged:
    """An offer for this board, with its signed text and that text's digest."""

    offer: Offer
    text: str
    digest: str


@record(frozen=True)
class Content:
    """What a bundle brings into force."""

    name: str
    ver: int
    policy: Policy | None
    models: tuple[ModelEntry, ...]
    profile: DeviceProfile | None = None


def judge(
    payload: bytes, keys: Sequence[PublicKey], topics: Topics, profile: str, agent: str, record: Record, wall_s: float
) -> Judged | Refusal | None:
    """A newer offer, None where it is the one that is known, or why it is not taken."""
    try:
        document, text = envelope.opened(payload, keys)
        offer = yaml_files.validate(Document(document, {}), Offer, "bundle")
    except SignatureRefused as refused:
        return Refusal(refused.code, refused.message, None, "bundle")
    except ConfigError as error:
        problems = "; ".join(p.text().removeprefix("bundle: ") for p in problems_of(error)[:8])
        return Refusal("invalid", problems, None, "bundle")
    judged = Judged(offer, text, hashlib.sha256(text.encode()).hexdigest())
    ver = str(offer.ver)
    if offer.tenant != topics.tenant or (offer.boards is not None and topics.board not in offer.boards):
        return Refusal("wrong_board", f"not for {topics.tenant}/{topics.board}", ver, "bundle")
    if offer.profiles is not None and profile not in offer.profiles:
        message = f"for boards with {', '.join(offer.profiles)}; this one has {profile}"
        return Refusal("wrong_board", message, ver, "bundle")
    if offer.ver == record.ver and judged.digest == record.digest:
        return None
    problem = _untimely(offer, record, wall_s) or _too_new(offer, agent)
    return Refusal(*problem, ver, "bundle") if problem else judged


def _untimely(offer: Offer, record: Record, wall_s: float) -> tuple[str, str] | None:
    if offer.ver < record.ver:
        return "old_version", f"version {offer.ver} is older than {record.ver}; give the old content a new version"
    if offer.ver == record.ver:
        return "version_reused", f"version {offer.ver} said something else before"
    if wall_s < CLOCK_SET_S:
        return "clock_unset", "the board does not know the time yet, so nothing can be checked for expiry"
    if offer.exp <= wall_s:
        return "expired", f"{wall_s - offer.exp:.0f} s too late"
    if offer.iat > wall_s + MAX_AHEAD_S:
        return "not_yet", f"issued {offer.iat - wall_s:.0f} s ahead of the board's clock"
    return None


def _too_new(offer: Offer, agent: str) -> tuple[str, str] | None:
    if offer.min_agent is not None and _numbers(agent) < _numbers(offer.min_agent):
        return "old_agent", f"for agents from {offer.min_agent}; this is {agent}"
    return None


def _numbers(version: str) -> tuple[int, ...]:
    parts = version.split("+", maxsplit=1)[0].split(".")[:3]
    return tuple(int("".join(c for c in part if c.isdigit()) or 0) for part in parts)


def content(offer: Offer, unpacked: Unpacked, taken: Collection[str]) -> Content:
    """What the bundle brings into force, every file of it read. BundleRefused names what is wrong.

    `taken`: names of models that the board has from elsewhere.
    """
    try:
        policies = {name: yaml_files.load_policy(path) for name, path in unpacked.files("policies").items()}
        profiles = {name: yaml_files.load_profile(path) for name, path in unpacked.files("profiles").items()}
    except ConfigError as error:
        raise BundleRefused("invalid", _relative(error.message, unpacked)) from error
    if offer.policy is not None and offer.policy not in policies:
        raise BundleRefused("invalid", f"there is no policies/{offer.policy}.yaml in it")
    if offer.profile is not None and offer.profile not in profiles:
        raise BundleRefused("invalid", f"there is no profiles/{offer.profile}.yaml in it")
    files = unpacked.files("models")
    missing = [name for name in offer.models if name not in files]
    if missing:
        raise BundleRefused("invalid", f"there is no model {missing[0]} in it")
    used = [name for name in offer.models if name in taken]
    if used:
        raise BundleRefused("name_taken", f"the board serves a model {used[0]} already; give the new one a new name")
    entries = tuple(ModelEntry(name=name, path=files[name]) for name in offer.models)
    return Content(offer.name, offer.ver, policies.get(offer.policy or ""), entries, profiles.get(offer.profile or ""))


def _relative(message: str, unpacked: Unpacked) -> str:
    return message.replace(f"{unpacked.folder}/", "")
