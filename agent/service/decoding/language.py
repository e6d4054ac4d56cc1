"""Language: what a board has whose settings name a language model; without one none of this is even imported."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.backends.factory import LaneFactory
from agent.ports import Clock
from agent.schema.settings import ModelEntry
from agent.sensors.host import available_bytes
from agent.sensors.sysfs import SysfsReader
from agent.service.board import Board
from agent.service.decoding.answer_book import AnswerBook
from agent.service.decoding.answer_store import AnswerStore
from agent.service.decoding.answering import Answering, hottest_c
from agent.service.decoding.decoders import Decoders
from agent.service.decoding.text_screen import TextScreen
from agent.service.mail import WakeEvent
from agent.service.serving.board_watch import BoardWatch
from agent.service.serving.input_screen import InputScreen
from agent.service.supervisor import Supervisor


def language(
    entries: Sequence[ModelEntry], board: Board, lanes: LaneFactory, clock: Clock, supervisor: Supervisor,
    board_watch: BoardWatch, screen: InputScreen, state_dir: Path,
) -> tuple[Decoders, Answering]:  # fmt: skip
    """The models in their processes, and what answers questions with them. Nothing has started."""

    def sample_share(accelerator: str) -> float:
        """Share of the budget of repeated samples that heat leaves."""
        verdict = supervisor.keepers[accelerator].verdict
        return min(verdict.capacity_share, verdict.sample_share)

    decoders = Decoders(
        entries, board, lanes.decoder, clock, lambda: supervisor.in_force, lambda: supervisor.snapshot.agent.mode,
        lambda: available_bytes(SysfsReader(Path("/"))), lambda: supervisor.post(WakeEvent()),
    )  # fmt: skip
    text_screen = TextScreen(screen, lambda: supervisor.in_force.policy.guard.texts)
    decoders.found = text_screen.found
    answering = Answering(
        decoders, lambda: supervisor.in_force.policy, sample_share, clock, board_watch.before(text_screen.check),
        AnswerBook(AnswerStore(state_dir / "answers.json")), lambda name: hottest_c(supervisor.snapshot, name),
    )  # fmt: skip
    return decoders, answering
