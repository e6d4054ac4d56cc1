"""Signatures: made here or by minisign, they hold for exactly what was signed, by exactly the pinned keys."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import BadInput, StorageError
from agent.mqtt import envelope, signing_key
from agent.mqtt.minisign import PublicKey, SignatureRefused, parse_public_key, verify
from tests.mqtt.signed import KEY, STRANGER

# Made by minisign 0.11: `minisign -S -m FILE` with `hello` and a line feed in the file.
MINISIGN_KEY = parse_public_key("RWT+wqcjshLyBvldxI/A3BaTD3THUlCHkbhibhOn9Npc57Amb3bIOsOG")
MINISIGN = """untrusted comment: signature from minisign secret key
RUT+wqcjshLyBhkCGbiFROC4VyiH7qoRhtwxLUtCJuAntkVJfsO0JlZVvivnGd1UKUWcQlymJtd2zNtr/2WqT84XupGbcg0R4wQ=
trusted comment: made by minisign 0.11
5/p5hYxu1YR4hD9J0o6qYSk4EjcKsMcznk+Sdd7qdwUwgpOOydaC2gEja+iVCF7vNOgZDQZwxXYr05V+LdTdCw==
"""
LEGACY = """untrusted comment: signature from minisign secret key
RWT+wqcjshLyBkRGGPsv3atvY2gCvV2w73pjYQm9IyhZL8V6MsevJSXGbfZcv/VVDKhm2GspM6aAGLbWtvq9aFKqq1CljeyNOwQ=
trusted comment: legacy
TDo8UnKdGpGi3zzlTRBZNYwIxqSCT2J/leT4lTpGu0yI9yEtBC7z6sd4UCepGKFTQcAGeEmfwSY1KzaN2Uc6DQ==
"""


def refused(content, signature, keys) -> str:
    with pytest.raises(SignatureRefused) as caught:
        verify(content, signature, keys)
    return caught.value.code


def test_what_minisign_signed_is_accepted():
    assert verify(b"hello\n", MINISIGN, [KEY.public, MINISIGN_KEY]) == "made by minisign 0.11"
    assert MINISIGN_KEY.name == "06F212B223A7C2FE"


def test_an_unhashed_signature_of_old_is_refused():
    assert refused(b"hello\n", LEGACY, [MINISIGN_KEY]) == "legacy_signature"


@given(st.binary(max_size=300), st.text(st.characters(exclude_categories=["C", "Z"]), max_size=40))
def test_what_was_signed_holds_and_its_comment_comes_back(content, comment):
    assert verify(content, KEY.sign(content, comment), [STRANGER.public, KEY.public]) == comment


@given(st.binary(min_size=1, max_size=100), st.data())
def test_any_changed_byte_of_content_is_refused(content, data):
    at = data.draw(st.integers(0, len(content) - 1))
    changed = content[:at] + bytes([content[at] ^ data.draw(st.integers(1, 255))]) + content[at + 1 :]
    assert refused(changed, KEY.sign(content, "c"), [KEY.public]) == "bad_signature"


def test_a_changed_comment_is_refused():
    signature = KEY.sign(b"x", "ver 2")
    assert refused(b"x", signature.replace("ver 2", "ver 3"), [KEY.public]) == "bad_signature"


def test_a_key_that_is_not_pinned_is_refused_and_both_are_named():
    signature = STRANGER.sign(b"x", "c")
    with pytest.raises(SignatureRefused, match=rf"{STRANGER.public.name}; pinned: {KEY.public.name}"):
        verify(b"x", signature, [KEY.public])
    same_id = PublicKey(STRANGER.public.key_id, KEY.public.point)
    assert refused(b"x", signature, [same_id]) == "bad_signature"
    assert refused(b"x", signature, []) == "no_keys"


@pytest.mark.parametrize(
    "damage",
    [
        lambda s: "",
        lambda s: s[:60],
        lambda s: s + "more\n",
        lambda s: s.replace("untrusted comment: ", "comment: "),
        lambda s: s.replace("\ntrusted comment: ", "\ncomment: "),
        lambda s: s.replace("=\n", "\n"),
        lambda s: s.replace("\nRU", "\n*U"),
        lambda s: s.replace("\nRU", "\nRX"),
        lambda s: s + "x" * 4000,
        lambda s: "\n".join([*s.splitlines()[:3], "aGVsbG8=", ""]),
        lambda s: s.replace("\ntrusted comment: c", "\ntrusted comment: \ud800"),
    ],
)
def test_a_damaged_signature_is_refused_as_such(damage):
    assert refused(b"x", damage(KEY.sign(b"x", "c")), [KEY.public]) in {"malformed_signature"}


def test_public_keys_are_read_and_written_as_minisign_does():
    assert parse_public_key(f" {KEY.public.text()}\n") == KEY.public
    for wrong in ("", "RW", "RWé", base64.b64encode(b"Xd" + bytes(40)).decode(), KEY.public.text()[:-4]):
        with pytest.raises(ValueError, match="public key"):
            parse_public_key(wrong)


def test_a_secret_key_is_kept_for_its_owner_and_never_replaced(tmp_path):
    path = tmp_path / "keys" / "fleet.key"
    signing_key.save(KEY, path, None)
    assert path.stat().st_mode & 0o777 == 0o600
    assert signing_key.load(path, None) == KEY
    assert KEY.public.text() in path.with_name("fleet.key.pub").read_text()
    assert not signing_key.needs_password(path)
    with pytest.raises(StorageError, match="never replaced"):
        signing_key.save(STRANGER, path, None)
    assert signing_key.load(path, None) == KEY


def test_a_secret_key_never_shows_in_text():
    assert KEY.seed.hex() not in repr(KEY)
    assert repr(KEY.seed) not in repr(KEY)


def test_a_password_protects_the_key(tmp_path, monkeypatch):
    monkeypatch.setattr(signing_key, "_OPS", 32768)
    monkeypatch.setattr(signing_key, "_MEMORY_BYTES", 16 * 1024 * 1024)
    path = tmp_path / "k"
    signing_key.save(KEY, path, "correct horse")
    assert signing_key.needs_password(path)
    assert signing_key.load(path, "correct horse") == KEY
    with pytest.raises(BadInput, match="needs its password"):
        signing_key.load(path, None)
    with pytest.raises(BadInput, match="wrong password"):
        signing_key.load(path, "wrong")


@pytest.mark.parametrize("text", ["", "a\nb\n", "a\naGVsbG8=\n", "é"])
def test_a_file_that_is_no_key_is_said_to_be_none(tmp_path, text):
    path = tmp_path / "k"
    path.write_text(text)
    with pytest.raises(BadInput, match="no minisign secret key"):
        signing_key.load(path, None)
    assert not signing_key.needs_password(path)
    with pytest.raises(StorageError, match="No such file"):
        signing_key.load(tmp_path / "none", None)


def test_a_comment_of_two_lines_cannot_be_signed():
    with pytest.raises(BadInput, match="one line"):
        KEY.sign(b"x", "a\nb")


# ---------------------------------------------------------------------------------------------- envelopes


def code_of(payload: bytes, keys=(KEY.public,)) -> str:
    with pytest.raises(SignatureRefused) as caught:
        envelope.opened(payload, keys)
    return caught.value.code


def test_an_envelope_gives_back_the_document_and_its_very_text():
    text = '{ "a": [1, "é\\n"] }'
    assert envelope.opened(envelope.sealed(text, KEY.sign(text.encode(), "c")), [KEY.public]) == (
        {"a": [1, "é\n"]},
        text,
    )


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"[" * 60_000, "malformed"),
        (b'{"v":NaN}', "malformed"),
        (b"[]", "malformed"),
        (b'{"v":2,"doc":"","sig":""}', "malformed"),
        (b'{"v":1,"doc":"{}"}', "unsigned"),
        (b'{"v":1,"doc":"\\ud800","sig":"x"}', "malformed"),
        (b'{"v":1,"doc":"{}","sig":"x"}', "malformed_signature"),
        (b" " * (envelope.MAX_ENVELOPE_BYTES + 1), "too_large"),
        (envelope.sealed("{", KEY.sign(b"{", "c")), "malformed"),
        (envelope.sealed('{"x":1,"x":2}', KEY.sign(b'{"x":1,"x":2}', "c")), "malformed"),
        (envelope.sealed('{"x":Infinity}', KEY.sign(b'{"x":Infinity}', "c")), "malformed"),
    ],
)
def test_everything_else_is_refused_with_a_code(payload, code):
    assert code_of(payload) == code


@given(st.binary(max_size=200))
def test_no_bytes_at_all_make_it_fall_over(payload):
    assert code_of(payload) in {"malformed", "unsigned"}
