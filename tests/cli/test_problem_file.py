from __future__ import annotations

import io
import re
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cli import problem_file as module
from agent.cli.main import run
from agent.cli.problem_file import load_problem
from agent.errors import ConfigError
from agent.placement.solve import solve
from tests.placement.problems import random_problem


def tables(stages: int = 4, accelerators: int = 3) -> dict[str, np.ndarray]:
    return {
        name: np.array(values) for name, values in random_problem(3, stages, accelerators, room=9.0).arrays().items()
    }


def saved(file: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(file, **arrays)  # type: ignore[arg-type]
    return file


def refusal(file: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        load_problem(file)
    text = str(caught.value)
    assert text.startswith(f"{file}: ")
    assert "\n" not in text
    assert len(text) < 500
    return text.removeprefix(f"{file}: ")


def with_header(file: Path, name: str, shape: str, descr: str = "<f8", content: bytes = b"") -> Path:
    """A file whose array `name` has a header of one's own."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode() + b"\n"
    arrays = tables()
    del arrays[name]
    saved(file, arrays)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content)
    return file


def test_a_shape_of_terabytes_is_refused_before_anything_is_asked_for(tmp_path: Path) -> None:
    told = refusal(with_header(tmp_path / "a.npz", "energy", "(1000000000000, 4)"))

    assert told.startswith(
        "energy: shape (1000000000000, 4) of float64 takes 32000000000000 bytes; all arrays together"
    )


def test_what_is_declared_and_what_is_there_must_agree(tmp_path: Path) -> None:
    few = refusal(with_header(tmp_path / "a.npz", "energy", "(4, 3)", content=bytes(40)))
    many = refusal(with_header(tmp_path / "a.npz", "energy", "(4, 3)", content=bytes(100)))

    assert few == "energy: 96 bytes belong to shape (4, 3) of float64, the file has only 40"
    assert many.endswith("the file has more")


@pytest.mark.parametrize("shape", ["(-1, 3)", "(1, 1, 1, 1)"])
def test_odd_shapes_are_named(tmp_path: Path, shape: str) -> None:
    assert refusal(with_header(tmp_path / "a.npz", "energy", shape)) == (
        f"energy: shape {shape}, expected at most three lengths of 0 or more"
    )


@pytest.mark.parametrize(
    ("name", "dtype", "expected"),
    [
        ("latency", np.complex128, "latency: type complex128, expected real numbers"),
        ("energy", np.longdouble, f"energy: type {np.dtype(np.longdouble)}, expected real numbers"),
        ("memory", "M8[s]", "memory: type datetime64[s], expected real numbers"),
        ("capacity", "U3", "capacity: type <U3, expected real numbers"),
        ("allowed", "U3", "allowed: type <U3, expected booleans"),
        ("memory_domain", np.float64, "memory_domain: type float64, expected integers"),
        ("latency", object, "latency: holds pickled objects, which are never read; save plain real numbers"),
    ],
)
def test_types_that_are_no_numbers_are_named(tmp_path: Path, name: str, dtype: object, expected: str) -> None:
    arrays = tables()
    arrays[name] = np.ones(arrays[name].shape).astype(int).astype(dtype)  # type: ignore[call-overload]

    assert refusal(saved(tmp_path / "a.npz", arrays)) == expected


@pytest.mark.parametrize("value", [1e308, -1e308, 1e31, 5e-324, 1e-40])
@pytest.mark.parametrize("name", ["latency", "transfer_energy", "busy_den", "memory", "capacity"])
def test_costs_that_would_overflow_or_vanish_are_named(tmp_path: Path, name: str, value: float) -> None:
    arrays = tables()
    arrays[name].flat[1] = value

    told = refusal(saved(tmp_path / "a.npz", arrays))

    assert re.match(rf"{name}\[[\d, ]+\] is {re.escape(f'{value:g}')}, expected 0 or between 1e-30 and 1e\+30$", told)


@pytest.mark.parametrize("value", [np.nan, -1.0, np.inf])
@pytest.mark.parametrize("name", ["latency", "energy", "memory", "transfer_latency"])
def test_costs_that_are_no_costs_are_named(tmp_path: Path, name: str, value: float) -> None:
    arrays = tables()
    arrays["allowed"][:] = True
    arrays[name].flat[2] = value

    assert re.match(rf"{name}\[[\d, ]+\] is {value:g}, expected", refusal(saved(tmp_path / "a.npz", arrays)))


def test_the_largest_and_smallest_costs_are_planned(tmp_path: Path) -> None:
    arrays = tables()
    for at, name in enumerate(("latency", "energy", "memory")):
        arrays[name].flat[at] = 1e30
        arrays[name].flat[at + 1] = 1e-30
    arrays["capacity"][:] = np.inf

    assert solve(load_problem(saved(tmp_path / "a.npz", arrays)), seed=1, evaluations=2000).front


def test_names_are_kept_and_must_differ(tmp_path: Path) -> None:
    arrays = tables() | {"accelerators": np.array(["cpu", "gpu", "npu"]), "stages": np.array([b"a", b"b", b"c", b"d"])}
    problem = load_problem(saved(tmp_path / "a.npz", arrays))
    assert (problem.accelerators, problem.stages) == (("cpu", "gpu", "npu"), ("a", "b", "c", "d"))

    def told(**names: np.ndarray) -> str:
        return refusal(saved(tmp_path / "a.npz", arrays | names))

    assert told(accelerators=np.array(["x", "y", "x"])) == (
        "accelerators[2] is 'x', like accelerators[0]; names must differ"
    )
    assert told(accelerators=np.array(["x", "", "z"])) == "accelerators[1] has 0 characters, expected 1 to 64"
    assert told(stages=np.array(["a\nb", "b", "c", "d"])).startswith("stages[0] is 'a\\nb'")
    assert told(stages=np.array([["a"], ["b"]])) == "stages: shape (2, 1), expected one name each"
    assert told(stages=np.array([b"\xff", b"b", b"c", b"d"])) == "stages: holds bytes that are no UTF-8 text"
    assert told(stages=np.array(["a", "b"])) == "stages: 2 names, expected 4 different ones"


def test_missing_arrays_are_named_and_near_misses_too(tmp_path: Path) -> None:
    arrays = tables()
    energy, domain = arrays.pop("energy"), arrays.pop("memory_domain")

    assert refusal(saved(tmp_path / "a.npz", arrays)).startswith("array 'energy' is missing; a problem needs latency")
    assert refusal(saved(tmp_path / "a.npz", arrays | {"energy_": energy})) == (
        "unknown array 'energy_', did you mean 'energy'?"
    )
    assert refusal(saved(tmp_path / "a.npz", arrays | {"energy": energy, "memory_domains": domain})) == (
        "unknown array 'memory_domains', did you mean 'memory_domain'?"
    )


def test_pairs_are_allowed_unless_the_file_says_otherwise(tmp_path: Path) -> None:
    arrays = tables()
    del arrays["allowed"]

    assert load_problem(saved(tmp_path / "a.npz", arrays)).allowed.all()


def test_an_array_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npz", tables())
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr("energy.npy", b"")

    assert refusal(file) == "energy: there are two arrays of this name"


def test_too_many_arrays_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ENTRIES", 3)

    assert refusal(saved(tmp_path / "a.npz", tables())) == "10 arrays, at most 3 are looked at"


def test_encrypted_and_strangely_packed_files_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npz", tables())
    plain = file.read_bytes()
    central = plain.index(b"PK\x01\x02")
    locked, strange = bytearray(plain), bytearray(plain)
    locked[central + 8] |= 1
    for at in (8, central + 10):
        strange[at : at + 2] = b"\x63\x00"

    file.write_bytes(bytes(locked))
    assert re.match(r"\w+: is encrypted; write the file without a password$", refusal(file))
    file.write_bytes(bytes(strange))
    assert re.match(r"\w+: cannot be unpacked; .*compression method", refusal(file))


@pytest.mark.parametrize("header", ["(" * 300, "{'descr': 3}", "{}", "L" * 9000, "", "[" * 5000 + "]" * 5000])
def test_headers_that_are_none_are_refused(tmp_path: Path, header: str) -> None:
    arrays = tables()
    del arrays["energy"]
    file = saved(tmp_path / "a.npz", arrays)
    text = header.encode()
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("energy.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)

    assert refusal(file).startswith("energy: ")


def test_newer_formats_are_refused(tmp_path: Path) -> None:
    arrays = tables()
    del arrays["energy"]
    file = saved(tmp_path / "a.npz", arrays)
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("energy.npy", b"\x93NUMPY\x09\x00" + bytes(20))

    assert refusal(file).startswith("energy: cannot be unpacked; write the file with numpy.savez")


def test_empty_and_cut_files_are_refused(tmp_path: Path) -> None:
    file = saved(tmp_path / "a.npz", tables())
    whole = file.read_bytes()
    for size in (0, 1, 100, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:size])
        assert "not an .npz file, or a broken one" in refusal(file)


def test_the_command_line_says_so_in_one_line_with_code_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = with_header(tmp_path / "a.npz", "energy", "(1000000000000, 4)")

    assert run(["plan", "--problem", str(file)]) == 78
    told = capsys.readouterr().err
    assert "a.npz: energy: shape" in told
    assert told.count("\n") == 1


def bytes_of(arrays: dict[str, np.ndarray], packed: bool) -> bytes:
    stream = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()


PLAIN, PACKED = bytes_of(tables(), False), bytes_of(tables(), True)


@settings(max_examples=400, deadline=None)
@given(
    packed=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=12),
    cut=st.one_of(st.none(), st.integers(0, 10**6)),
)
def test_whatever_the_bytes_are_the_answer_is_a_problem_or_one_line(
    tmp_path_factory: pytest.TempPathFactory, packed: bool, changes: list[tuple[int, int]], cut: int | None
) -> None:
    content = bytearray(PACKED if packed else PLAIN)
    for at, value in changes:
        content[at % len(content)] = value
    file = tmp_path_factory.getbasetemp() / "fuzzed.npz"
    file.write_bytes(bytes(content if cut is None else content[: cut % len(content)]))

    told = f"{file}: a problem"
    try:
        load_problem(file)
    except ConfigError as error:
        told = str(error)

    assert told.startswith(f"{file}: ")
    assert "\n" not in told
