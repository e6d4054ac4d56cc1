"""`qeil evaluate`: questions put to a served model, and what each sampling strategy makes of its samples."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from agent.cli import evaluate_live
from agent.cli.evaluation_tables import print_evaluation, print_perplexity
from agent.errors import BadInput, QeilError

if TYPE_CHECKING:
    from types import TracebackType

    from agent.evaluation.questions.document import Worth
    from agent.evaluation.questions.journal import Samples
    from agent.evaluation.questions.question import Questions
    from agent.evaluation.questions.scoring import Answered

FILES = ("gsm8k", "arc")
GENERATED = ("arithmetic", "logic", "choice", "sums", "additions")
DEFAULT_SAMPLES = 16
MAX_PARALLEL = 64
DEFAULT_COMPARED = "greedy,majority,beta,beta-matched,doubling,csvet,csvet-majority"


@click.command("evaluate")
@click.option("--dataset", type=click.Choice([*FILES, "wikitext", *GENERATED]), help="what to ask")
@click.option("--data", type=click.Path(path_type=Path), help="the data set's own file, for gsm8k, arc and wikitext")
@click.option("--model", help="as the server names it, or a folder made by `qeil models import`")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM file of the authority that signed the server's "
              "certificate [env var: QEIL_CA]")  # fmt: skip
@click.option("--url", help="an OpenAI-compatible server; left out: the folder runs in this process")
@click.option("--mode", help="of a folder: exact (default) or fast")
@click.option("--questions", type=click.IntRange(1, 1_000_000), help="at most so many [default: all, generated: 200]")
@click.option("--samples", type=click.IntRange(1, 1024),
              help="per question [default: 16; with --replay as many as the run has]")  # fmt: skip
@click.option("--max-tokens", type=click.IntRange(1, 65536), default=256, show_default=True, help="per sample")
@click.option("--temperature", type=click.FloatRange(0.0, 5.0), default=0.7, show_default=True, help="of the samples")
@click.option("--ask", type=click.Choice(["steps", "direct"]), default="steps", show_default=True,
              help="for numbers: with the way to the answer, or the answer alone")  # fmt: skip
@click.option("--alpha", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05, show_default=True,
              help="error probability that csvet certifies at")  # fmt: skip
@click.option("--worth-j", type=click.FloatRange(0, min_open=True), help="joules that a right answer is worth")
@click.option("--worth-samples", type=click.FloatRange(0, min_open=True),
              help="the same in samples: what so many of them cost")  # fmt: skip
@click.option("--price-usd", type=click.FloatRange(0, min_open=True), help="price of the board, for PPP")
@click.option("--compare", default=DEFAULT_COMPARED, show_default=True, help="strategies, with commas")
@click.option("--parallel", type=click.IntRange(1, MAX_PARALLEL), default=1, show_default=True,
              help="questions in flight at a server, so that their samples share its batches")  # fmt: skip
@click.option("--live", metavar="STRATEGIES",
              help="instead of a pool: an agent answers every question by each of these, with commas")  # fmt: skip
@click.option("--verify", is_flag=True, help="also ask checks about the answers, for the cascade of checks (EAC)")
@click.option("--verifier", help="program that is the dear check: JSON on stdin, exit status 0 right, 1 wrong")
@click.option("--verifier-j", type=click.FloatRange(0), default=20.0, show_default=True,
              help="joules that one call of the program is said to cost")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help="of generated questions and of the samples")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path, file_okay=False),
              help="folder of the run; the same again resumes it")  # fmt: skip
@click.option("--replay", type=click.Path(path_type=Path, exists=True),
              help="folder or samples.jsonl[.gz] of a run: compare on its samples, ask nothing")  # fmt: skip
@click.option("--report", type=click.Path(path_type=Path, dir_okay=False), help="also write an HTML report")
@click.option("--json", "as_json", is_flag=True, help="everything as JSON")
def evaluate_command(**options: Any) -> None:
    """Ask MODEL every question several times and show what each strategy would have answered, and at what cost.

    Samples are kept in --out as they come: a run that was interrupted goes on where it was and ends with the same
    result. QEIL_API_KEY is sent as the bearer token if it is set. With --replay the samples of a run are compared
    anew, without a model; it takes the options of the comparison, and --data where the questions are of a file.
    """
    if options["replay"] is not None:
        _shown(_replayed(options), options)
        return
    options["samples"] = options["samples"] or DEFAULT_SAMPLES
    _refuse_contradictions(options)
    endpoints = [_asked(options) for _ in range(options["parallel"])]
    try:
        wikitext = options["dataset"] == "wikitext"
        document = _perplexity(endpoints[0], options) if wikitext else _questions(endpoints, options)
    finally:
        for endpoint in endpoints:
            endpoint.close()
    _shown(document, options)


def _refuse_contradictions(options: dict[str, Any]) -> None:
    """Raise BadInput for options that do not go together or cannot be kept, before anything is asked."""
    if options["verifier"] is not None and not options["verify"]:
        raise BadInput("--verifier names the program of a check, which needs --verify")
    for name in ("dataset", "model", "out"):
        if options[name] is None:
            raise BadInput(f"--{name} is missing; a run needs --dataset, --model and --out, a comparison --replay")
    if options["dataset"] == "wikitext" or options["dataset"] in FILES:
        if options["data"] is None:
            raise BadInput(f"--dataset {options['dataset']} needs --data FILE, the data set's own file")
    elif options["data"] is not None:
        raise BadInput(f"--dataset {options['dataset']} is generated and takes no --data")
    _refuse_misplaced(options)


def _refuse_misplaced(options: dict[str, Any]) -> None:
    if options["dataset"] == "wikitext" and (options["report"] is not None or options["verify"]):
        raise BadInput("--report and --verify are of questions; wikitext has one figure, which is printed (--json)")
    if options["url"] is not None and options["mode"] is not None:
        raise BadInput("--mode is of a folder; a server runs its models in modes of its own, so --url takes none")
    evaluate_live.refuse_misplaced(options)
    if options["verifier"] is not None:
        from agent.evaluation.questions.checks import Program

        Program(options["verifier"], options["verifier_j"]).argv()  # refused before the work


def _shown(document: dict[str, Any], options: dict[str, Any]) -> None:
    if options["as_json"]:
        click.echo(json.dumps(document, indent=1, ensure_ascii=False))
        return
    if "live" in document:
        evaluate_live.print_live(document)
        return
    if options["dataset"] == "wikitext":
        print_perplexity(document)
        return
    print_evaluation(document)
    if options["report"] is not None:
        click.echo(f"report: {options['report']}")


def _asked(options: dict[str, Any]) -> Any:
    """What the questions are put to."""
    limits = options["max_tokens"], options["temperature"]
    if options["url"] is not None:
        from agent.cli.agent_connection import of_server
        from agent.evaluation.questions.endpoint import Endpoint

        reach, context = of_server(options["url"], options["ca"])
        return Endpoint(options["url"], options["model"], *limits, reach.api_key, context)
    from agent.evaluation.questions.decoder import Decoder

    path = Path(options["model"])
    if not path.is_dir():
        raise BadInput(f"--model {path} is no folder; give --url for a model that a server has")
    return Decoder(path, *limits, os.cpu_count() or 1, options["mode"])


def _questions(endpoints: list[Any], options: dict[str, Any]) -> dict[str, Any]:
    from agent.evaluation.questions import document
    from agent.evaluation.questions.journal import Journal
    from agent.evaluation.questions.running import run

    strategies = document.strategies(
        _names(options), options["samples"], options["alpha"], _worth(options), ()
    )  # refused before the work
    questions = _load(options)
    header = {
        "dataset": questions.name, "questions": len(questions.questions), "model": options["model"],
        "seed": options["seed"], "max_tokens": options["max_tokens"], "temperature": options["temperature"],
    }  # fmt: skip
    if options["ask"] != "steps":
        header["ask"] = options["ask"]  # left out otherwise: runs from before the option go on
    header |= {"questions_sha256": questions.digest(), **_where(options)}
    if options["live"] is not None:
        return evaluate_live.asked_live(questions, endpoints, strategies, header, options, _Progress)
    journal = Journal(options["out"], header)
    try:
        _told_of(journal.header, options["out"])
        with _Progress() as progressed:
            failed = run(questions, endpoints, journal, options["samples"], options["seed"], progressed, options["ask"])
        questions = _without(questions, failed)
        results = document.answered(questions, journal, options["samples"])
        if options["verify"]:
            _check(questions, endpoints[0], journal, options)
    finally:
        journal.close()
    return _compared(questions, results, journal, options, options["out"])


def _where(options: dict[str, Any]) -> dict[str, str | None]:
    """What answers, for the header of a run: a server without what signs in to it, or a folder and its mode."""
    if options["url"] is None:
        return {"url": None, "mode": options["mode"] or "exact"}
    return {"url": options["url"].rpartition("@")[2].rstrip("/"), "mode": None}


def _told_of(header: dict[str, Any], run: Path) -> None:
    """Say once that a recording does not tell which questions it is of."""
    if "questions_sha256" not in header:
        click.echo(f"‼ {run} holds no digest of its questions: that they are these is taken on trust", err=True)


def _without(questions: Questions, failed: dict[str, str]) -> Questions:
    """The questions that were answered; the others are counted, and the first of them named."""
    from agent.evaluation.questions.question import Questions as Kept

    kept = tuple(question for question in questions.questions if question.id not in failed)
    for name, why in list(failed.items())[:1]:
        said = f"{len(failed)} questions failed, the first, {name}, because {why}"
        if not kept:
            raise QeilError(f"no question was answered: {said}")
        click.echo(f"‼ {said}; they are left out, and asked again when the run is resumed", err=True)
    return Kept(questions.name, kept, questions.skipped)


def _check(questions: Questions, endpoint: Any, journal: Samples, options: dict[str, Any]) -> None:
    """Ask every check about every candidate answer, from where the run was."""
    from agent.evaluation.questions.checks import CheckBook, Program, check_all

    program = Program(options["verifier"], options["verifier_j"]) if options["verifier"] is not None else None
    header = {"verifier": options["verifier"] or "derived again", "samples": options["samples"]}
    book = CheckBook(options["out"], header)
    try:
        with _Progress() as progressed:
            for done, question in enumerate(questions.questions, start=1):
                pool = journal.samples(question.id)[: options["samples"]]
                check_all(question, pool, endpoint, book, options["seed"], options["ask"], program)
                progressed(done, len(questions.questions))
    finally:
        book.close()


def _compared(
    questions: Questions, results: list[Answered], drawn: Samples, options: dict[str, Any], run: Path
) -> dict[str, Any]:
    """What the strategies make of the samples, and the report of it where one is asked for."""
    from agent.evaluation.questions import document, report

    compared = document.strategies(
        _names(options), len(results[0].pool), options["alpha"], _worth(options), results
    )  # fmt: skip
    model = str(drawn.header["model"])
    checks = _cascaded(questions, results, run, options)
    made = document.build(questions, model, results, compared, drawn.provenance(), options["price_usd"], checks)
    if options["report"] is not None:
        report.write(made, options["report"])
    return made


def _cascaded(
    questions: Questions, results: list[Answered], run: Path, options: dict[str, Any]
) -> dict[str, Any] | None:
    """The cascade on the verdicts of the run; None where none were recorded, or their joules are unknown."""
    from agent.evaluation.questions import document, eac
    from agent.evaluation.questions.checks import CheckBook

    book = CheckBook(run, None)
    if not len(book):
        return None
    strategy = document.strategies(["qeil"], len(results[0].pool), options["alpha"], _worth(options), ())["qeil"]
    found = eac.measured(results, book, strategy, questions.name)
    if found is None:
        click.echo("‼ no cascade: checks or joules of some answers are missing", err=True)
    return found


def _worth(options: dict[str, Any]) -> Worth | None:
    from agent.evaluation.questions.document import Worth

    joules, samples = options["worth_j"], options["worth_samples"]
    if joules is not None and samples is not None:
        raise BadInput("--worth-j and --worth-samples say the same in two ways; give one")
    if joules is not None:
        return Worth(joules, "J")
    return None if samples is None else Worth(samples, "samples")


def _names(options: dict[str, Any]) -> list[str]:
    return [name.strip() for name in (options["live"] or options["compare"]).split(",") if name.strip()]


def _replayed(options: dict[str, Any]) -> dict[str, Any]:
    """The comparison on the samples of a run; questions whose pool is not full are left out, which is said."""
    from agent.evaluation.questions import document
    from agent.evaluation.questions.journal import recorded
    from agent.evaluation.questions.question import Questions

    for name in ("dataset", "model", "url", "out", "verify", "live"):
        if options[name]:
            raise BadInput(f"--replay asks nothing, so --{name} does not go with it")
    if evaluate_live.is_live(options["replay"]):
        return evaluate_live.replayed_live(
            options["replay"], lambda header: _load({**options, **_source(header, options["data"])})
        )
    drawn = recorded(options["replay"])
    options = {**options, **_source(drawn.header, options["data"])}
    asked = _load(options)
    _told_of(drawn.header, options["replay"])
    if drawn.header.get("questions_sha256", asked.digest()) != asked.digest():
        raise BadInput(f"{options['replay']} is of other questions than {options['data'] or 'its seed makes now'}")
    options["samples"] = options["samples"] or max((len(drawn.samples(q.id)) for q in asked.questions), default=0) or 1
    whole = [q for q in asked.questions if q.id in drawn.greedy and len(drawn.samples(q.id)) >= options["samples"]]
    if not whole:
        raise BadInput(f"{options['replay']}: no question has {options['samples']} samples; ask for fewer by --samples")
    if len(whole) < len(asked.questions):
        click.echo(f"‼ {len(asked.questions) - len(whole)} questions of the run have fewer samples: left out", err=True)
    questions = Questions(asked.name, tuple(whole), asked.skipped)
    run = options["replay"] if options["replay"].is_dir() else options["replay"].parent
    return _compared(questions, document.answered(questions, drawn, options["samples"]), drawn, options, run)


def _source(header: dict[str, Any], data: Path | None) -> dict[str, Any]:
    """Where the questions of a recording come from: its generator, or the file that is given again."""
    count = header.get("questions")
    task = str(header.get("dataset", "")).rpartition("-")[0]
    if data is not None:
        return {"dataset": FILES[0], "data": data, "questions": count}
    if task not in GENERATED:
        raise BadInput(f"the run is of the file {header.get('dataset')}: give it by --data")
    return {"dataset": task, "questions": count, "seed": header.get("seed")}


def _load(options: dict[str, Any]) -> Questions:
    from agent.evaluation.questions import generated, reading

    if options["dataset"] in FILES:
        return reading.read(options["data"], options["questions"])
    try:
        lines = generated.lines(options["dataset"], options["questions"] or 200, options["seed"])
    except ValueError as error:
        raise BadInput(f"--questions {options['questions']}: {error}") from error
    return reading.parsed(f"{options['dataset']}-{options['seed']}", lines)


def _perplexity(endpoint: Any, options: dict[str, Any]) -> dict[str, Any]:
    from agent.evaluation.questions import perplexity

    header = {"model": options["model"], **_where(options)}
    with _Progress() as progressed:
        return perplexity.measure(options["data"], endpoint, options["questions"], progressed, options["out"], header)


class _Progress:
    """A progress bar with the time left on stderr that stays out of pipes."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import Progress

        console = Console(stderr=True)
        self._bar = Progress(console=console, transient=True, disable=not console.is_terminal)
        self._task = self._bar.add_task("samples", total=None)

    def __enter__(self) -> Callable[[int, int], None]:
        self._bar.start()
        return self._report

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._bar.stop()

    def _report(self, step: int, steps: int) -> None:
        self._bar.update(self._task, completed=step, total=steps)
