"""Inference service: what the HTTP edge sees of the agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future

from agent.errors import BadInput, NotFound, QeilError
from agent.ports import InferenceAnswer, InferenceRequest, ModelMetadata, RequestLimits
from agent.schema.metric import Histogram, Metric
from agent.schema.snapshot import AgentSnapshot
from agent.service import metrics
from agent.service.serving.dispatcher import Dispatcher
from agent.service.serving.input_screen import InputScreen
from agent.service.serving.newer_settings import NewerSettings
from agent.service.supervisor import Supervisor


class AgentInference:
    """Thin, thread-safe and non-blocking: everything is asked of the dispatcher or read from a snapshot."""

    def __init__(
        self, supervisor: Supervisor, dispatcher: Dispatcher, change_models: Callable[[str, bool], Future[None]],
        screen: InputScreen | None = None, texts: Callable[[], Mapping[str, Histogram]] = dict,
        newer: NewerSettings | None = None,
    ) -> None:  # fmt: skip
        """`change_models(name, load)` loads or unloads a configured model; `screen` stands before the dispatcher.

        texts: latencies of language models, which the dispatcher does not serve. newer: the settings file, for who
        asks for a model that was added to it since the start.
        """
        self._texts = texts
        if newer is not None:
            dispatcher.newer = newer.hint
        self._conditions = metrics.ConditionsSeen()
        self._screen = screen
        self.infer: Callable[[InferenceRequest], Future[InferenceAnswer]]
        """Guard, admit, run."""
        self.infer = dispatcher.infer if screen is None else screen.infer
        self._supervisor = supervisor
        self._dispatcher = dispatcher
        self._change_models = change_models
        admission = supervisor.in_force.policy.admission
        self._limits = admission, RequestLimits(admission.max_body_bytes, admission.max_json_body_bytes)

    def models(self) -> tuple[ModelMetadata, ...]:
        """All models of the plan in force."""
        return self._dispatcher.metadata()

    def model(self, name: str) -> ModelMetadata:
        """One model; NotFound with the nearest known name, or where a language model is asked instead."""
        try:
            return self._dispatcher.routes(name).metadata
        except NotFound as error:
            if self._is_text(name):
                raise NotFound(
                    f"{name!r} is a language model; ask it at /v1/chat/completions or /v1/completions, or with: "
                    f'qeil generate {name} "TEXT"'
                ) from error
            raise

    def newer(self, model: str) -> str:
        """Whether the settings name it since the agent was started, and what to do then."""
        return self._dispatcher.newer(model)

    def load_model(self, name: str) -> Future[None]:
        """Serve a configured model again."""
        return self._guarded(name, load=True)

    def unload_model(self, name: str) -> Future[None]:
        """Stop serving a model; its configuration stays."""
        return self._guarded(name, load=False)

    def _is_text(self, name: str) -> bool:
        """Whether it is served, and not by the dispatcher. Only for names that the dispatcher does not know."""
        return any(model.name == name for model in self._supervisor.snapshot.models)

    def _guarded(self, name: str, load: bool) -> Future[None]:
        try:
            if name not in {model.name for model in self.models()} and self._is_text(name):
                raise BadInput(f"{name!r} is a language model: the settings alone decide whether it is served")
            return self._change_models(name, load)
        except QeilError as error:
            newer = self.newer(name) if isinstance(error, NotFound) else ""
            failed: Future[None] = Future()
            failed.set_exception(NotFound(error.message + newer) if newer else error)
            return failed

    def snapshot(self) -> AgentSnapshot:
        """The latest."""
        return self._supervisor.snapshot

    def limits(self) -> RequestLimits:
        """Bounds of the policy in force."""
        admission = self._supervisor.in_force.policy.admission
        if self._limits[0] is not admission:
            self._limits = admission, RequestLimits(admission.max_body_bytes, admission.max_json_body_bytes)
        return self._limits[1]

    def live(self) -> bool:
        """Whether the supervisor ticks."""
        return self._supervisor.alive()

    def ready(self) -> bool:
        """Whether every model can be served now."""
        tensors = self.models()
        others = {m.name for m in tensors}
        texts = (m for m in self._supervisor.snapshot.models if m.name not in others)
        return self.live() and all(m.ready for m in tensors) and all(m.state == "ready" for m in texts)

    def metrics(self) -> tuple[Metric, ...]:
        """For Prometheus."""
        supervisor = self._supervisor
        known = metrics.collect(supervisor.snapshot, self._dispatcher, supervisor.mailbox_dropped, self._conditions)
        found = () if self._screen is None else (metrics.guarded(self._screen.counts),)
        return (*known, metrics.latencies(self._dispatcher, self._texts()), *found)


def unknown_model(name: str, known: list[str]) -> NotFound:
    """The error for a model that the settings do not have; known may name one twice."""
    listed = ", ".join(sorted(set(known))) or "none"
    return NotFound(f"there is no model {name!r} in the settings or the store (known: {listed})")
