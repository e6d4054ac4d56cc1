"""Engine: many requests on one decoder as one batch that rows join and leave between steps.

A prompt is computed once, in blocks between the steps of the others, its cache copied for each sample. Rows lie at the
front of the pool without gaps; the prompt that is being computed lies behind them.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import field

import numpy as np

from agent.control import text_guard
from agent.errors import BadInput, InferenceFailed, Overloaded, QeilError, TooLarge
from agent.llm.echo import PromptEcho
from agent.llm.kv_pool import KvPool
from agent.llm.prefix_cache import BLOCK, PrefixCache
from agent.llm.row import Piece, Prompt, Row
from agent.llm.session import DecoderSession, Floats
from agent.records import record


@record(frozen=True)
class Job:
    """A request: the samples numbered `rows` of a prompt. `written`: what the only row gave before, to go on from.

    kept_as: name that the computed prompt is kept under, for jobs with more samples of it; empty: not kept.
    """

    number: int
    prompt: Prompt
    rows: tuple[int, ...]
    written: tuple[int, ...] = ()
    kept_as: str = ""


@record
class Usage:
    """What a job took, seconds by the engine's clock. `steps` counts decode steps by the job's share of their rows."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    prefilled_tokens: int = 0
    tokens: int = 0
    steps: float = 0.0
    prefill_s: float = 0.0
    decode_s: float = 0.0
    elsewhere_s: float = 0.0
    """By the clocks of peers, besides."""
    found: str = ""
    """What the screen of the prompt found, in words."""
    unscreened: bool = False
    """Whether the prompt should have been screened and the graph gave too little for that."""


@record(frozen=True)
class Written:
    """A piece of a job."""

    number: int
    piece: Piece


@record(frozen=True)
class Finished:
    """All rows of a job ended."""

    number: int
    usage: Usage


@record(frozen=True)
class Failed:
    """A job cannot go on; the others do."""

    number: int
    error: QeilError


Event = Written | Finished | Failed


@record(eq=False)
class _Run:
    job: Job
    ids: tuple[int, ...]
    usage: Usage = field(default_factory=Usage)
    left: int = 0
    failed: bool = False
    done: int = 0
    """Prompt positions in the cache."""
    surprises: list[float] = field(default_factory=list)
    """Log probabilities of the prompt's tokens, where it is screened."""
    last: Floats | None = None
    """Logits behind the last block."""
    echo: PromptEcho | None = None

    @property
    def listens(self) -> bool:
        """Whether the logits of every position of the prompt are needed."""
        return self.job.prompt.screen is not None or (self.echo is not None and self.echo.listens)


@record(eq=False)
class _Place:
    run: _Run
    row: Row
    length: int


class Engine:
    """Not thread-safe: one thread adds, cancels and turns."""

    def __init__(
        self,
        session: DecoderSession,
        *,
        rows: int,
        context: int,
        max_waiting: int = 64,
        prefix_bytes: int = 0,
        shared: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.session, self._clock = session, clock
        self.pool = KvPool(session.folder, rows, context, session.kv_type, shared=shared)
        self.prefixes = PrefixCache(prefix_bytes)
        self._max_waiting = max_waiting
        self._waiting: deque[_Run] = deque()
        self._lead: _Run | None = None
        self._slot = 0
        self._block = BLOCK
        """Positions of a prompt at a time where all their logits are needed: 1 where the graph gives the last only."""
        self._sent = False
        """Whether a peer computes a block of the prompt, or of one that was cancelled meanwhile."""
        self._events: list[Event] = []
        """Of a turn under way: they outlive a loss in its middle."""
        self._places: list[_Place] = []

    @property
    def idle(self) -> bool:
        """Whether a turn has nothing to do."""
        return not (self._waiting or self._lead or self._places)

    @property
    def active_rows(self) -> int:
        """Rows that write now."""
        return len(self._places)

    def add(self, job: Job) -> None:
        """Queue a job. Raises BadInput, TooLarge (never fits; says what would), Overloaded (the queue is full)."""
        prompt, pool = job.prompt, self.pool
        prompt.check(self.session.folder.vocabulary)
        if not job.rows or (job.written and (len(job.rows) > 1 or len(job.written) >= prompt.max_tokens)):
            raise BadInput("a job needs rows, and only a single unfinished one can be gone on with")
        if len(job.rows) > pool.rows:
            raise TooLarge(f"{len(job.rows)} samples at once do not fit: this model is served with {pool.rows} rows")
        room = pool.capacity - len(prompt.ids)
        if room < 1:
            raise TooLarge(
                f"the prompt has {len(prompt.ids)} tokens, with its answer it may have {pool.capacity}; shorten it"
            )
        if prompt.max_tokens > room:
            raise TooLarge(
                f"{len(prompt.ids)} tokens of prompt and max_tokens {prompt.max_tokens} exceed the {pool.capacity} "
                f"that a text may have here; max_tokens of at most {room} fits"
            )
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(f"{self._max_waiting} texts wait already")
        run = _Run(job, (*prompt.ids, *job.written), left=len(job.rows))
        run.usage.prompt_tokens = len(prompt.ids)
        run.echo = PromptEcho(self.session.folder, prompt) if prompt.echo and not job.written else None
        self._waiting.append(run)

    def cancel(self, number: int) -> None:
        """Drop a job; nothing more is computed for it."""
        self._waiting = deque(run for run in self._waiting if run.job.number != number)
        if self._lead is not None and self._lead.job.number == number:
            self._lead = None
        self._leave([i for i, place in enumerate(self._places) if place.run.job.number == number])

    def abandon(self) -> list[int]:
        """Drop every job that has begun, after a failure of the runtime; their numbers. Others' events stay."""
        runs = [place.run for place in self._places] + ([self._lead] if self._lead else [])
        self._places, self._lead = [], None
        numbers = list(dict.fromkeys(run.job.number for run in runs))
        self._events = [event for event in self._events if event.number not in numbers]
        return numbers

    def take_events(self) -> list[Event]:
        """What happened in a turn that failed."""
        events, self._events = self._events, []
        return events

    def turn(self) -> list[Event]:
        """Prompts, a block's worth of tokens or one block at most, and one step of all rows.

        Where a peer computes prompts, rows write on meanwhile. Raises InferenceFailed; after a PeerLost the same turn
        can be taken again.
        """
        if self._sent and self._lead is None:
            self.session.prompted(wait=True)  # of a prompt that was cancelled
            self._sent = False
        budget = BLOCK
        while budget > 0 and (self._lead is not None or self._begin()):
            lead = self._lead
            assert lead is not None  # noqa: S101  (just begun)
            before = lead.done
            if not self._prefill(lead):
                break
            budget -= lead.done - before
        if self._places:
            self._decode()
        if self.idle:
            self.pool.release()
        return self.take_events()

    def _begin(self) -> bool:
        """Take the next prompt on, where its rows have room; those that are kept as a whole join at once."""
        while self._waiting and len(self._places) + len(self._waiting[0].job.rows) <= self.pool.rows:
            run = self._waiting.popleft()
            self._slot = len(self._places)
            if not self._rejoin(run):
                self._lead = run
                return self._look_up(run)
        return False

    def _rejoin(self, run: _Run) -> bool:
        """Go on behind a prompt that an earlier job of the same name left; whether there is one.

        It was computed in the same steps, and passed the same screen, as it would be again.
        """
        kept = self.prefixes.kept(run.job.kept_as, run.ids) if run.job.kept_as and run.echo is None else None
        if kept is None:
            return False
        block, logits = kept
        run.usage.cached_tokens = run.done = len(run.ids)
        self.pool.write(self._slot, 0, run.done, block)
        self._join(run, logits)
        return True

    def _look_up(self, run: _Run) -> bool:
        """Put the known beginning of a prompt into its slot."""
        for block in self.prefixes.find(run.ids) if not run.listens else ():
            self.pool.write(self._slot, run.done, run.done + BLOCK, block)
            run.done += BLOCK
        run.usage.cached_tokens = run.done
        return True

    def _prefill(self, run: _Run) -> bool:
        """The next block of a prompt; False while a peer still computes it and rows have something to do."""
        started_s = self._clock()
        session = self.session
        echoing = run.echo is not None and run.echo.listens
        end = min(len(run.ids), run.done + (self._block if echoing else BLOCK))
        logits = None
        if not self._sent:
            ids = np.array([run.ids[run.done : end]], np.int64)
            logits = session.prompt(self.pool.rows_of(self._slot, 1), ids, [run.done])
            self._sent = logits is None
        if logits is None:
            logits = session.prompted(wait=not self._places)
        run.usage.prefill_s += self._clock() - started_s
        if logits is None:
            return False
        self._sent = False
        run.usage.elsewhere_s += session.took_elsewhere_s()
        if echoing and len(logits[0]) < end - run.done:
            self._block = 1  # these positions are computed again
            return True
        run.usage.prefilled_tokens += end - run.done
        self._remember(run, end)
        if run.job.prompt.screen is not None:
            self._listen(run, logits[0], end)
        if run.echo is not None and echoing:
            run.echo.listen(logits[0])
        run.done = end
        if end == len(run.ids):
            self._lead = None
            if self._passes(run):
                self._keep(run, logits[0, -1])
                self._join(run, logits[0, -1])
        return True

    def _remember(self, run: _Run, end: int) -> None:
        """Keep a block that was computed in one step: smaller ones round otherwise, and a hit gives the same bits."""
        start = end - BLOCK
        if run.done != start or end % BLOCK or not self.prefixes.wants(run.ids[:end], self.pool.position_bytes * BLOCK):
            return
        self.prefixes.add(run.ids[:end], self.pool.read(self._slot, start, end))

    def _keep(self, run: _Run, logits: Floats) -> None:
        """Keep a whole prompt for more samples of it; one that the screen found something in is looked at again."""
        if run.job.kept_as and not run.job.written and run.echo is None and not run.usage.found:
            kept_bytes = self.pool.position_bytes * run.done + logits.nbytes
            if kept_bytes <= self.prefixes.max_bytes:
                self.prefixes.keep(run.job.kept_as, run.ids, self.pool.read(self._slot, 0, run.done), logits.copy())

    @staticmethod
    def _listen(run: _Run, logits: Floats, end: int) -> None:
        """Note how likely the block's tokens were to the model; the first one by what it said before."""
        if len(logits) < end - run.done:
            run.usage.unscreened = True
            return
        known = logits[:-1] if run.last is None else np.concatenate([run.last[None], logits[:-1]])
        for row, token in zip(known, run.ids[end - len(known) : end], strict=True):
            highest = row.max()
            run.surprises.append(float(row[token] - highest - np.log(np.exp(row - highest).sum())))
        run.last = logits[-1].copy()

    def _passes(self, run: _Run) -> bool:
        """Judge the prompt; a refused one ends here."""
        screen = run.job.prompt.screen
        if screen is None or run.usage.unscreened:
            return True
        reaction, bound_nats = screen
        # Nothing precedes the first token; it counts like the second one, so that places are those of the prompt.
        known = [*run.surprises[:1], *run.surprises][: len(run.job.prompt.ids)]
        verdict = text_guard.absurd_suffix(known, bound_nats)
        run.last = None
        if verdict.action == "allow":
            return True
        run.usage.found = verdict.sentence
        if reaction != "flag":
            self._events.append(Failed(run.job.number, BadInput(f"{verdict.sentence} {text_guard.SUFFIX_KEY}")))
        return reaction == "flag"

    def _join(self, run: _Run, logits: Floats) -> None:
        """All samples choose their first token; those that go on become rows."""
        joined = []
        if run.echo is not None and not self._echoed(run, run.echo):
            return
        for index in run.job.rows:
            row = Row(self.session.folder, run.job.prompt, index, run.job.written)
            if self._took(run, row, logits):
                joined.append(_Place(run, row, run.done))
        for place in joined:
            # The prompt's own slot is the first of these or lies behind them all; the copy is in order either way.
            self.pool.copy(self._slot, len(self._places), run.done)
            self._places.append(place)

    def _echoed(self, run: _Run, echo: PromptEcho) -> bool:
        """Send the prompt for every row; whether something is to be written behind it."""
        only = run.job.prompt.max_tokens == 0
        for index in run.job.rows:
            pieces = [*echo.pieces(index), *([echo.end(index)] if only else ())]
            self._events += [Written(run.job.number, piece) for piece in pieces]
        if only:
            self._events.append(Finished(run.job.number, run.usage))
        return not only

    def _decode(self) -> None:
        started_s = self._clock()
        places = self._places
        ids = np.array([[place.row.written[-1]] for place in places], np.int64)
        lengths = [place.length for place in places]
        logits = self.session.decode(self.pool, ids, lengths)
        ended = []
        share = 1.0 / len(places)
        for index, place in enumerate(places):
            place.length += 1
            place.run.usage.steps += share
            if not self._took(place.run, place.row, logits[index]):
                ended.append(index)
        each_s, elsewhere_s = (self._clock() - started_s) * share, self.session.took_elsewhere_s() * share
        for place in places:
            place.run.usage.decode_s += each_s
            place.run.usage.elsewhere_s += elsewhere_s
        self._leave(ended)

    def _took(self, run: _Run, row: Row, logits: Floats) -> bool:
        """Let a row choose; whether it goes on."""
        if run.failed:
            return False
        try:
            piece = row.take(logits)
        except (BadInput, InferenceFailed) as error:
            run.failed = True
            self._events.append(Failed(run.job.number, error))
            return False
        run.usage.tokens += 1
        self._events.append(Written(run.job.number, piece))
        if piece.end is None:
            return True
        run.left -= 1
        if run.left == 0:
            self._events.append(Finished(run.job.number, run.usage))
        return False

    def _leave(self, gone: list[int]) -> None:
        """Take rows out (ascending); the last rows fill the gaps."""
        for index in reversed(gone):
            last = self._places.pop()
            if index < len(self._places):
                self.pool.copy(len(self._places), index, last.length)
                self._places[index] = last
