"""Power cuts: the outbox and the command table after a cut at any moment of their work.

`python -m tests.integration.power_cuts 500` records one run of both (strace), then cuts the power 500 times at random
moments: what was synced is there, of the rest any sector or none. After each cut both are opened again, as at the next
start, and everything that was told to be kept has to be there. `--careless` is the control: the same without syncs.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sqlite3
import tempfile
from collections import Counter
from pathlib import Path

from agent.service.clock import SystemClock
from agent.storage.command_table import CommandRow, CommandTable
from agent.storage.outbox import CLASSES, Outbox
from agent.storage.spool_file import MIN_BYTES
from tests.integration.disk_trace import Event, cut, record
from tests.storage.spools import noise

ROUNDS = 120
_END = "end"


def say(kind: str, *facts: object) -> None:
    os.write(1, (json.dumps([kind, *facts]) + "\n").encode())


# ------------------------------------------------------------------ the work that is recorded


def work(folder: Path, seed: int, careless: bool) -> None:
    """Rows, acknowledgements, a file that runs full, commands; each fact is said once it is on disk."""
    rng = random.Random(seed)
    outbox = Outbox(folder / "outbox.db", 1, MIN_BYTES, 60.0, SystemClock())
    table = CommandTable(folder / "commands.db", 0.0)
    for database in (outbox._spool._db, table._db):
        database.execute("PRAGMA wal_autocheckpoint = 60")  # often, as cuts in it are what is of interest
        if careless:
            database.execute("PRAGMA synchronous = OFF")
    next_number = dict.fromkeys(CLASSES, 0)
    for i in range(ROUNDS):
        for cls, count in (("tlm", rng.randint(0, 25)), ("evt", rng.randint(0, 2))):
            for _ in range(count):
                outbox.append(cls, {"n": next_number[cls], "p": noise(rng.choice((20, 900, 3000)), next_number[cls])})
                next_number[cls] += 1
        if rng.random() < 0.3 and next_number["tlm"]:
            low = rng.randrange(next_number["tlm"])
            say("asked", "tlm", low, low + 9)
            outbox.acknowledge(1, "tlm", None, [(low, low + 9)])
        outbox.flush()
        say("rows", next_number["tlm"], next_number["evt"])
        command(table, f"c{i}", rng)
    say(_END)


def command(table: CommandTable, name: str, rng: random.Random) -> None:
    table.add(CommandRow(name, "d", "drain", {}, None, 1e12, "accepted"), 1.0)
    say("command", name, "accepted")
    if rng.random() < 0.8:
        table.begin(name, 1.0)
        say("command", name, "running")
    if rng.random() < 0.6:
        table.finish(name, "ok", None, None, {"x": "y" * 200}, 1.0)
        say("command", name, "ok")


# ------------------------------------------------------------------ what a start finds


def faults(folder: Path, said: list[list]) -> list[str]:
    """What is wrong after a cut; nothing should be."""
    try:
        outbox = Outbox(folder / "outbox.db", 2, MIN_BYTES, 60.0, SystemClock())
        table = CommandTable(folder / "commands.db", 0.0)
    except Exception as error:  # noqa: BLE001  (the start itself failed: that is the finding)
        return [f"start: {error}"]
    try:
        found = [f"damaged: {text}" for text in (outbox.recovered, table.recovered) if text is not None]
        return found or [*lost_rows(outbox, said), *lost_commands(table, said)]
    finally:
        outbox.stop()
        table.close()


def lost_rows(outbox: Outbox, said: list[list]) -> list[str]:
    told = next((fact[1:] for fact in reversed(said) if fact[0] == "rows"), [0, 0])
    asked = {n for fact in said if fact[0] == "asked" for n in range(fact[2], fact[3] + 1)}
    gaps = {
        (row.payload["cls"], n)
        for row in outbox.rows_after("gap", None, 100_000)
        for n in range(row.payload["from"], row.payload["to"] + 1)
    }
    found = []
    for cls, count in (("tlm", told[0]), ("evt", told[1])):
        rows = {row.seq: row.payload["n"] for row in outbox.rows_after(cls, None, 100_000)}
        found += [f"{cls} {n} lost" for n in range(count) if n not in rows and (cls, n) not in gaps and n not in asked]
        found += [f"{cls} {n} holds row {other}" for n, other in rows.items() if n != other]
        end = max(rows, default=-1)  # beyond what was told too: numbers have no holes
        found += [
            f"{cls} {n} is an untold hole"
            for n in range(count, end)
            if n not in rows and (cls, n) not in gaps and n not in asked
        ]
    return found


def lost_commands(table: CommandTable, said: list[list]) -> list[str]:
    order = ("accepted", "running", "ok")
    told = {fact[1]: fact[2] for fact in said if fact[0] == "command"}
    found = []
    for name, state in told.items():
        row = table.get(name)
        if row is None or order.index(row.state) < order.index(state):
            found.append(f"command {name} was {state}, is {row and row.state}")
    return found


# ------------------------------------------------------------------ cuts


def recorded(folder: Path, seed: int, careless: bool = False) -> list[Event]:
    there = folder / "state"
    there.mkdir()
    arguments = ["-m", "tests.integration.power_cuts", "--work", str(there), "--seed", str(seed)]
    return record([*arguments, *(["--careless"] if careless else [])], there, folder / "trace")


def cuts(events: list[Event], count: int, seed: int, folder: Path) -> dict[str, object]:
    """Cut so many times; how often what went wrong."""
    rng = random.Random(seed)
    wrong: Counter[str] = Counter()
    example = ""
    for n in range(count):
        files, lines = cut(events[: rng.randint(1, len(events))], rng)
        place = folder / f"cut-{n}"
        place.mkdir()
        for path, data in files.items():
            (place / Path(path).name).write_bytes(data)
        found = faults(place, [json.loads(line) for line in lines])
        wrong.update(text.split(":")[0].split()[-1] for text in found)
        example = example or next(iter(found), "")
        shutil.rmtree(place)
    return {"cuts": count, "events": len(events), "faults": sum(wrong.values()), "example": example}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cuts", type=int, nargs="?", default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--careless", action="store_true")
    parser.add_argument("--work", type=Path)
    given = parser.parse_args()
    if given.work is not None:
        work(given.work, given.seed, given.careless)
        return
    with tempfile.TemporaryDirectory(prefix="qeil-cuts-") as name:
        events = recorded(Path(name), given.seed, given.careless)
        found = cuts(events, given.cuts, given.seed, Path(name))
        syncs = sum(event.kind == "sync" for event in events)
        print(json.dumps({"sqlite": sqlite3.sqlite_version, "syncs": syncs, **found}))  # noqa: T201


if __name__ == "__main__":
    main()
