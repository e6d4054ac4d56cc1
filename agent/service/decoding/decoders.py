"""Decoders: every language model of the settings, each on a lane of its own, and the service that writes with them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib.util import find_spec
from typing import Literal

import structlog

from agent.backends.decoder_lane import DecoderLane, DecoderOrder, DecoderReport
from agent.control import admission
from agent.control.lane_health import UNKNOWN_BRING_UP_S
from agent.control.text_guard import SUFFIX_KEY
from agent.errors import BadInput, NotFound, Overloaded, PlacementError, QeilError
from agent.llm.sizes import DecoderSizes, read_sizes
from agent.ports import Clock, LaneSpec
from agent.schema.guard import Reaction
from agent.schema.metric import Histogram
from agent.schema.policy import Policy
from agent.schema.settings import DecoderSecond, ModelEntry
from agent.schema.snapshot import Mode, ModelStatus
from agent.schema.text import TextEvent, TextModel, TextRequest
from agent.service.board import Board
from agent.service.decoding.decoder_choice import as_settings_say, choose, decoder_hosts
from agent.service.decoding.decoder_keeper import UNMENDED_S, DecoderHome, DecoderKeeper, TextStreamHandle
from agent.service.decoding.decoder_power import modelled_power
from agent.service.decoding.decoder_room import PREFILL_BLOCK, DecoderRoom, make_room
from agent.service.decoding.decoder_second import check_second, second_bytes, start_second
from agent.service.decoding.sample_placement import StandingPlaces
from agent.service.decoding.served_decoder import ServedDecoder
from agent.service.decoding.text_stream import TextStream
from agent.service.serving.lane_keeper import LaneKeeper
from agent.service.serving.serving_state import InForce

PROGRAM = "agent.service.decoding.decoder_process"
STOP_S = 5.0
"""For a process whose model goes over to two others, before it is killed."""
NEEDED = ("jinja2", "onnxruntime", "tokenizers")
"""What the process of a language model imports; the agent's own does not."""
_log = structlog.get_logger("decoders")
TURN_S_PER_BYTE = 3e-8
"""Seconds of a turn per byte of weights on a slow board: two 4-bit weights a byte, two operations each for 128
positions, 1.7e10 of them a second. A turn counts as hung at recovery.hang_factor times that."""
SHORTEST_TURN_S = 0.2
"""Of a turn even of the smallest model, pages that come from a slow disk included."""


class Decoders:
    """`ports.TextService`. `tick` and `start` belong to the supervisor's thread or come before it."""

    def __init__(
        self,
        entries: Sequence[ModelEntry],
        board: Board,
        make_lane: Callable[[LaneSpec, str], DecoderLane],
        clock: Clock,
        in_force: Callable[[], InForce],
        mode: Callable[[], Mode],
        free_bytes: Callable[[], int | None],
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when a lane is lost; a `tick` soon after ends the pause of its texts sooner."""
        self._board, self._make_lane, self._clock = board, make_lane, clock
        self._in_force, self._mode, self._free_bytes, self._wake = in_force, mode, free_bytes, wake
        self._served = {entry.name: ServedDecoder(entry) for entry in entries}
        self._since_s = clock.wall_s()
        self._changing = threading.RLock()
        """Held while a request is handed to a keeper, and while a keeper is replaced."""
        self._shares: dict[str, float] = {}
        """Share of the admitted concurrency that heat leaves, by model."""
        self.found: Callable[[TextRequest, str, Reaction], None] = lambda *_: None
        """Told what the screen of a prompt found, and what was done."""
        self._places = StandingPlaces()

    # ------------------------------------------------------------------ ports.TextService

    def text_models(self) -> tuple[TextModel, ...]:
        """All language models."""
        return tuple(served.model(self._since_s) for served in self._served.values())

    def write(self, request: TextRequest, on_event: Callable[[TextEvent], None]) -> TextStreamHandle:
        """Admit and begin. Raises NotFound, BadInput, Overloaded."""
        served = self._served.get(request.model)
        if served is None:
            known = sorted(self._served)
            near = get_close_matches(request.model, known, 1)
            hint = f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(known) or 'none'})"
            raise NotFound(f"there is no language model {request.model!r}{hint}")
        keeper = served.keeper
        if keeper is None:
            wait_s = UNMENDED_S if served.reason else UNKNOWN_BRING_UP_S
            raise Overloaded(f"model {request.model!r}: {served.reason or 'the agent is starting'}", wait_s)
        if request.samples > keeper.home.order.rows:
            raise BadInput(
                f"{request.samples} texts at once: {request.model!r} writes {keeper.home.order.rows} at once at most"
            )
        limits = self._in_force().policy.admission
        now_s = self._clock.monotonic_s()
        load = admission.Load(
            self._mode(), self.in_flight(), self._shares.get(request.model, 1.0), keeper.text_s or 1.0,
            keeper.back_s(now_s),
        )  # fmt: skip
        verdict = admission.decide(load, limits)
        if not verdict.admit:
            raise Overloaded(verdict.sentence, verdict.retry_after_s)
        asked_s = limits.max_deadline_s if request.deadline_s is None else request.deadline_s
        deadline_s = now_s + admission.deadline_s(asked_s, limits)
        guard = self._in_force().policy.guard.texts
        if guard.absurd_suffix != "ignore":
            request = replace(request, screen=(guard.absurd_suffix, guard.absurd_suffix_nats))
            on_event = self._watched(request, guard.absurd_suffix, on_event)
        with self._changing:
            keeper = served.keeper or keeper
            return TextStreamHandle(keeper, keeper.write(request, on_event, deadline_s))

    def _watched(
        self, request: TextRequest, reaction: Reaction, on_event: Callable[[TextEvent], None]
    ) -> Callable[[TextEvent], None]:
        def told(event: TextEvent) -> None:
            if isinstance(event, BadInput) and event.message.endswith(SUFFIX_KEY):
                self.found(request, event.message.removesuffix(SUFFIX_KEY).strip(), reaction)
                event = BadInput(f"model {request.model!r}: prompt: {event.message}", code="suffix")
            on_event(event)

        return told

    # ------------------------------------------------------------------ supervisor's side

    def start(self) -> None:
        """Read the folders and start a process for each that fits."""
        for served in self._served.values():
            self._start(served)

    def _start(self, served: ServedDecoder) -> None:
        try:
            self._place(served)
        except (BadInput, PlacementError) as error:
            served.reason = error.message

    def _place(self, served: ServedDecoder) -> None:
        entry, options, policy = served.entry, served.entry.decoder, self._in_force().policy
        missing = [name for name in NEEDED if find_spec(name) is None]
        if missing:
            raise PlacementError(f"language models need the package {missing[0]}: install qeil-agent[llm]")
        sizes = served.sizes = read_sizes(entry.path)
        graph = sizes.graph(options.mode)
        served.room_bytes = self._room_bytes(self._accelerator(options.accelerator), policy)
        if options.second is not None or options.sharing == "never":
            self._serve(served, self._accelerator(options.accelerator), options.second)
            served.choice = as_settings_say(self._accelerator(options.accelerator), options)
            return
        hosts = decoder_hosts(self._board, options.accelerator)
        room = self._serve(served, hosts[0], None)

        def fits(second: DecoderSecond) -> str | None:
            left = make_room(sizes, options, served.room_bytes - second_bytes(sizes, second), policy.standby)
            fewer = (left.rows, left.context) != (room.rows, room.context)
            return f"only {left.rows} texts of {left.context} tokens fit beside it" if fewer else None

        def plan() -> None:
            served.choice = choose(
                sizes, graph, self._board.profile, policy, hosts, fits, fixed=options.accelerator is not None
            )
            _log.info("decoder planned", model=entry.name, why=served.choice.why)

        threading.Thread(target=plan, name="decoder-choice", daemon=True).start()

    def _serve(self, served: ServedDecoder, accelerator: str, second: DecoderSecond | None) -> DecoderRoom:
        """Start the process or the two of a model. Raises PlacementError, BadInput."""
        entry, options, policy, sizes = served.entry, served.entry.decoder, self._in_force().policy, served.sizes
        assert sizes is not None  # noqa: S101  (just read)
        room_bytes = served.room_bytes
        if second is not None:
            self._accelerator(second.accelerator)
            check_second(sizes, second, accelerator)
            room_bytes -= second_bytes(sizes, second)
        screens = policy.guard.texts.absurd_suffix != "ignore"
        if screens:
            room_bytes -= PREFILL_BLOCK * sizes.vocabulary * 4.0  # logits of a whole block
        room = make_room(sizes, options, room_bytes, policy.standby)
        served.note = room.note
        served.promised_bytes = room.bytes_ + (0.0 if second is None else second_bytes(sizes, second))
        threads = options.threads or self._board.threads(self._board.profile.accelerator(accelerator))
        role: Literal["alone", "first"] = "alone" if second is None else "first"
        layers = (second.layers or 0) if second is not None else 0
        order = DecoderOrder(
            str(entry.path), options.mode, threads, room.rows, room.context, options.prefix_cache_bytes, 4096, role,
            layers, screens,
        )  # fmt: skip
        home = DecoderHome(
            entry.name, accelerator, order, options.max_requests,
            max(SHORTEST_TURN_S, sizes.weight_bytes * TURN_S_PER_BYTE), policy.standby,
        )  # fmt: skip
        spec = LaneSpec(entry.name, threads)
        keeper = served.keeper = DecoderKeeper(
            home, lambda: self._make_lane(spec, PROGRAM), self._clock, lambda s, r: self._finish(served, s, r)
        )
        keeper.wake = self._wake
        keeper.start(self._clock.monotonic_s())
        served.pair = None
        if second is not None:
            own = self._board.threads(self._board.profile.accelerator(second.accelerator))
            served.pair = start_second(keeper, second, own, self._make_lane, self._clock)
        threading.Thread(
            target=self._model_power, args=(served, sizes, keeper, second), name="decoder-power", daemon=True
        ).start()
        return room

    def _model_power(
        self, served: ServedDecoder, sizes: DecoderSizes, keeper: DecoderKeeper, second: DecoderSecond | None
    ) -> None:
        graph, policy = sizes.graph(served.entry.decoder.mode), self._in_force().policy
        try:
            power = modelled_power(graph, self._board.profile, policy, keeper.home.accelerator, second)
        except QeilError as error:
            served.no_power = error.message
            _log.warning("joules unknown", model=served.entry.name, cause=error.message)
        else:
            if served.keeper is keeper:
                served.power = power

    def _change(self, served: ServedDecoder) -> None:
        """Go over to the pair that was found to pay, once no text is under way."""
        choice, old = served.choice, served.keeper
        if choice is None or choice.second is None or served.pair is not None or old is None or old.streams():
            return
        with self._changing:
            if old.streams():
                return
            served.power = None
            try:
                self._serve(served, choice.first, choice.second)
            except (BadInput, PlacementError) as error:
                served.choice = replace(choice, second=None, why=f"{choice.first} alone: {error.message}")
                return
        threading.Thread(target=old.stop, args=(STOP_S,), name="decoder-change", daemon=True).start()

    def _accelerator(self, wanted: str | None) -> str:
        return decoder_hosts(self._board, wanted)[0]

    def _room_bytes(self, accelerator: str, policy: Policy) -> float:
        profile = self._board.profile
        domain = profile.memory_domain(profile.accelerator(accelerator).memory_domain)
        allowed = (domain.capacity_bytes.value - domain.reserved_bytes.value) * policy.memory.max_cpq
        free_bytes = self._free_bytes()
        promised_bytes = sum(served.promised_bytes for served in self._served.values())  # not all of it taken yet
        return (allowed if free_bytes is None else min(allowed, float(free_bytes))) - promised_bytes

    def tick(self, keepers: Mapping[str, LaneKeeper], now_s: float) -> None:
        """Look after every lane; texts pause while heat withholds the permit of their accelerator."""
        limits = self._in_force().policy.recovery
        for served in self._served.values():
            if served.keeper is not None:
                self._change(served)
                pair = served.pair
                lanes = [served.keeper] if pair is None else [served.keeper, pair.second]
                # The first process asks the second one, so it waits for the permits of both and keeps the slower pace.
                verdicts = [keepers[lane.home.accelerator].verdict for lane in lanes]
                permit_until_s = now_s + limits.permit_s if all(v.permit for v in verdicts) else 0.0
                self._shares[served.entry.name] = min(v.capacity_share for v in verdicts)
                pace = min(v.pace or 1.0 for v in verdicts)
                for lane in lanes:
                    lane.tick(permit_until_s, limits, now_s, pace)
                if pair is not None:
                    pair.tick()

    def statuses(self) -> tuple[ModelStatus, ...]:
        """What status shows of them."""
        policy = self._in_force().policy
        told = self._places.sentences(self.text_models(), policy.sampling, policy.admission.default_deadline_s)
        return tuple(replace(served.status(), samples=told.get(name)) for name, served in self._served.items())

    def latencies(self) -> dict[str, Histogram]:
        """Of each model's answers, from the request to the last token [s]."""
        return {name: served.times.histogram() for name, served in self._served.items()}

    def in_flight(self) -> int:
        """Requests under way."""
        return sum(s.keeper.streams() for s in self._served.values() if s.keeper is not None)

    def fail_all(self, error: QeilError) -> None:
        """Answer everything in flight with an error (last act of a shutdown)."""
        for served in self._served.values():
            if served.keeper is not None:
                served.keeper.fail_all(error)

    def stop(self, timeout_s: float) -> None:
        """End every lane."""
        for served in self._served.values():
            if served.keeper is not None:
                served.keeper.stop(timeout_s)
            if served.pair is not None:
                served.pair.second.stop(timeout_s)

    # ------------------------------------------------------------------ lanes' thread

    def _finish(self, served: ServedDecoder, stream: TextStream, report: DecoderReport) -> None:
        for usage in stream.usages:
            if usage.found:
                self.found(stream.request, usage.found, "flag")
        stream.on_event(served.account(stream, report, self._clock.monotonic_s(), self._in_force().digest))
