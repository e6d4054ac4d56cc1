"""Early probe: looks at the machine's runtimes in the background while the rest of the agent is being imported."""

from __future__ import annotations

import threading

from agent.backends.probe import RuntimeInventory, probe_runtimes

PROBE_TIMEOUT_S = 60.0


class EarlyProbe:
    """Starts at once; `result` waits for it."""

    def __init__(self, timeout_s: float = PROBE_TIMEOUT_S) -> None:
        self._found: RuntimeInventory | None = None
        self._thread = threading.Thread(target=self._look, args=(timeout_s,), name="probe", daemon=True)
        self._thread.start()

    def _look(self, timeout_s: float) -> None:
        self._found = probe_runtimes(timeout_s)

    def result(self) -> RuntimeInventory:
        """What is here."""
        self._thread.join()
        return self._found or RuntimeInventory(notes=("the runtimes could not be looked at",))
