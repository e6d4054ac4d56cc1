"""Served decoder: one language model as it is served – its keeper, what its texts took, and what is shown of it."""

from __future__ import annotations

from collections import deque
from dataclasses import field
from typing import Literal

from agent.backends.decoder_lane import DecoderReport
from agent.llm.sizes import DecoderSizes
from agent.records import record
from agent.schema.settings import ModelEntry
from agent.schema.snapshot import EnergyProvenance, ModelStatus
from agent.schema.text import TextDone, TextModel, TextUsage
from agent.service.decoding.decoder_choice import DecoderChoice
from agent.service.decoding.decoder_keeper import DecoderKeeper
from agent.service.decoding.decoder_power import DecoderPower
from agent.service.decoding.decoder_second import DecoderPair
from agent.service.decoding.text_costs import TextCosts
from agent.service.decoding.text_stream import TextStream
from agent.service.serving.latencies import RECENT, Latencies

State = Literal["ready", "loading", "recovering", "unavailable"]
UNSCREENED = (
    "guard.texts.absurd_suffix has no effect: the graph gives the last token's probabilities only; import the model "
    "again and restart the agent"
)


@record(eq=False)
class ServedDecoder:
    """A model: its keeper, or why there is none. Whoever holds it serialises what it changes."""

    entry: ModelEntry
    keeper: DecoderKeeper | None = None
    pair: DecoderPair | None = None
    """With a second accelerator that shares the work."""
    reason: str | None = None
    note: str | None = None
    sizes: DecoderSizes | None = None
    room_bytes: float = 0.0
    """What the model may take, beside those placed before it; of it, the forecast of what it takes."""
    promised_bytes: float = 0.0
    choice: DecoderChoice | None = None
    """Whether a second accelerator shares it, where that was left to the planner; None: not planned yet."""
    power: DecoderPower | None = None
    no_power: str = "its watts are still being modelled; ask again in some seconds"
    """Why joules are unknown while `power` is."""
    energies_j: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))
    total_j: float = 0.0
    costs: TextCosts = field(default_factory=TextCosts)
    times: Latencies = field(default_factory=Latencies)

    @property
    def state(self) -> State:
        """The word shown in status."""
        if self.keeper is None:
            return "unavailable" if self.reason else "loading"
        return self.keeper.state

    @property
    def where(self) -> str:
        """Names of the accelerators, in the order of the work; empty without a keeper."""
        if self.keeper is None:
            return ""
        own = self.keeper.home.accelerator
        return own if self.pair is None else f"{self.pair.second.home.accelerator}+{own}"

    @property
    def why(self) -> str | None:
        """Why it does not serve, or what is to be known of it while it does."""
        keeper = self.keeper
        if keeper is None:
            return self.reason
        if keeper.state == "ready":
            return self.note
        return keeper.refused or keeper.health.last_fault or "still loading"

    def model(self, since_s: float) -> TextModel:
        """What clients may know of it."""
        keeper = self.keeper
        if keeper is None:
            return TextModel(self.entry.name, False, self.reason or "the agent is starting", 0, 0, since_s)
        order, lane = keeper.home.order, keeper.lane
        second = self.pair.second.lane if self.pair is not None else None
        sizes, mode = self.sizes, order.mode
        assert sizes is not None  # noqa: S101  (a model with a keeper is placed)
        mode = mode or sizes.default_mode
        return TextModel(
            self.entry.name, keeper.state == "ready", self.why, order.context, order.rows, since_s,
            keeper.home.accelerator, lane.pid() if lane is not None else None,
            second.pid() if second is not None else None, sizes.family, mode,
            0.0 if mode == "exact" else sizes.quality.get(mode), sizes.weight_bytes,
            *self.costs.of_token(self.power), self.costs.text_tokens,
        )  # fmt: skip

    def status(self) -> ModelStatus:
        """What status shows of it."""
        keeper, entry = self.keeper, self.entry
        report = keeper.report if keeper is not None else None
        counters = keeper.counters if keeper is not None else {"streams": 0, "failed": 0, "replayed": 0}
        energies = sorted(self.energies_j)
        return ModelStatus(
            name=entry.name, state=self.state, requested="CPUExecutionProvider",
            actual=", ".join(report.providers) if report else "", accelerated_fraction=1.0 if report else None,
            placement=self.where if report else None,
            p50_ms=self.times.recent_ms(0.5), p99_ms=self.times.recent_ms(0.99),
            energy_j=energies[len(energies) // 2] if energies else None,
            provenance="modelled" if energies else "unknown", requests=counters["streams"], failed=counters["failed"],
            replayed=counters["replayed"], total_energy_j=self.total_j if energies else None,
            reason=self.why, unknown={} if self.power else {"energy_j": self.no_power},
            candidates=self.choice.shown if self.choice is not None else (),
        )  # fmt: skip

    def account(self, stream: TextStream, report: DecoderReport, now_s: float, digest: str) -> TextDone:
        """Count what a finished request took, and tell it."""
        usages = stream.usages
        if any(usage.unscreened for usage in usages):
            self.note = UNSCREENED
        energy_j: float | None = None
        provenance: EnergyProvenance = "unknown"
        reason = None if self.power is not None else self.no_power
        if stream.replays or not usages:
            reason = "a process was lost meanwhile, and with it the account of what it took"
        if self.power is not None and reason is None:
            energy_j, provenance = sum(self.power.energy_j(usage) for usage in usages), "modelled"
            self.energies_j.append(energy_j)
            self.total_j += energy_j
        compute_s = sum(usage.prefill_s + usage.decode_s for usage in usages)
        self.costs = self.costs.after(stream.request.samples, stream.tokens, compute_s, energy_j)
        self.times.add(now_s - stream.started_s)
        prompt_tokens = max((usage.prompt_tokens for usage in usages), default=0)
        cached = min(prompt_tokens, max((usage.cached_tokens for usage in usages), default=0))
        return TextDone(
            TextUsage(prompt_tokens, cached, stream.tokens, compute_s, energy_j, provenance, reason),
            self.where, ", ".join(report.providers), digest, stream.replays,
        )  # fmt: skip
