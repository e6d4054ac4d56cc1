"""Proof by trial that stage models compute what the whole model does: same inputs, same bits, on the CPU provider.

A runtime fuses operators when it loads a graph, so a cut through the middle of what it would fuse changes the order of
sums. Such cuts are found here, by running both. Runs in the child process that cuts (it loads a runtime).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from agent import extras
from agent.errors import ModelLoadFailed
from agent.records import record

Array = np.ndarray[Any, Any]
Signature = tuple[str, str, tuple[int, ...]]
"""Name, type such as float32, shape."""
RUNS = 5
TIMED_S = 2.0
"""Runs of each model that are timed, and the time after which no further one begins."""
MAX_INPUT_BYTES = 256 * 1024 * 1024


@record(frozen=True)
class Trial:
    """What a verification saw. Times are medians on the CPU provider, one request at a time.

    inputs: sets of random inputs on which both ran; differs: an output whose bits differ, None where all agree;
    max_abs_diff: of that output; crossing_bytes: handed on by each stage but the last at the first set's sizes.
    """

    inputs: int
    differs: str | None
    max_abs_diff: float
    whole_s: float
    stage_s: tuple[float, ...]
    crossing_bytes: tuple[int, ...]


def inputs_for(signatures: Sequence[Signature], seed: int = 0) -> dict[str, Array]:
    """Random inputs: normal reals, whole numbers and truths of 0 and 1."""
    rng = np.random.default_rng(seed)
    made: dict[str, Array] = {}
    for name, dtype, shape in signatures:
        if dtype.startswith(("int", "uint", "bool")):
            made[name] = rng.integers(0, 2, shape).astype(np.dtype(dtype))
        elif dtype in ("float16", "float32", "float64"):
            made[name] = rng.standard_normal(shape).astype(np.dtype(dtype))
        else:
            raise ModelLoadFailed(f"a split cannot be checked: input {name!r} is {dtype}")
    return made


class Whole:
    """The uncut model with what it answers to each set of inputs, computed once for any number of trials."""

    def __init__(self, path: Path, variants: Sequence[Sequence[Signature]], threads: int) -> None:
        """The first variant must run; others that the model refuses are left out. Raises ModelLoadFailed."""
        self._threads = threads
        self._model = _Model(path, threads)
        self.cases: list[tuple[dict[str, Array], dict[str, Array]]] = []
        for seed, variant in enumerate(dict.fromkeys(tuple(v) for v in variants)):
            feeds = inputs_for(variant, seed)
            if sum(array.nbytes for array in feeds.values()) > MAX_INPUT_BYTES:
                continue
            try:
                answers = self._model.run(feeds)
            except ModelLoadFailed:
                if seed == 0:
                    raise
                continue
            again = self._model.run(feeds)
            for name, array in answers.items():
                if not same_bits(array, again[name]):
                    raise ModelLoadFailed(f"a split cannot be checked: output {name!r} differs from run to run already")
            self.cases.append((feeds, answers))
        if not self.cases:
            raise ModelLoadFailed(f"a split cannot be checked: its inputs take more than {MAX_INPUT_BYTES >> 20} MiB")

    def trial(self, stages: Sequence[tuple[Path, tuple[str, ...]]], timed: bool = True) -> Trial:
        """Run stage models (path, tensors sent) on every set of inputs. Raises ModelLoadFailed if one does not run."""
        models = [_Model(path, self._threads) for path, _ in stages]
        differs, largest = None, 0.0
        crossing: tuple[int, ...] = ()
        for feeds, answers in self.cases:
            have = dict(feeds)
            for model in models:
                have.update(model.run(have))
            crossing = crossing or tuple(sum(have[name].nbytes for name in sends) for _, sends in stages[:-1])
            for name, array in answers.items():
                if not same_bits(array, have[name]):
                    differs, largest = name, max(largest, _distance(array, have[name]))
        whole_s, stage_s = self._timed(models) if timed else (0.0, ())
        return Trial(len(self.cases), differs, largest, whole_s, stage_s, crossing)

    def _timed(self, models: Sequence[_Model]) -> tuple[float, tuple[float, ...]]:
        """Median seconds of the whole and of each stage, taken in turns so that both see the same machine."""
        feeds = self.cases[0][0]
        whole: list[float] = []
        each: list[list[float]] = [[] for _ in models]
        begun_s = time.perf_counter()
        while len(whole) < RUNS and (not whole or time.perf_counter() - begun_s < TIMED_S):
            at_s = time.perf_counter()
            self._model.run(feeds)
            whole.append(time.perf_counter() - at_s)
            have = dict(feeds)
            for model, seconds in zip(models, each, strict=True):
                at_s = time.perf_counter()
                made = model.run(have)
                seconds.append(time.perf_counter() - at_s)
                have.update(made)
        return median(whole), tuple(median(seconds) for seconds in each)


class _Model:
    """A model on the CPU provider, with the runtime's errors as one line."""

    def __init__(self, path: Path, threads: int) -> None:
        try:
            import onnxruntime as ort  # noqa: PLC0415  (optional package)
        except ImportError as error:
            raise ModelLoadFailed(f"a split cannot be checked without onnxruntime: {extras.command('onnx')}") from error
        state = ort.capi.onnxruntime_pybind11_state
        own = tuple(c for c in vars(state).values() if isinstance(c, type) and issubclass(c, Exception))
        self._errors: tuple[type[Exception], ...] = (*own, RuntimeError, ValueError)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        self._what = path.stem
        try:
            self._session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except self._errors as error:
            raise ModelLoadFailed(f"a split cannot be checked, {self._what} does not load: {_line(error)}") from error
        self._inputs = [entry.name for entry in self._session.get_inputs()]
        self._outputs = [entry.name for entry in self._session.get_outputs()]

    def run(self, have: Mapping[str, Array]) -> dict[str, Array]:
        try:
            answers = self._session.run(self._outputs, {name: have[name] for name in self._inputs})
        except self._errors as error:
            sentence = f"a split cannot be checked, {self._what} does not run on random inputs: {_line(error)}"
            raise ModelLoadFailed(sentence) from error
        for name, answer in zip(self._outputs, answers, strict=True):
            if not isinstance(answer, np.ndarray):
                raise ModelLoadFailed(f"a split cannot be checked: output {name!r} is no tensor")
        return dict(zip(self._outputs, answers, strict=True))


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _distance(one: Array, other: Array) -> float:
    """Largest absolute difference of two arrays; infinite where type or shape differ already."""
    if one.dtype != other.dtype or one.shape != other.shape or one.dtype.kind not in "fiub":
        return float("inf")
    gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
    return float(np.nanmax(gap)) if gap.size and not np.isnan(gap).all() else 0.0


def same_bits(one: Array, other: Array) -> bool:
    """Whether two arrays have one type, one shape and the same bytes (a NaN equals itself)."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    return bool(np.array_equal(one, other)) if one.dtype.kind == "O" else one.tobytes() == other.tobytes()
