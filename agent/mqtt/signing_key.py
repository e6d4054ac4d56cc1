"""Signing key: makes, keeps and uses the secret half in minisign's own file format, on the operator's machine.

A key file is readable by its owner only and encrypted with a password (scrypt, as minisign does) unless told otherwise.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from dataclasses import field
from pathlib import Path

from nacl import exceptions, pwhash, signing

from agent.errors import BadInput, StorageError
from agent.mqtt.minisign import KEY_TAG, PREHASHED, TRUSTED, PublicKey
from agent.records import record

_SCRYPT, _PLAIN, _CHECKSUM = b"Sc", b"\0\0", b"B2"
_SECRET_BYTES = 104
"""Key id, seed with point, checksum: what the password encrypts."""
_OPS, _MEMORY_BYTES = pwhash.scrypt.OPSLIMIT_SENSITIVE, pwhash.scrypt.MEMLIMIT_SENSITIVE
_COMMENT = "untrusted comment: "


@record(frozen=True)
class SigningKey:
    """An Ed25519 key; `repr` shows its public half alone."""

    public: PublicKey
    seed: bytes = field(repr=False)

    def sign(self, content: bytes, trusted_comment: str) -> str:
        """The four lines of a .minisig. BadInput for a comment of several lines."""
        if "\n" in trusted_comment or "\r" in trusted_comment:
            raise BadInput("a trusted comment is one line")
        key = signing.SigningKey(self.seed)
        first = key.sign(hashlib.blake2b(content).digest()).signature
        second = key.sign(first + trusted_comment.encode()).signature
        head = base64.b64encode(PREHASHED + self.public.key_id + first).decode()
        return (
            f"{_COMMENT}signature from key {self.public.name}\n{head}\n{TRUSTED}{trusted_comment}\n"
            f"{base64.b64encode(second).decode()}\n"
        )


def generate() -> SigningKey:
    """A new key from the system's randomness."""
    seed = secrets.token_bytes(32)
    return SigningKey(PublicKey(secrets.token_bytes(8), bytes(signing.SigningKey(seed).verify_key)), seed)


def save(key: SigningKey, path: Path, password: str | None) -> None:
    """Write the secret file (mode 600) and PATH.pub beside it; an existing key is never replaced. StorageError."""
    kdf, salt = (_SCRYPT, secrets.token_bytes(32)) if password is not None else (_PLAIN, bytes(32))
    body = key.public.key_id + key.seed + key.public.point
    body += hashlib.blake2b(KEY_TAG + body, digest_size=32).digest()
    if password is not None:
        body = _masked(body, password, salt, _OPS, _MEMORY_BYTES)
    ops, memory = (_OPS, _MEMORY_BYTES) if password is not None else (0, 0)
    raw = KEY_TAG + kdf + _CHECKSUM + salt + ops.to_bytes(8, "little") + memory.to_bytes(8, "little") + body
    protection = "encrypted " if password is not None else ""
    public = path.with_name(f"{path.name}.pub")
    public_text = f"{_COMMENT}minisign public key {key.public.name}\n{key.public.text()}\n"
    _write_new(path, f"{_COMMENT}minisign {protection}secret key\n{base64.b64encode(raw).decode()}\n", 0o600)
    _write_new(public, public_text, 0o644)


def _write_new(path: Path, text: str, mode: int) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            stream.write(text)
    except FileExistsError as error:
        raise StorageError(f"{path} is there already; a key is never replaced, name another file") from error
    except OSError as error:
        raise StorageError(f"{error.filename or path}: {error.strerror}") from error


def load(path: Path, password: str | None) -> SigningKey:
    """A key from its file; `password` is needed where it is encrypted. BadInput or StorageError say what is wrong."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
        raw = base64.b64decode(lines[1], validate=True)
    except OSError as error:
        raise StorageError(f"{path}: {error.strerror}") from error
    except (UnicodeDecodeError, IndexError, binascii.Error) as error:
        raise BadInput(f"{path} is no minisign secret key") from error
    if len(raw) != 54 + _SECRET_BYTES or raw[:2] != KEY_TAG or raw[4:6] != _CHECKSUM:
        raise BadInput(f"{path} is no minisign secret key")
    kdf, salt, body = raw[2:4], raw[6:38], raw[54:]
    if kdf == _SCRYPT:
        if password is None:
            raise BadInput(f"{path} is encrypted and needs its password")
        ops, memory = (int.from_bytes(raw[i : i + 8], "little") for i in (38, 46))
        body = _masked(body, password, salt, ops, memory)
    elif kdf != _PLAIN:
        raise BadInput(f"{path} is protected in a way that is not known here")
    if hashlib.blake2b(KEY_TAG + body[:72], digest_size=32).digest() != body[72:]:
        raise BadInput(f"{path}: wrong password, or the file is damaged")
    return SigningKey(PublicKey(body[:8], body[40:72]), body[8:40])


def needs_password(path: Path) -> bool:
    """Whether the file is encrypted; False where it cannot be read, which `load` then says."""
    try:
        return base64.b64decode(path.read_text(encoding="ascii").splitlines()[1])[2:4] == _SCRYPT
    except (OSError, ValueError, IndexError):
        return False


def _masked(body: bytes, password: str, salt: bytes, ops: int, memory_bytes: int) -> bytes:
    try:
        stream = pwhash.scrypt.kdf(_SECRET_BYTES, password.encode(), salt, ops, memory_bytes)
    except (exceptions.CryptoError, MemoryError) as error:
        raise BadInput(f"the key's password cannot be used here ({memory_bytes // 2**20} MiB are needed)") from error
    return bytes(a ^ b for a, b in zip(body, stream, strict=True))
