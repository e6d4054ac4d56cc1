"""Guest: a virtual machine of Debian's kernel and this interpreter, with nothing else in it."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterable
from importlib.util import cache_from_source
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MODULES = (
    "virtio", "virtio_ring", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "crc16",
    "mbcache", "jbd2", "crc32c_generic", "ext4",
)  # fmt: skip
_COLLECT = """
import sys, tempfile, pathlib
from tests.integration import guest_init, power_cuts
power_cuts.ROUNDS = 2
power_cuts.say = lambda *_: None
with tempfile.TemporaryDirectory() as name:
    power_cuts.work(pathlib.Path(name), 1, False)
    power_cuts.faults(pathlib.Path(name), [["rows", 0, 0]])
print("\\n".join(str(m.__file__) for m in list(sys.modules.values()) if getattr(m, "__file__", None)))
"""


def kernel_of(package: Path, folder: Path) -> tuple[Path, list[Path]]:
    """The kernel of a Debian package, and those of its modules that a disk needs."""
    subprocess.run(["dpkg-deb", "-x", str(package), str(folder)], check=True)
    kernel = next((folder / "boot").glob("vmlinuz-*"))
    found = {path.stem: path for path in folder.rglob("*.ko")}
    return kernel, [found[name] for name in MODULES if name in found]


def loaded_files() -> list[Path]:
    """Everything that this interpreter opens for the work: modules, libraries, its own encodings."""
    answer = subprocess.run([sys.executable, "-c", _COLLECT], cwd=ROOT, capture_output=True, text=True, check=True)
    files = {Path(line) for line in answer.stdout.splitlines()}
    files |= set(Path(os.__file__).parent.joinpath("encodings").glob("*.py"))
    files |= {made for path in files if path.suffix == ".py" and (made := Path(cache_from_source(path))).is_file()}
    files.add(Path(sys.executable).resolve())
    binaries = [path for path in files if ".so" in path.name or path == Path(sys.executable).resolve()]
    for binary in binaries:
        linked = subprocess.run(["ldd", str(binary)], capture_output=True, text=True, check=False).stdout
        files |= {Path(word) for word in linked.split() if word.startswith("/")}
    return sorted(files)


def initial_memory(files: Iterable[Path], modules: Iterable[Path]) -> bytes:
    """A cpio archive (newc) that the kernel unpacks as its root."""
    entries: dict[str, tuple[int, bytes, tuple[int, int], int]] = {}

    def add(name: str, mode: int, data: bytes = b"", device: tuple[int, int] = (0, 0), changed_s: int = 0) -> None:
        parent = name.rpartition("/")[0]
        if parent and parent not in entries:
            add(parent, stat.S_IFDIR | 0o755)
        entries[name] = (mode, data, device, changed_s)

    for path in files:
        add(str(path).lstrip("/"), stat.S_IFREG | 0o755, path.read_bytes(), changed_s=int(path.stat().st_mtime))
    for i, path in enumerate(modules):
        add(f"modules/{i:02}-{path.name}", stat.S_IFREG | 0o644, path.read_bytes())
    start = f"#!{Path(sys.executable).resolve()}\n{(ROOT / 'tests/integration/guest_init.py').read_text()}"
    add("init", stat.S_IFREG | 0o755, start.encode())
    add("dev/console", stat.S_IFCHR | 0o600, device=(5, 1))
    add("dev/urandom", stat.S_IFCHR | 0o644, device=(1, 9))
    made = [_entry(i, name, *fields) for i, (name, fields) in enumerate(entries.items())]
    return b"".join([*made, _entry(0, "TRAILER!!!", 0, b"", (0, 0), 0)])


def _entry(number: int, name: str, mode: int, data: bytes, device: tuple[int, int], changed_s: int) -> bytes:
    fields = (number, mode, 0, 0, 1, changed_s, len(data), 0, 0, *device, len(name) + 1, 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
    return head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4)


def emulator() -> str | None:
    """QEMU for x86-64, where it is installed."""
    return shutil.which("qemu-system-x86_64")


def command(kernel: Path, memory: Path, disk: Path, facts: Path, accelerator: str) -> list[str]:
    """A machine whose disk is behind a socket, and whose console is our standard output."""
    environment = [
        f"PYTHONHOME={sys.base_prefix}",
        "PYTHONPATH=" + ":".join([str(ROOT), *(path for path in sys.path if path.endswith("site-packages"))]),
        "PYTHONDONTWRITEBYTECODE=1",
    ]
    # A busy host emulates the timer late, and the kernel then takes its interrupts for broken.
    options = "console=ttyS0 quiet loglevel=1 panic=-1 random.trust_cpu=on no_timer_check"
    return [
        emulator() or "qemu-system-x86_64", "-accel", accelerator, "-cpu", "max", "-m", "768", "-smp", "1",
        "-nodefaults", "-display", "none", "-no-reboot", "-serial", "stdio",
        "-kernel", str(kernel), "-initrd", str(memory),
        "-append", " ".join([options, *environment]),
        "-drive", f"driver=raw,file.driver=nbd,file.server.type=unix,file.server.path={disk},if=virtio,cache=none",
        "-drive", f"driver=raw,file={facts},if=virtio,readonly=on",
    ]  # fmt: skip
