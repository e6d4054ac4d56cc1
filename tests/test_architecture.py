"""The walls of the house, read from the source: who imports whom, what pure code must not touch, room sizes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "agent"
FILES = sorted(PACKAGE.rglob("*.py"))

LEAVES = {"child", "errors", "extras", "ports", "records", "runtimes", "schema", "__init__"}
PURE = {"physics", "placement", "sampling", "control"}
ADAPTERS = {"workload", "sensors", "backends", "llm", "api", "mqtt", "otlp", "storage"}

ALLOWED: dict[str, set[str]] = {
    "__init__": set(),
    "child": set(),
    "errors": set(),
    "extras": set(),
    "records": set(),
    "runtimes": {"errors", "records"},
    "schema": {"errors", "records", "runtimes"},
    "ports": {"errors", "records", "schema"},
    "physics": {"errors", "records"},
    "placement": {"errors", "records", "schema", "physics"},
    "sampling": {"errors", "records", "schema", "physics"},
    "control": {"errors", "records", "schema", "physics"},
    **dict.fromkeys(ADAPTERS, LEAVES | PURE),
    "service": LEAVES | PURE | ADAPTERS | {"evaluation"},
    "fleet": LEAVES | PURE | ADAPTERS,
    "evaluation": LEAVES | PURE | ADAPTERS,
    "simulation": LEAVES | PURE | ADAPTERS | {"evaluation"},
    "cli": LEAVES | PURE | ADAPTERS | {"service", "fleet", "evaluation", "simulation"},
}

IMPURE = {
    "asyncio", "ctypes", "datetime", "http", "io", "logging", "multiprocessing", "os", "pathlib", "random", "select",
    "selectors", "shutil", "signal", "socket", "sqlite3", "ssl", "structlog", "subprocess", "sys", "tempfile",
    "threading", "time", "queue", "psutil", "yaml",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "eval", "exec", "__import__"}
MAX_LINES = 400


def room(path: Path) -> str:
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imports(path: Path) -> set[str]:
    """Dotted names of everything the file imports, late imports included."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_point_upwards_only(path):
    mine = room(path)
    for name in imports(path):
        parts = name.split(".")
        if parts[0] == "agent" and len(parts) > 1 and parts[1] != mine:
            assert parts[1] in ALLOWED[mine] | {"__version__"}, f"{path.relative_to(ROOT)} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if room(p) in PURE], ids=lambda p: str(p.relative_to(PACKAGE)))
def test_pure_code_touches_no_input_output_clock_or_thread(path):
    tops = {name.split(".")[0] for name in imports(path)}
    assert not tops & IMPURE
    calls = {
        n.func.id
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
    }
    assert not calls & IMPURE_CALLS


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_a_file_is_a_small_room(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{path.relative_to(ROOT)} has {lines} lines"


def test_event_loops_live_in_the_http_edge_alone():
    users = {room(p) for p in FILES if any(n.split(".")[0] == "asyncio" for n in imports(p))}
    assert users <= {"api"}


def test_paho_is_known_to_the_two_links_alone():
    users = {str(p.relative_to(PACKAGE)) for p in FILES if any(n.startswith("paho") for n in imports(p))}
    assert users <= {"mqtt/link.py", "mqtt/node_link.py"}


def test_native_runtimes_stay_out_of_the_agents_process():
    """Only files that run in a lane's or an inspection's own process may import a runtime or protobuf."""
    native = {"onnxruntime", "ai_edge_litert", "tflite_runtime", "onnx", "flatbuffers", "tokenizers"}
    users = {p for p in FILES if any(n.split(".")[0] in native for n in imports(p))}
    assert {room(p) for p in users} <= {"backends", "workload", "llm"}
    # What the agent itself imports of `llm` leads to none of them: text is read and written in a decoder's process.
    native_llm = {f"agent.llm.{p.stem}" for p in FILES if room(p) == "llm" and reaches(p, users)}
    programs = {PACKAGE / "service" / "decoding" / name for name in ("decoder_process.py", "stage_process.py")}
    for path in FILES:
        if path not in programs and room(path) in {"service", "api", "mqtt", "storage", "sensors"}:
            assert not {name.rpartition(".")[0] for name in imports(path)} & native_llm, path
    for program in programs:
        assert {name.rpartition(".")[0] for name in imports(program)} & native_llm


def reaches(path: Path, targets: set[Path]) -> bool:
    """Whether the file is one of the targets or imports one of them, over other files of its package."""
    seen, todo = set(), [path]
    while todo:
        here = todo.pop()
        if here in targets:
            return True
        seen.add(here)
        found = (PACKAGE.parent / f"{name.rpartition('.')[0].replace('.', '/')}.py" for name in imports(here))
        todo += [file for file in found if file.is_file() and file not in seen]
    return False


def test_no_board_is_named_in_the_code():
    names = {p.stem for p in (ROOT / "device_profiles").glob("*.yaml") if not p.stem.startswith("generic")}
    demo = {"jetson-orin-nano-super"}  # the demo's simulated accelerator is data of the demo
    for path in FILES:
        text = path.read_text()
        for name in names - (demo if room(path) == "cli" else set()):
            assert f'"{name}"' not in text, f"{path.relative_to(ROOT)} names {name}"


def test_the_version_stands_in_one_place():
    assert 'dynamic = ["version"]' in (ROOT / "pyproject.toml").read_text()
