"""Minisign: Ed25519 signatures in the format of minisign(1), checked against pinned public keys.

Only prehashed signatures ("ED": Ed25519 over BLAKE2b-512 of the content) are taken; the second signature covers the
first and the trusted comment. A secret key is made, kept and used in `signing_key`, never on a board.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence

from agent.records import record

KEY_TAG, PREHASHED, LEGACY = b"Ed", b"ED", b"Ed"
KEY_BYTES, SIGNATURE_BYTES, ID_BYTES = 32, 64, 8
MAX_SIGNATURE_TEXT = 2048
TRUSTED = "trusted comment: "


class SignatureRefused(Exception):
    """The content is not vouched for; `code` says in one word why."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@record(frozen=True)
class PublicKey:
    """A pinned key: minisign's eight-byte key id and the Ed25519 point."""

    key_id: bytes
    point: bytes

    @property
    def name(self) -> str:
        """The id as minisign prints it."""
        return self.key_id[::-1].hex().upper()

    def text(self) -> str:
        """The one line of base64 that settings hold."""
        return base64.b64encode(KEY_TAG + self.key_id + self.point).decode()


def parse_public_key(text: str) -> PublicKey:
    """A key from its line of base64 (RW…). ValueError if it is none."""
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except ValueError as error:
        raise ValueError("a public key is one line of base64 that begins with RW") from error
    if len(raw) != len(KEY_TAG) + ID_BYTES + KEY_BYTES or raw[:2] != KEY_TAG:
        raise ValueError("a public key is one line of 56 characters that begins with RW")
    return PublicKey(raw[2:10], raw[10:])


def verify(content: bytes, signature: str, keys: Sequence[PublicKey]) -> str:
    """The trusted comment, if one of the keys signed content and comment. SignatureRefused says why not."""
    if not keys:
        raise SignatureRefused("no_keys", "no key is pinned (mqtt.trusted_keys), so nothing signed can be trusted")
    algorithm, key_id, signed, comment, comment_signed = _parts(signature)
    if algorithm == LEGACY:
        raise SignatureRefused(
            "legacy_signature", "an unhashed signature; sign with minisign 0.11 or newer, without -l"
        )
    if algorithm != PREHASHED:
        raise SignatureRefused("malformed_signature", "an unknown signature algorithm")
    key = next((k for k in keys if k.key_id == key_id), None)
    if key is None:
        known = ", ".join(k.name for k in keys)
        raise SignatureRefused("unknown_key", f"signed by key {key_id[::-1].hex().upper()}; pinned: {known}")
    if not _holds(key, hashlib.blake2b(content).digest(), signed):
        raise SignatureRefused("bad_signature", f"the content is not what key {key.name} signed")
    if not _holds(key, signed + comment, comment_signed):
        raise SignatureRefused("bad_signature", f"the trusted comment is not what key {key.name} signed")
    return comment.decode()


def _parts(text: str) -> tuple[bytes, bytes, bytes, bytes, bytes]:
    """Algorithm, key id, signature, trusted comment and its signature of a .minisig text."""
    lines = text.splitlines() if len(text) <= MAX_SIGNATURE_TEXT else []
    if len(lines) != 4 or not lines[0].startswith("untrusted comment: ") or not lines[2].startswith(TRUSTED):
        raise SignatureRefused("malformed_signature", "not the four lines of a minisign signature")
    try:
        first = base64.b64decode(lines[1], validate=True)
        second = base64.b64decode(lines[3], validate=True)
        comment = lines[2][len(TRUSTED) :].encode()  # JSON can hold halves of characters, which are no text
    except UnicodeEncodeError as error:
        raise SignatureRefused("malformed_signature", "the trusted comment is no Unicode text") from error
    except ValueError as error:
        raise SignatureRefused("malformed_signature", "a line of the signature is no base64") from error
    if len(first) != 2 + ID_BYTES + SIGNATURE_BYTES or len(second) != SIGNATURE_BYTES:
        raise SignatureRefused("malformed_signature", "a line of the signature has the wrong length")
    return first[:2], first[2:10], first[10:], comment, second


def _holds(key: PublicKey, message: bytes, signature: bytes) -> bool:
    # Imported here: an agent without pinned keys needs no native library.
    from nacl.exceptions import BadSignatureError  # noqa: PLC0415
    from nacl.signing import VerifyKey  # noqa: PLC0415

    try:
        VerifyKey(key.point).verify(message, signature)
    except BadSignatureError:
        return False
    return True
