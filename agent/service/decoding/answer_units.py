"""Answer units: what a number counts, so that 5 km is not 5 m, and is 5000 m."""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Final

from agent.evaluation.questions.numerals import Numeral, canonical

Unit = tuple[Fraction, str]
"""Factor to the dimension's own unit, and its name."""

_PREFIXES: Final = {
    "n": Fraction(1, 10**9), "µ": Fraction(1, 10**6), "m": Fraction(1, 1000), "c": Fraction(1, 100),
    "k": Fraction(1000), "M": Fraction(10**6), "G": Fraction(10**9), "T": Fraction(10**12),
}  # fmt: skip
_LONG_PREFIXES: Final = {"nano": "n", "micro": "µ", "milli": "m", "centi": "c", "kilo": "k", "mega": "M", "giga": "G",
                         "tera": "T"}  # fmt: skip
_SYMBOLS: Final = {
    "m": ("m", 1), "g": ("g", 1), "s": ("s", 1), "A": ("A", 1), "V": ("V", 1), "W": ("W", 1), "J": ("J", 1),
    "N": ("N", 1), "Pa": ("Pa", 1), "Hz": ("Hz", 1), "Ω": ("Ω", 1), "l": ("l", 1), "L": ("l", 1), "mol": ("mol", 1),
    "Wh": ("J", 3600), "Ah": ("C", 3600), "B": ("bit", 8), "b": ("bit", 1), "bit": ("bit", 1), "cal": ("cal", 1),
}  # fmt: skip
_WORDS: Final = {
    "metre": "m", "meter": "m", "gram": "g", "second": "s", "ampere": "A", "amp": "A", "volt": "V", "watt": "W",
    "joule": "J", "newton": "N", "pascal": "Pa", "hertz": "Hz", "ohm": "Ω", "litre": "l", "liter": "l", "byte": "B",
    "bit": "bit", "watthour": "Wh", "calorie": "cal",
}  # fmt: skip
_OTHERS: Final[dict[str, tuple[str, int | str]]] = {
    "min": ("s", 60), "mins": ("s", 60), "minute": ("s", 60), "h": ("s", 3600), "hr": ("s", 3600), "hrs": ("s", 3600),
    "hour": ("s", 3600), "sec": ("s", 1), "secs": ("s", 1), "day": ("s", 86400), "week": ("s", 604800),
    "month": ("month", 1), "year": ("month", 12), "tonne": ("g", 10**6), "inch": ("m", "0.0254"),
    "inches": ("m", "0.0254"), "foot": ("m", "0.3048"), "feet": ("m", "0.3048"), "ft": ("m", "0.3048"),
    "yard": ("m", "0.9144"), "mile": ("m", "1609.344"), "lb": ("g", "453.59237"), "lbs": ("g", "453.59237"),
    "oz": ("g", "28.349523125"), "KiB": ("bit", 8 * 2**10), "MiB": ("bit", 8 * 2**20), "GiB": ("bit", 8 * 2**30),
    "%": ("%", 1), "\\%": ("%", 1), "percent": ("%", 1), "per cent": ("%", 1), "°": ("°", 1), "degree": ("°", 1),
    "°C": ("°C", 1), "℃": ("°C", 1), "°F": ("°F", 1), "℉": ("°F", 1), "K": ("K", 1), "kelvin": ("K", 1),
    "kmh": ("m/s", "5/18"), "kph": ("m/s", "5/18"), "mph": ("m/s", "0.44704"),
    "$": ("$", 1), "USD": ("$", 1), "dollar": ("$", 1), "cent": ("$", "0.01"), "¢": ("$", "0.01"),
    "€": ("€", 1), "EUR": ("€", 1), "euro": ("€", 1), "£": ("£", 1), "GBP": ("£", 1), "¥": ("¥", 1), "JPY": ("¥", 1),
    "₹": ("₹", 1), "INR": ("₹", 1), "rupee": ("₹", 1), "yen": ("¥", 1),
}  # fmt: skip
_TIMES: Final = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9, "trillion": 10**12}
MAX_SCALES = 3
"""Words that multiply one number, such as "hundred million"."""
_NOT_COUNTED: Final = frozenset(
    "a about according accordingly after again all also although altogether an and are as at because been before "
    "between both but by can during each equal equals exactly extra for from gives had has have he hence here however "
    "i if in into is it left less make makes many minus more must no not now of off on only or out over plus ratio "
    "remain remaining remains respectively she since so still such than that the them then there therefore these they "
    "this those though thus times to too total under until was we were when where whereas which while who will with "
    "within without would yet you".split()
)
"""Words behind a number that do not say what it counts."""
_ATOM = r"(?:per cent|[apAP]\.[mM]\b|\\?%|°[CF]?|[℃℉$€£¥₹¢]|[^\W\d_²³]+)"
_UNIT = re.compile(
    r"(?:\*\*?|__)?(?P<gap>[ \u00a0\u2009\u202f]?)(?:\\text\{\s*|\\mathrm\{\s*)?"
    rf"(?P<unit>{_ATOM})(?P<power>\^?-?[1-9]|[²³])?"
    rf"(?:(?:\s?/\s?|\s+per\s+)(?P<under>{_ATOM})(?P<under_power>\^?[1-9]|[²³])?)?"
)
_SCALE = re.compile(r"\s(hundred|thousand|million|billion|trillion)\b", re.IGNORECASE)


def with_unit(text: str, number: Numeral) -> str:
    """The number in the dimension's own unit: "5000 m" for 5 km, "5" without a unit.

    A unit that is not known stays as it is written where it is attached ("5xyz"); a word apart is what is counted, in
    the singular ("5 apple"), unless it only goes on with the sentence ("5 in all").
    """
    if number.value is None:
        behind = _UNIT.match(text, number.end)
        named = "" if behind is None else _counted(behind["unit"]) if behind["gap"] else _plain(behind["unit"])
        return f"{number.canonical} {named}".rstrip()
    value, end = number.value, number.end
    for _ in range(MAX_SCALES):
        scale = _SCALE.match(text, end)
        if scale is None:
            break
        value, end = value * _TIMES[scale[1].lower()], scale.end()
    if number.currency:
        return f"{canonical(value)} {_OTHERS[number.currency][0]}"
    found = _UNIT.match(text, end)
    if found is None:
        return canonical(value)
    unit = _known(found["unit"])
    if unit is None:
        named = _counted(found["unit"]) if found["gap"] else _plain(found["unit"])
        return f"{canonical(value)} {named}".rstrip()
    factor, name = _raised(unit, found["power"])
    under = None if found["under"] is None else _known(found["under"])
    if under is not None:
        below, other = _raised(under, found["under_power"])
        factor, name = factor / below, f"{name}/{other}"
    elif found["under"] is not None and "/" in found[0]:
        name = f"{name}/{found['under']}"
    return f"{canonical(value * factor)} {name}"


def unit_of(answer: str) -> str:
    """The unit of what `with_unit` gave, or what it counts; empty without one."""
    found = re.search(r" (?=\D)", answer)
    return answer[found.end() :] if found else ""


def is_measured(unit: str) -> bool:
    """Whether a unit is one of a dimension, such as m or m/s^2, and no thing that is counted."""
    name = re.split(r"[/^]", unit, maxsplit=1)[0]
    return any(name == dimension for dimension, _ in (*_SYMBOLS.values(), *_OTHERS.values()))


def _plain(word: str) -> str:
    """A word without dots inside: p.m is pm, in capitals or not."""
    return word.replace(".", "").lower() if word.lower() in {"am", "pm", "a.m", "p.m"} else word


def _counted(word: str) -> str:
    """What a word says is counted, in the singular; empty for one that says nothing of it."""
    noun = _plain(word).casefold()
    if noun in _NOT_COUNTED:
        return ""
    if noun.endswith("ies") and len(noun) > 4:
        return f"{noun[:-3]}y"
    if noun.endswith(("xes", "ches", "shes", "sses", "zes")):
        return noun[:-2]
    return noun[:-1] if noun.endswith("s") and not noun.endswith("ss") and len(noun) > 2 else noun


def _raised(unit: Unit, power: str | None) -> Unit:
    if not power:
        return unit
    times = int(power.lstrip("^").translate({ord("²"): "2", ord("³"): "3"}))
    return unit if times == 1 else (unit[0] ** times, f"{unit[1]}^{times}")


def _known(written: str) -> Unit | None:
    """The unit of a symbol as it is written, or of a word in any case, also in the plural."""
    symbol = written.replace("μ", "µ")
    word = written.casefold()
    for name in (symbol, word, word.removesuffix("s")):
        if name in _OTHERS and (name == symbol or len(name) > 2):
            dimension, factor = _OTHERS[name]
            return Fraction(factor), dimension
    found = _prefixed(symbol, _SYMBOLS, _PREFIXES)
    if found is not None:
        return found
    stem = word if word == "hertz" or word.endswith("hertz") else word.removesuffix("s")
    for long, short in (*_LONG_PREFIXES.items(), ("", "")):
        base = _WORDS.get(stem.removeprefix(long)) if stem.startswith(long) else None
        if base is not None:
            dimension, size = _SYMBOLS[base]
            return _PREFIXES.get(short, Fraction(1)) * size, dimension
    return None


def _prefixed(symbol: str, table: dict[str, tuple[str, int]], prefixes: dict[str, Fraction]) -> Unit | None:
    for prefix, times in (("", Fraction(1)), *prefixes.items()):
        base = table.get(symbol.removeprefix(prefix)) if symbol.startswith(prefix) else None
        if base is not None:
            return times * base[1], base[0]
    return None
