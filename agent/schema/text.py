"""Text: what is asked of a language model and what comes back, piece by piece. Plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from agent.errors import QeilError
from agent.records import record
from agent.schema.snapshot import EnergyProvenance


@record(frozen=True)
class TextForm:
    """The form that texts must have. `source`: the schema as JSON, or the grammar; empty for any JSON object."""

    kind: Literal["json", "json_schema", "gbnf"]
    source: str = ""


@record(frozen=True)
class TextRequest:
    """Texts to write. Exactly one of `prompt` (text or token ids) and `messages` (for the chat template) is set."""

    model: str
    prompt: str | tuple[int, ...] | None = None
    messages: tuple[Mapping[str, str], ...] | None = None
    samples: int = 1
    first_sample: int = 0
    """Number of the first one; sample i of a seed is the same text whatever the others are."""
    max_tokens: int | None = None
    """Of each text; None: what the context leaves."""
    stops: tuple[str, ...] = ()
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition: float = 1.0
    seed: int = 0
    logprobs: int | None = None
    """Give the log probability of each token and of so many of the likeliest."""
    echo: bool = False
    """Begin every text with the prompt; `max_tokens` may be 0 then."""
    form: TextForm | None = None
    request_id: str = ""
    screen: tuple[str, float] | None = None
    """Reaction to an absurd end of the prompt and the bound of its surprise in nats; set by the agent."""
    deadline_s: float | None = None
    """Seconds from now; None takes the longest that the policy allows."""
    kept_as: str = ""
    """Name that the computed prompt is kept under, for more samples of the same question; empty: not kept."""


@record(frozen=True)
class TextPiece:
    """One token of one sample; `text` may be empty while a character or a stop string is incomplete."""

    sample: int
    token: int
    text: str
    end: Literal["stop", "length"] | None = None
    logprob: float | None = None
    token_text: str = ""
    likeliest: tuple[tuple[str, float], ...] = ()
    """(text, log probability) of tokens, where `logprobs` were asked for."""
    prompt: bool = False
    """A token of the prompt, for a request with `echo`; token -1 only ends a text."""


@record(frozen=True)
class TextUsage:
    """What texts took. None: unknown.

    compute_s: seconds of the process's cores over its threads, those of shared steps in shares; waiting is not in it.
    """

    prompt_tokens: int
    cached_tokens: int
    tokens: int
    compute_s: float
    energy_j: float | None
    provenance: EnergyProvenance
    energy_reason: str | None = None
    """Why the joules are unknown."""


@record(frozen=True)
class TextDone:
    """All samples ended."""

    usage: TextUsage
    placement: str
    provider: str
    policy_digest: str
    replays: int = 0
    sampling: SamplingReport | None = None


TextEvent = TextPiece | TextDone | QeilError


@record(frozen=True)
class TextModel:
    """A language model that is served: the longest text with its prompt, and how many rows it writes at once."""

    name: str
    ready: bool
    reason: str | None
    context_tokens: int
    rows: int
    since_s: float
    placement: str | None = None
    pid: int | None = None
    """Process of its lane; None while that is down."""
    second_pid: int | None = None
    """Of the lane on a second accelerator."""
    family: str = ""
    """The same for all served precisions and processes of one model; empty: unknown."""
    precision: str = ""
    nats: float | None = None
    """Measured distance of the precision from exact; None: not measured."""
    weight_bytes: int = 0
    token_j: float | None = None
    """Joules and seconds of a written token, prompts counted in; None: unknown."""
    token_s: float | None = None
    cost_from: Literal["answers", "profile", "unknown"] = "unknown"
    """Where they are from: the last answers, or the modelled step of the profile."""
    text_tokens: float | None = None
    """Of a text, mean of the last ones."""


StrategyName = Literal["greedy", "majority", "best-of-n", "beta", "doubling", "csvet"]
AnswerKind = Literal["number", "choice", "text", "code"]
CertifyName = Literal["mode", "majority"]


@record(frozen=True)
class SamplingPlan:
    """How to answer from repeated samples; None leaves it to the policy.

    answer: what of a text is compared – its last number with its unit, the label it names, every character (code), or
    all of it but case, white space and the punctuation around it.
    verify: where sampling ends without a certified answer, ask about the candidates by bits per joule.
    """

    strategy: StrategyName | None = None
    max_samples: int | None = None
    alpha: float | None = None
    worth_j: float | None = None
    budget_j: float | None = None
    budget_s: float | None = None
    budget_c: float | None = None
    threshold: float | None = None
    certify: CertifyName | None = None
    worth_samples: float | None = None
    answer: AnswerKind = "text"
    choices: tuple[str, ...] = ()
    verify: bool = False
    trace: bool = False


@record(frozen=True)
class SampleTrace:
    """One sample as it was judged."""

    sample: int
    answer: str | None
    tokens: int
    mean_logprob: float | None
    energy_j: float | None


@record(frozen=True)
class SampledWith:
    """A served model that does a part of a question, and what a token was expected to take there."""

    model: str
    accelerator: str | None
    token_j: float | None
    token_s: float | None
    cost_from: Literal["answers", "profile", "unknown"]


@record(frozen=True)
class SamplePlaces:
    """Where samples are written and, where that is wanted, verified. front: (samples, verifier, joules, seconds)."""

    samples: SampledWith
    verifier: SampledWith | None
    why: str
    notes: tuple[str, ...] = ()
    front: tuple[tuple[str, str | None, float, float], ...] = ()


@record(frozen=True)
class SamplingReport:
    """What repeated sampling did. `certified` is the smallest error probability at which `answer` is certified.

    statement: what is claimed of the answer, and no more. confidence: of the weighted votes, in [0, 1], calibrated on
    `outcomes` answers whose truth was told. checks: (answer, check, outcome, joules, belief afterwards). certifies:
    what is certified at alpha, None for nothing.
    """

    strategy: StrategyName
    samples_used: int
    answered: int
    answer: str | None
    agreement: float
    confidence: float | None
    stop_reason: str
    alpha: float
    certified: float
    statement: str
    energy_j: float | None
    provenance: EnergyProvenance
    checks: tuple[tuple[str, str, str, float, float], ...] = ()
    notes: tuple[str, ...] = ()
    trace: tuple[SampleTrace, ...] = ()
    outcomes: int = 0
    certifies: CertifyName | None = None
    places: SamplePlaces | None = None


@record(frozen=True)
class SourceScore:
    """How often a source's answers were right: expected share, its standard deviation, questions behind it (faded)."""

    model: str
    task: str
    accelerator: str
    reliability: float
    deviation: float
    evidence: float


@record(frozen=True)
class CheckRate:
    """Share of right and of wrong answers that pass a check of the verification."""

    name: str
    passes_right: float
    passes_wrong: float


@record(frozen=True)
class AnswerScores:
    """What was learnt from answers whose truth was told. Brier score and calibration error are of the last 500."""

    outcomes: int
    sources: tuple[SourceScore, ...]
    sick: tuple[str, ...]
    brier: float | None
    calibration_error: float | None
    checks: tuple[CheckRate, ...]


@record(frozen=True)
class AnswerTold:
    """An answer whose truth was told. `right` None: none had been given."""

    id: str
    model: str
    right: bool | None
    scores: AnswerScores
