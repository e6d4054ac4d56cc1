"""Doctor's look at the configured models: there, readable, whole, and with a runtime."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

from agent import extras
from agent.backends.probe import RuntimeInventory
from agent.errors import BadInput, ModelLoadFailed
from agent.llm.sizes import read_json, read_sizes
from agent.runtimes import registry
from agent.schema.settings import Settings
from agent.service.check_result import CheckResult, fail, ok
from agent.service.decoding.decoders import NEEDED
from agent.service.doctor import doctor_machine
from agent.service.serving.artifacts import check_weights, open_artifact
from agent.workload.file_facts import facts_in_child

_NEEDS = "is a language model and needs"
GIT_LFS = b"version https://git-lfs"


def models(
    settings: Settings, inventory: RuntimeInventory, unreadable: Callable[[Path], str | None] | None = None
) -> list[CheckResult]:
    """Every configured model and variant is there and whole, and a runtime for its format too.

    unreadable: what is wrong inside a file, None if nothing; by default it is read in a child process.
    """
    return [_model(f"model {name}", path, inventory, unreadable or inside) for name, path in _files(settings)]


def inside(path: Path) -> str | None:
    """What is wrong inside a model file or decoder folder, in one line; None if nothing."""
    try:
        if path.is_dir():
            _decoder(path)
        elif not path.is_file():
            return f"{path} is no regular file"  # Reading from a pipe would wait for ever.
        else:
            if _begins(path, GIT_LFS):
                return f"{path} is only a pointer of Git LFS: git lfs pull fetches the file"
            artifact = open_artifact(path)
            check_weights(path, facts_in_child(path, artifact.format, artifact.digest))
    except (BadInput, ModelLoadFailed) as error:
        return error.message
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return None


def _decoder(path: Path) -> None:
    """Raises BadInput or ModelLoadFailed: what the agent would say of the folder when it loads it."""
    sizes = read_sizes(path)
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise BadInput(f"{path} {_NEEDS} {' and '.join(missing)}")
    read_json(path / "tokenizer_config.json")
    if not isinstance(read_json(path / "tokenizer.json").get("model"), dict):  # its library stays out of this process
        raise BadInput(f"{path / 'tokenizer.json'}: there is no model of a tokenizer in it")
    for name in sorted(set(sizes.graphs.values())):
        artifact = open_artifact(path / name)
        check_weights(path / name, facts_in_child(path / name, artifact.format, artifact.digest))


def _begins(path: Path, start: bytes) -> bool:
    with path.open("rb") as file:
        return file.read(len(start)) == start


def _files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for model in settings.models:
        yield model.name, model.path
        for variant in model.variants:
            yield f"{model.name} {variant.name}", variant.path


def _model(
    check: str, path: Path, inventory: RuntimeInventory, unreadable: Callable[[Path], str | None]
) -> CheckResult:
    if not os.path.exists(path):  # noqa: PTH110  (Path.exists raises where a parent is closed to us)
        why = "is a symbolic link that leads nowhere" if os.path.islink(path) else "does not exist"  # noqa: PTH114
        return fail(check, f"{path} {why}", "correct models in the settings")
    if not os.access(path, os.R_OK):
        return fail(check, f"{path} cannot be read by this user", f"chmod a+r {path}")
    backend = registry.of_file(path)
    if backend is not None and inventory.version(backend.name) is None:
        return fail(check, f"needs {backend.title}", doctor_machine.remedy(backend))
    problem = unreadable(path)
    if problem is not None:
        mend = "copy the file again, with those beside it, or name another in the settings"
        if "Git LFS" in problem:
            mend = f"git -C {path.parent} lfs pull"
        elif _NEEDS in problem:
            mend = extras.command("llm")
        elif path.is_dir():
            mend = f"copy the folder again, or make it anew: qeil models import FILE.gguf --out {path}"
        elif backend is None:
            mend = "name a model of another format in the settings; docs/extending.md says how to add a format"
        return fail(check, problem, mend)
    return ok(check, str(path))
