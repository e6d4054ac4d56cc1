"""Numerals: exact numbers in a text – signs, groups of thousands, fractions, powers of ten, digits of any script."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from fractions import Fraction

from agent.records import record

MAX_DIGITS = 400
"""Digits of a numeral, and powers of ten of it, that are read; a longer one is no number."""

_GROUPS = r"\d{1,3}(?:,\d{3})+(?![\d,])|\d{1,2}(?:,\d{2})+,\d{3}(?![\d,])|\d{1,3}(?:[ \u00a0\u2009\u202f]\d{3})+(?!\d)"
_FOREIGN = (
    r"\d{1,3}(?:\.\d{3})+,\d+(?![\d,.]*\d)|\d{1,3}(?:\.\d{3}){2,}(?![\d.,]*\d)"
    r"|(?:\d+,(?:\d{1,2}|\d{4,})|0,\d+)(?![\d,.]*\d)"
)
_PLAIN = rf"(?:(?<!\d,)(?P<foreign>{_FOREIGN})|(?P<whole>(?<!\d,)(?:{_GROUPS})|\d+)?(?P<part>\.\d+)?(?<=\d))"
_TEN = r"(?:[eE](?P<e>[+-]?\d{1,5})(?!\w)|\s?(?:[x×*·]|\\times|\\cdot)\s?10(?:\^\{?(?P<ten>[+-]?\d{1,5})\}?))"
_POWER = r"(?:\^\{?(?P<power>-?\d{1,3})\}?)"
_SLASH = r"(?:\s?/\s?(?P<below>\d+)(?!\s?/\s?\d|[.,]?\d))"
_NUMERAL = re.compile(
    r"(?<!\^)(?<!\^\{)(?<!\^-)"
    r"(?:(?P<before>[$€£¥₹])\s?)?(?:(?<![\w)\]}.%])(?P<sign>[-+]))?(?:(?P<currency>[$€£¥₹])\s?)?"
    r"(?:\\d?frac\{(?P<top>\d+)\}\{(?P<bottom>\d+)\}"
    r"|(?<![\d.,:])(?P<ratio>\d+(?::\d+)+)(?![:\d])"
    r"|(?<![\d.])(?P<mixed>\d+)\s(?P<over>\d+)/(?P<under>\d+)(?!\s?/\s?\d|[.,]?\d)"
    rf"|(?<!\d)(?<!\d\.){_PLAIN}(?:{_TEN}|{_POWER}|{_SLASH})?)"
)
_SUPER = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻", "0123456789+-", strict=True))
_RAISED = re.compile(rf"(?<=\d)[{''.join(_SUPER)}]+")
_MINUS = {ord(sign): "-" for sign in "\u2212\ufe63\uff0d\u2012\u2013"} | {ord("\uff0b"): "+", ord("\uff0c"): ","}
_WIDE = {ord("\uff0e"): ".", ord("\u066b"): ".", ord("\u066c"): ",", ord("\uff0f"): "/", ord("\u2044"): "/"}


@record(frozen=True)
class Numeral:
    """A number where it stands in a text that was made `plain`. `currency`: the sign before it."""

    canonical: str
    value: Fraction | None
    """None for what is compared as it is written: a ratio or a time, such as 3:2, and digits in threes with common
    spaces between them, such as 100 200 300, which may be one number or three."""
    start: int
    end: int
    currency: str = ""


def plain(text: str) -> str:
    """The text with digits 0 to 9, the minus of the keyboard, ½ as 1/2 and 10² as 10^2."""
    if text.isascii():
        return text
    raised = _RAISED.sub(lambda found: "^" + "".join(_SUPER[char] for char in found[0]), text)
    return "".join(map(_plain, raised.translate(_MINUS | _WIDE)))


def numerals(text: str) -> Iterator[Numeral]:
    """All numbers of a `plain` text in their order; those with too many digits are left out."""
    for found in _NUMERAL.finditer(text):
        read = _read(found)
        if read is not None:
            yield Numeral(canonical(read), read, *found.span(), found["before"] or found["currency"] or "")
        elif _may_be_several(found):
            yield Numeral(" ".join(found[0].split()), None, *found.span())
        elif found["ratio"] and len(found["ratio"]) <= MAX_DIGITS:
            told = ":".join(part.lstrip("0") or "0" for part in found["ratio"].split(":"))
            yield Numeral("-" + told if found["sign"] == "-" else told, None, *found.span())


def canonical(value: Fraction) -> str:
    """42 for 42.0, 0.5 for a half, 1/3 for a third: the same text for the same number, exactly."""
    rest, places = value.denominator, 0
    for prime in (2, 5):
        count = 0
        while rest % prime == 0:
            rest, count = rest // prime, count + 1
        places = max(places, count)
    if rest != 1:
        return f"{value.numerator}/{value.denominator}"
    digits = str(abs(value.numerator) * 10**places // value.denominator).zfill(places + 1)
    whole = f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"-{whole}" if value < 0 else whole


def _plain(char: str) -> str:
    if char.isascii():
        return char
    if char.isdecimal():
        return str(unicodedata.decimal(char))
    if unicodedata.decomposition(char).startswith("<fraction>"):
        return " " + unicodedata.normalize("NFKC", char).replace("\u2044", "/")
    return char


def _may_be_several(found: re.Match[str]) -> bool:
    """Digits in threes apart by common spaces; a group that begins with 0, as in 1 000 000, is no number of its own."""
    groups = (found["whole"] or "").split(" ")
    return len(groups) > 1 and not any(group.startswith("0") for group in groups[1:]) and _short(found)


def _short(found: re.Match[str]) -> bool:
    return sum(map(str.isdigit, found[0])) <= MAX_DIGITS


def _read(found: re.Match[str]) -> Fraction | None:
    if found["ratio"] or _may_be_several(found) or sum(map(str.isdigit, found[0])) > MAX_DIGITS:
        return None
    if found["top"]:
        value = _over(int(found["top"]), found["bottom"])
    elif found["mixed"]:
        part = _over(int(found["over"]), found["under"])
        value = None if part is None else int(found["mixed"]) + part
    else:
        value = _decimal(found)
    return None if value is None else -value if found["sign"] == "-" else value


def _decimal(found: re.Match[str]) -> Fraction | None:
    if found["foreign"]:
        number = found["foreign"]
        head, _, tail = number.rpartition(",") if "," in number else (number, "", "")
        value = Fraction(head.replace(".", "") + ("." + tail if tail else ""))
    else:
        value = Fraction(re.sub(r"[,\s]", "", found["whole"] or "0") + (found["part"] or ""))
    ten = int(found["e"] or found["ten"] or 0)
    if abs(ten) > MAX_DIGITS:
        return None
    value *= Fraction(10) ** ten
    if found["below"]:
        return _over(value, found["below"])
    if found["power"]:
        return _raised(value, int(found["power"]))
    return value


def _raised(value: Fraction, power: int) -> Fraction | None:
    size = max(len(str(abs(value.numerator))), len(str(value.denominator)))
    return None if size * abs(power) > MAX_DIGITS or (value == 0 and power < 0) else value**power


def _over(top: int | Fraction, bottom: str) -> Fraction | None:
    return None if int(bottom) == 0 else Fraction(top) / int(bottom)
