"""Certificates: when a PEM certificate counts, read from its DER without a cryptography package (RFC 5280 §4.1)."""

from __future__ import annotations

import datetime
import ssl
from pathlib import Path

_UTC_TIME = 0x17
_VERSION_TAG = 0xA0
_END = "-----END CERTIFICATE-----"


def expires_at_s(path: Path) -> float:
    """Seconds since 1970 at which the file's first certificate ends. Raises as `validity_s`."""
    return validity_s(path)[1]


def validity_s(path: Path) -> tuple[float, float]:
    """Seconds since 1970 at which the file's first certificate begins to count and at which it ends.

    Raises OSError where the file cannot be read, ValueError where it holds no certificate.
    """
    if path.exists() and not path.is_file():  # Reading from a pipe would wait for ever.
        raise ValueError(f"{path} is no regular file")
    text = path.read_text(encoding="ascii", errors="replace")
    begin = text.find("-----BEGIN CERTIFICATE-----")
    end = text.find(_END, begin)
    if begin < 0 or end < 0:
        raise ValueError(f"{path} holds no PEM certificate")
    der = ssl.PEM_cert_to_DER_cert(text[begin : end + len(_END)])
    try:
        return _validity_s(der)
    except IndexError as error:
        raise ValueError(f"{path} holds a damaged certificate") from error


def _validity_s(der: bytes) -> tuple[float, float]:
    _, certificate, _ = _element(der, 0)
    _, body, _ = _element(der, certificate)
    tag, content, after = _element(der, body)
    at = after if tag == _VERSION_TAG else body
    for _ in range(3):  # serial number, signature algorithm, issuer
        _, content, at = _element(der, at)
    _, content, _ = _element(der, at)
    first = _element(der, content)
    return _moment_s(der, first), _moment_s(der, _element(der, first[2]))


def _moment_s(der: bytes, element: tuple[int, int, int]) -> float:
    tag, begin, end = element
    text = der[begin:end].decode("ascii", "replace")
    # RFC 5280: two-digit years of 50 and above are of the last century, as strptime's 69 is not.
    if tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    moment = datetime.datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    return moment.timestamp()


def _element(der: bytes, at: int) -> tuple[int, int, int]:
    """(tag, where the content begins, where the element ends); IndexError past the end."""
    tag, length = der[at], der[at + 1]
    begin = at + 2
    if length & 0x80:
        count = length & 0x7F
        length = int.from_bytes(der[begin : begin + count], "big")
        begin += count
    if begin + length > len(der):
        raise IndexError(at)
    return tag, begin, begin + length
