"""Archives: what is good unpacks whole, whatever else refuses the whole and leaves nothing behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import tarfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.storage.bundle_archive import MAX_MEMBERS, BundleRefused, check, pack, unpack


def member(name: str, content: bytes = b"x", **fields) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    for key, value in fields.items():
        setattr(made, key, value)
    return made, content


def archive(folder, *members) -> str:
    path = folder / "a.tar"
    with tarfile.open(path, "w") as tar:
        for info, content in members:
            tar.addfile(info, io.BytesIO(content) if info.isreg() else None)
    return path


def refused(path, folder) -> str:
    with pytest.raises(BundleRefused) as caught:
        unpack(path, folder / "bundles" / "abc")
    left = list((folder / "bundles").iterdir())
    assert left == []
    return caught.value.code


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "bundles").mkdir()
    return tmp_path


def test_what_was_packed_is_unpacked_and_the_same_files_make_the_same_bytes(folder):
    for name in ("one.onnx", "p.yaml"):
        (folder / name).write_bytes(name.encode() * 1000)
    files = {"models/one.onnx": folder / "one.onnx", "policies/p.yaml": folder / "p.yaml"}
    pack(files, folder / "a.tar")
    pack(dict(reversed(files.items())), folder / "b.tar")
    assert (folder / "a.tar").read_bytes() == (folder / "b.tar").read_bytes()
    found = unpack(folder / "a.tar", folder / "bundles" / "abc")
    assert found.files("models")["one"].read_bytes() == b"one.onnx" * 1000
    assert list(found.files("policies")) == ["p"]
    assert found.files("probes") == {}
    assert [p.name for p in (folder / "bundles").iterdir()] == ["abc"]


def test_an_attempt_that_a_power_cut_left_is_thrown_away(folder):
    half = folder / "bundles" / ".abc.partial" / "policies"
    half.mkdir(parents=True)
    (half / "evil.yaml").write_text("half")
    found = unpack(archive(folder, member("policies/p.yaml")), folder / "bundles" / "abc")
    assert list(found.files("policies")) == ["p"]
    assert [p.name for p in (folder / "bundles").iterdir()] == ["abc"]


@pytest.mark.parametrize(
    "name",
    ["../policies/p.yaml", "/policies/p.yaml", "policies/../../p.yaml", "policies/p.sh", "p.yaml", "policies/a/b.yaml",
     "models/x.yaml", "Policies/p.yaml", "policies/.yaml", "policies/P.yaml", "policies\\p.yaml", "policies/p.yaml\n"],
)  # fmt: skip
def test_a_path_that_is_none_of_a_bundles_refuses_it(folder, name):
    assert refused(archive(folder, member("policies/good.yaml"), member(name)), folder) == "bad_path"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE])
def test_links_and_devices_refuse_it(folder, kind):
    info, _ = member("policies/p.yaml", b"", type=kind, linkname="/etc/passwd")
    assert refused(archive(folder, (info, b"")), folder) in {"bad_member", "bad_path"}


def test_a_name_that_is_there_twice_refuses_it(folder):
    assert refused(archive(folder, member("policies/p.yaml"), member("policies/p.yaml")), folder) == "bad_member"


def test_a_size_bomb_is_refused_before_anything_is_written(folder):
    """Only a header that claims a terabyte, and a sparse file that is all hole."""
    info, _ = member("models/m.onnx", b"")
    info.size = 2**40
    (folder / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert refused(folder / "a.tar", folder) in {"too_large", "malformed"}
    sparse, _ = member("models/m.onnx", b"", type=tarfile.GNUTYPE_SPARSE)
    (folder / "a.tar").write_bytes(sparse.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert refused(folder / "a.tar", folder) in {"bad_member", "malformed"}


def test_a_compressed_archive_is_refused(folder):
    path = archive(folder, member("models/m.onnx", bytes(100_000)))
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert refused(path, folder) == "malformed"


def test_one_that_ends_early_is_refused(folder):
    path = archive(folder, member("policies/p.yaml"), member("models/m.onnx", b"y" * 5000))
    path.write_bytes(path.read_bytes()[:3000])
    assert refused(path, folder) in {"malformed", "too_large"}


@pytest.mark.parametrize(
    "headers", [{"GNU.sparse.size": "9", "GNU.sparse.map": "x"}, {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}]
)
def test_extended_headers_that_make_no_sense_refuse_it(folder, headers):
    path = archive(folder, member("policies/p.yaml", b"abc\n" * 10, pax_headers=headers))
    assert refused(path, folder) == "malformed"


@pytest.mark.parametrize(("kind", "text"), [(tarfile.GNUTYPE_LONGNAME, b"policies/x"), (tarfile.XGLTYPE, b"")])
def test_a_chain_of_headers_refuses_it(folder, kind, text):
    info, _ = member("x", text, type=kind)
    (folder / "a.tar").write_bytes((info.tobuf(tarfile.GNU_FORMAT) + text.ljust(512 * bool(text), b"\0")) * 5000)
    assert refused(folder / "a.tar", folder) == "malformed"


def test_a_header_longer_than_memory_refuses_it(folder):
    info, _ = member("x", bytes(30), type=tarfile.XHDTYPE)
    (folder / "a.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"99999999999999999999 path=a\n".ljust(512, b"\0"))
    assert refused(folder / "a.tar", folder) == "malformed"


def test_too_many_files_refuse_it(folder):
    members = [member(f"policies/p{i}.yaml") for i in range(MAX_MEMBERS + 1)]
    assert refused(archive(folder, *members), folder) == "too_many_files"


def test_an_empty_one_is_refused(folder):
    assert refused(archive(folder), folder) == "empty"


def test_a_full_disk_refuses_it_before_anything_is_written(folder, monkeypatch):
    usage = shutil._ntuple_diskusage(1000, 1000, 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    assert refused(archive(folder, member("policies/p.yaml")), folder) == "disk_full"


def test_size_and_digest_must_be_the_signed_ones(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    check(path, hashlib.sha256(b"abc").hexdigest(), 3)
    for size, content, code in ((4, b"abc", "wrong_size"), (3, b"abd", "wrong_digest")):
        with pytest.raises(BundleRefused) as caught:
            check(path, hashlib.sha256(content).hexdigest(), size)
        assert caught.value.code == code
    with pytest.raises(BundleRefused, match="No such file"):
        check(tmp_path / "none", "", 3)


def test_only_files_of_a_bundle_are_packed(tmp_path):
    with pytest.raises(BundleRefused, match="no place"):
        pack({"etc/passwd": tmp_path / "x"}, tmp_path / "a.tar")


@given(st.binary(max_size=3000))
@settings(max_examples=60, deadline=None)
def test_no_bytes_at_all_do_more_than_be_refused(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "bundles").mkdir()
    (folder / "a.tar").write_bytes(data)
    assert refused(folder / "a.tar", folder)
