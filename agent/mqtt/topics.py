"""Topics: the tree under qeil/v1/TENANT/BOARD, what a board publishes (up) and what it listens to (down)."""

from __future__ import annotations

from typing import Protocol

from agent.records import record

ROOT = "qeil/v1"


@record(frozen=True)
class Subscription:
    """What to listen to. `fresh`: without what is retained there."""

    topic: str
    qos: int
    fresh: bool = False


class LinkTopics(Protocol):
    """What a link needs to know of the tree."""

    @property
    def client_id(self) -> str:
        """Stable: sessions and take-overs go by it."""
        ...

    @property
    def state(self) -> str:
        """Retained: birth message and last will."""
        ...

    @property
    def receive_maximum(self) -> int:
        """Messages that the broker may send before the first is acknowledged."""
        ...

    def subscriptions(self, requests: bool) -> tuple[Subscription, ...]:
        """What to listen to, with or without requests."""
        ...

    def is_request(self, topic: str) -> bool:
        """Whether a message there is acknowledged by whoever handles it."""
        ...


@record(frozen=True)
class Topics:
    """Topics of one board."""

    tenant: str
    board: str

    @property
    def client_id(self) -> str:
        """Stable: sessions and take-overs go by it."""
        return f"{self.tenant}-{self.board}"

    @property
    def receive_maximum(self) -> int:
        """Requests that the broker may send before the first is acknowledged."""
        return 16

    def subscriptions(self, requests: bool) -> tuple[Subscription, ...]:
        """Acknowledgements, and with `requests` what the fleet asks for."""
        acks = (Subscription(self.ack, 0),)
        if not requests:
            return acks
        fresh = tuple(Subscription(topic, 1, fresh=True) for topic in (self.commands, self.pieces))
        return (*acks, *fresh, *(Subscription(topic, 1) for topic in self.retained))

    @property
    def _base(self) -> str:
        return f"{ROOT}/{self.tenant}/{self.board}"

    @property
    def state(self) -> str:
        """Retained: birth message and last will."""
        return f"{self._base}/up/state"

    def rows(self, cls: str) -> str:
        """Telemetry (`tlm`), events (`evt`) and gaps (`gap`)."""
        return f"{self._base}/up/{cls}/agent" if cls != "gap" else f"{self._base}/up/gap"

    @property
    def ack(self) -> str:
        """The backend's acknowledgement after its commit."""
        return f"{self._base}/down/ack"

    @property
    def commands(self) -> str:
        """What to listen to for commands."""
        return f"{self._base}/down/cmd/+"

    def command(self, name: str) -> str:
        """A command's own topic; what runs is what the signed text says."""
        return f"{self._base}/down/cmd/{name}"

    @property
    def desired(self) -> str:
        """Retained: the state that the fleet wants."""
        return f"{self._base}/down/des"

    @property
    def reported(self) -> str:
        """Retained: what became of the desired state."""
        return f"{self._base}/up/rep"

    @property
    def bundle(self) -> str:
        """Retained: the bundle that this board should run."""
        return f"{self._base}/down/bundle"

    @property
    def bundle_state(self) -> str:
        """Retained: what became of the bundle."""
        return f"{self._base}/up/bundle"

    @property
    def pieces(self) -> str:
        """What to listen to for pieces of a bundle's archive."""
        return f"{self._base}/down/blob/+/+"

    def piece(self, sha256: str, number: int) -> str:
        """One piece of an archive."""
        return f"{self._base}/down/blob/{sha256}/{number}"

    def piece_of(self, topic: str) -> tuple[str, int] | None:
        """Digest and number of the piece that comes there; None where none does."""
        digest, _, number = topic.removeprefix(f"{self._base}/down/blob/").partition("/")
        is_one = topic.startswith(f"{self._base}/down/blob/") and number.isascii() and number.isdigit()
        return (digest, int(number)) if is_one and len(number) < 10 else None

    @property
    def retained(self) -> tuple[str, ...]:
        """What the fleet wants for as long as nothing newer is wanted."""
        return (self.desired, self.bundle)

    def response(self, name: str) -> str:
        """Where progress and end of a command go."""
        return f"{self._base}/up/res/{name}"

    def takes_response(self, topic: str) -> bool:
        """Whether a caller may have its responses there: in our own part of the tree, or anybody could be hit."""
        return topic.startswith(self.response("")) and not set(topic) & {"+", "#", "\0"} and len(topic) <= 512

    def is_request(self, topic: str) -> bool:
        """Whether a message there is a command, what the fleet wants, or a part of it."""
        parts = (self.command(""), f"{self._base}/down/blob/")
        return topic.startswith(parts) or topic in self.retained


@record(frozen=True)
class ControllerTopics:
    """Topics of one consumer of the fleet's side; consumers of one group share the boards' messages among them."""

    name: str
    group: str = "qeil"
    receive_maximum: int = 2000

    @property
    def client_id(self) -> str:
        """One for each consumer."""
        return self.name

    @property
    def state(self) -> str:
        """Where a consumer says that it is there; no board can write or read it."""
        return f"{ROOT}/_fleet/{self.name}/down/state"

    def subscriptions(self, requests: bool) -> tuple[Subscription, ...]:
        """Rows, answers and state of every board, each message at one consumer of the group."""
        return (Subscription(f"$share/{self.group}/{ROOT}/+/+/up/#", 1),) if requests else ()

    def is_request(self, topic: str) -> bool:
        """Everything is acknowledged after it was committed."""
        return topic.startswith(f"{ROOT}/")
