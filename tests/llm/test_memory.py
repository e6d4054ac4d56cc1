"""What a decoder's process holds does not grow with the texts it has written."""

from __future__ import annotations

import numpy as np

from agent.backends.vitals import rss_bytes
from agent.llm.folder import open_folder
from agent.llm.importer import import_gguf
from agent.llm.kv_pool import KvPool
from agent.llm.session import DecoderSession
from tests.llm.reference import write_model

STEPS, WARM = 2000, 500
"""Each of a length of its own. A plan of each would take about 1.8 kB with two layers."""
ALLOWED_BYTES = 1_000_000


def test_steps_of_ever_new_lengths_leave_nothing_behind(tmp_path):
    folder = open_folder(import_gguf(write_model(tmp_path / "m.gguf", context=4096), tmp_path / "tiny").folder)
    session = DecoderSession(folder, threads=1)
    pool = KvPool(folder, 1, STEPS + 1)
    rows, ids = pool.rows_of(0, 1), np.array([[5]], np.int64)
    for layer in rows:
        layer[...] = 0.0  # every page is there before it is measured
    before_bytes = 0
    for length in range(1, STEPS):
        session.forward(rows, ids, [length])
        if length == WARM:
            before_bytes = rss_bytes()
    assert rss_bytes() - before_bytes < ALLOWED_BYTES
