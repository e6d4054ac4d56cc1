"""Power cuts of a whole machine: its kernel, its ext4 and its drive's cache, with the outbox and commands on it.

    apt-get install qemu-system-x86 && apt-get download linux-image-VERSION-cloud-amd64
    python -m tests.integration.qemu_cuts linux-image-*.deb [--cuts 10]

A virtual machine writes rows and commands to an ext4 on a drive whose cache forgets, and says on its console what is
on disk. QEMU gets `kill -9` at a random moment, the drive loses whatever it likes of what was not flushed, the machine
starts again and checks that everything that was said is there. `--careless` is the control: a drive that says
"flushed" before it is.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tests.integration import guest
from tests.integration.volatile_disk import Served, VolatileDisk

DISK_BYTES = 64 * 1024 * 1024
FACTS_BYTES = 8 * 1024 * 1024
START_S = 180.0


def formatted(folder: Path) -> bytes:
    """An ext4 as an installer makes it."""
    image = folder / "image"
    image.write_bytes(bytes(DISK_BYTES))
    subprocess.run(["/sbin/mkfs.ext4", "-q", "-F", str(image)], check=True)
    return image.read_bytes()


class Machine:
    """One start. `said` grows while it runs."""

    def __init__(self, command: list[str], log: Path) -> None:
        self.said: list[list[Any]] = []
        self.strange: list[str] = []
        self._log = log.open("wb")
        self._process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._log)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode(errors="replace").strip()
            try:
                found = json.loads(text)
            except ValueError:
                self.strange.append(text)
                continue
            if line.endswith(b"\n") and isinstance(found, list):
                self.said.append(found)

    def first(self, kinds: set[str]) -> list[Any] | None:
        """The first fact of a kind, once it is said; None where the machine ended or took too long."""
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s:
            found = next((fact for fact in list(self.said) if fact[0] in kinds), None)
            if found is not None or self._process.poll() is not None:
                return found
            time.sleep(0.01)
        return None

    def cut(self) -> None:
        """kill -9; what was on its way on the console is read."""
        self._process.kill()
        self._process.wait(30)
        self._thread.join(30)
        self._log.close()


def run(package: Path, cuts: int, seed: int, careless: bool, accelerator: str, folder: Path) -> dict[str, Any]:
    rng = random.Random(seed)
    kernel, modules = guest.kernel_of(package, folder / "kernel")
    memory, facts = folder / "memory", folder / "facts"
    memory.write_bytes(guest.initial_memory(guest.loaded_files(), modules))
    disk = VolatileDisk(formatted(folder))
    said: list[list[Any]] = []
    told = lost_sectors = 0
    found: list[str] = []
    for n in range(cuts + 1):  # the last start only checks
        facts.write_bytes(json.dumps({"said": said, "seed": seed + n}).encode().ljust(FACTS_BYTES, b"\0"))
        path = folder / f"disk-{n}"
        served = Served(disk, path, careless)
        machine = Machine(guest.command(kernel, memory, path, facts, accelerator), folder / "log")
        begun = machine.first({"begun", "guest"})
        checked = next((fact for fact in machine.said if fact[0] == "found"), None)
        if begun is None or begun[0] == "guest" or (said and checked is None):
            found.append(f"start {n}: {begun or machine.strange[-3:]}")
        found += checked[1] if checked is not None else []
        if not found and n < cuts:
            time.sleep(rng.uniform(0.2, 15.0))
        machine.cut()
        served.stop()
        lost_sectors += disk.cut(rng)
        said = [fact for fact in machine.said if fact[0] in {"rows", "asked", "command"}]
        rows = next((fact for fact in reversed(said) if fact[0] == "rows"), ["rows", 0, 0])
        told += rows[1] + rows[2] + sum(fact[0] == "command" for fact in said)
        if found or n == cuts:
            return {
                "kernel": kernel.name, "cuts": min(n + 1, cuts), "told": told, "sectors_lost": lost_sectors,
                "flushes": disk.flushes, "faults": len(found), "example": next(iter(found), ""),
            }  # fmt: skip
    raise AssertionError


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("package", type=Path, help="linux-image-*.deb")
    parser.add_argument("--cuts", type=int, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--accelerator", default="tcg", choices=("tcg", "kvm"), help="kvm inside a machine may hang")
    parser.add_argument("--careless", action="store_true")
    given = parser.parse_args()
    if guest.emulator() is None:
        raise SystemExit("qemu-system-x86_64 is not installed: apt-get install qemu-system-x86")
    with tempfile.TemporaryDirectory(prefix="qeil-qemu-") as name:
        found = run(given.package, given.cuts, given.seed, given.careless, given.accelerator, Path(name))
    print(json.dumps(found))  # noqa: T201
    return int(found["faults"] > 0)


if __name__ == "__main__":
    raise SystemExit(main())
