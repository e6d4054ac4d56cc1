"""Model set and policy changes: plans on its own thread, then hands the plan to the supervisor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from agent.errors import BadInput, PlacementError, QeilError
from agent.placement.state import State
from agent.schema.policy import Policy
from agent.schema.settings import ModelEntry
from agent.schema.snapshot import AgentSnapshot
from agent.service.mail import Event, PlanEvent, PolicyRejectedEvent
from agent.service.planning.plan import Plan
from agent.service.planning.planner_process import Plans, Stopping
from agent.service.policy_watch import PolicyEdit
from agent.service.serving.inference import unknown_model
from agent.service.serving.serving_state import InForce
from agent.storage import yaml_files

MAX_PENDING_PLANS = 16


class ModelSet:
    """Which configured models are wanted, and every re-plan that follows from an edit or a load/unload call."""

    def __init__(
        self,
        configured: Callable[[], tuple[ModelEntry, ...]],
        planner: Plans,
        in_force: Callable[[], InForce],
        snapshot: Callable[[], AgentSnapshot],
        post: Callable[[Event], None],
        state: Callable[[AgentSnapshot, Plan], State] = lambda *_: State(),
        wanted: Callable[[], InForce] | None = None,
    ) -> None:
        """`state(snapshot, plan)` is the board as it is now, under the plan in force.

        `wanted()` is what the supervisor brings up, or has in force; None: what is in force.
        """
        self._configured = configured
        self._wanted = {m.name: m for m in configured()}
        self._planner = planner
        self._in_force = in_force
        self._snapshot = snapshot
        self._post = post
        self._state = state
        self._lock = threading.Lock()
        self._pending = 0
        self._being_brought_up = wanted or in_force
        self._handed: PlanEvent | None = None
        self._edit: Policy | None = None
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="planner")

    def edited(self, edit: PolicyEdit) -> None:
        """A policy file changed; plan under it or report why not."""
        if edit.policy is None:
            self._post(PolicyRejectedEvent(edit.error or "unreadable"))
            return
        with self._lock:
            waiting, self._edit = self._edit is not None, edit.policy
        if not waiting:  # edits that come quicker than plans are made: the newest one counts
            self._executor.submit(self._plan_edit)

    def _plan_edit(self) -> None:
        with self._lock:
            policy, self._edit = self._edit, None
            self._pending += 1
        if policy is not None:
            self._plan(policy, f"policy {policy.name} edited", Future())

    def change(self, name: str, load: bool) -> Future[None]:
        """Serve a configured model or stop serving it; the future completes when the plan is handed over.

        It fails with BadInput where this model's file is what cannot be placed; what was served goes on.
        """
        done: Future[None] = Future()
        self.want(name, load).add_done_callback(lambda proposed: _forward(proposed, done, name))
        return done

    def want(self, name: str, load: bool) -> Future[InForce]:
        """As `change`; the future tells what was handed over. NotFound for a model that is not configured."""
        known = {m.name: m for m in self._configured()}
        if name not in known:
            raise unknown_model(name, [*known, *(m.name for m in self._snapshot().models)])
        with self._lock:
            if load:
                self._wanted[name] = known[name]
            else:
                self._wanted.pop(name, None)
        return self.propose(None, f"model {name} {'load' if load else 'unload'}")

    def select(self, names: Sequence[str] | None) -> dict[str, ModelEntry]:
        """Want exactly these (None: all that are configured) from the next plan on; what was wanted, for `restore`.

        NotFound names the first that is not configured.
        """
        known = {m.name: m for m in self._configured()}
        unknown = [name for name in names or () if name not in known]
        if unknown:
            raise unknown_model(unknown[0], list(known))
        with self._lock:
            before = self._wanted
            self._wanted = {name: known[name] for name in (known if names is None else names)}
            return before

    def restore(self, wanted: dict[str, ModelEntry]) -> None:
        """Want again what was wanted before, from the next plan on."""
        with self._lock:
            self._wanted = dict(wanted)

    def propose(self, policy: Policy | None, why: str) -> Future[InForce]:
        """Plan the wanted models under a policy and hand the plan to the supervisor.

        None: the policy that is wanted when this plan's turn comes, so that it never undoes a change made meanwhile.

        The future fails with PlacementError where a model that is placed now could not be placed.
        """
        done: Future[InForce] = Future()
        with self._lock:
            if self._pending >= MAX_PENDING_PLANS:
                done.set_exception(QeilError("too many changes at once; try again"))
                return done
            self._pending += 1
        self._executor.submit(self._plan, policy, why, done)
        return done

    def _policy(self) -> Policy:
        """What is wanted now: of the last plan handed over too, where the supervisor has not taken it yet."""
        handed = self._handed
        if handed is not None and not handed.taken.is_set():
            return handed.wanted.policy
        return self._being_brought_up().policy

    def _plan(self, policy: Policy | None, why: str, done: Future[InForce]) -> None:
        try:
            policy = policy or self._policy()
            digest = yaml_files.digest(policy)
            with self._lock:
                wanted = tuple(self._wanted.values())
            running = self._in_force().plan
            plan = self._planner.plan(policy, digest, wanted, self._state(self._snapshot(), running), running)
            unplaceable = self._lost(plan)
            if unplaceable:
                cause = f"policy {policy.name}: {unplaceable}"
                self._post(PolicyRejectedEvent(cause))
                done.set_exception(PlacementError(cause))
                return
            proposed = InForce(policy, digest, plan)
            self._handed = PlanEvent(proposed, why)
            self._post(self._handed)
            done.set_result(proposed)
        except Stopping as error:
            done.set_exception(error)
        except Exception as error:  # noqa: BLE001  (thread root: the caller's future carries it)
            done.set_exception(error)
            self._post(PolicyRejectedEvent(f"planning failed: {error}"))
        finally:
            with self._lock:
                self._pending -= 1

    def _lost(self, plan: Plan) -> str | None:
        """Models that can be placed now and could not under the new plan."""
        for model in plan.models:
            old = self._in_force().plan.model(model.name)
            if not model.candidates and old is not None and old.candidates:
                return f"model {model.name} cannot be placed ({model.reason})"
        return None

    def planning(self) -> bool:
        """Whether a plan is being made or waits for its turn."""
        with self._lock:
            return self._pending > 0

    def stop(self) -> None:
        """No further plans."""
        self._executor.shutdown(wait=False, cancel_futures=True)


def _forward(proposed: Future[InForce], done: Future[None], name: str) -> None:
    """What another model forbids is heard of by the condition, as with a file; what this one forbids is the answer."""
    if not done.set_running_or_notify_cancel():
        return  # whoever asked has hung up
    error = proposed.exception()
    if isinstance(error, PlacementError) and f"model {name} cannot be placed" in error.message:
        done.set_exception(BadInput(f"{error.message}; what was served goes on"))
    elif error is None or isinstance(error, PlacementError):
        done.set_result(None)
    else:
        done.set_exception(error)
