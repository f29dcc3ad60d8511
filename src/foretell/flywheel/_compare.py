"""When an answer's value is as good as the reference's."""

from __future__ import annotations

import re
import unicodedata
from decimal import Decimal
from typing import Any, cast

_NUMBER = re.compile(
    r"""
    (?<! \w ) (?<! \d\. )                       # not inside a word or another number
    (?P<sign> [-+\u2212]? ) [$€£¥]?
    (?P<digits> \d{1,3} (?: [,'_\u00a0\u202f] \d{3} )+ (?!\d) | \d+ | (?<! \. ) (?= \.\d ) )
    (?P<decimals> (?: \. \d+ )? )
    (?P<exponent> (?: [eE] [-+]? \d{1,3} (?!\w) )? )
    """,
    re.VERBOSE,
)


def fold(text: str) -> str:
    """``text`` as it is compared: without case, accents, punctuation or extra white space.

    ``" Côte-d'Ivoire."`` becomes ``"cote d ivoire"``. Compatibility forms are unified (NFKD) and
    only accents of Latin, Greek and Cyrillic letters (U+0300 to U+036F) are dropped; in other
    scripts such marks are letters. Symbols (``+``, ``€``) stay. A text of nothing but
    punctuation is kept as it is.
    """
    unaccented = re.sub("[\u0300-\u036f]", "", unicodedata.normalize("NFKD", text).casefold())
    spaced = "".join(
        " " if unicodedata.category(letter)[0] == "P" else letter for letter in unaccented
    )
    return " ".join(spaced.split()) or " ".join(text.split())


def last_number(text: str) -> Decimal | None:
    """The last number in ``text``; ``None`` when there is none.

    Understands signs (a hyphen after a letter or digit is none), a decimal point, exponents,
    currency signs, and thousands set off by a comma, apostrophe, underscore or no-break space
    (``1,234.5``). A comma is never a decimal point. Digits inside words (``H2O``) do not count.
    """
    last = None
    for last in _NUMBER.finditer(text):  # noqa: B007 (the last one is wanted)
        pass
    return None if last is None else _decimal(last)


def same(value: Any, wanted: Any) -> bool:
    """Whether a JSON value is as good as the wanted one.

    Numbers compare by value, also when written as strings, unless with leading zeros, which
    are for codes (``"007"``); strings as ``fold`` leaves them; ``true``, ``false`` and null
    only with themselves or their names. A wanted list accepts a list with the same elements in
    the same order, or, for a value that is no list, any one of its elements. A wanted object
    must be matched in all of its fields; more do no harm, and a field that is wanted as null
    may be absent.
    """
    if isinstance(wanted, dict):
        fields = cast("dict[str, Any]", wanted)
        return isinstance(value, dict) and all(
            same(cast("dict[str, Any]", value).get(key), field) for key, field in fields.items()
        )
    if isinstance(wanted, list):
        elements = cast("list[Any]", wanted)
        if isinstance(value, list):
            values = cast("list[Any]", value)
            return len(values) == len(elements) and all(map(same, values, elements))
        return any(same(value, element) for element in elements)
    if isinstance(value, dict | list):
        return False
    numbers = (_whole_number(value), _whole_number(wanted))
    if None not in numbers:
        return numbers[0] == numbers[1]
    return fold(_name(value)) == fold(_name(wanted))


def _name(scalar: Any) -> str:
    """A JSON scalar as text."""
    match scalar:
        case None:
            return "null"
        case bool():
            return "true" if scalar else "false"
        case _:
            return str(scalar)


def _whole_number(scalar: Any) -> Decimal | None:
    """The number that a scalar is, or that a string consists of; no code such as 007."""
    if isinstance(scalar, bool) or scalar is None:
        return None
    found = _NUMBER.fullmatch(str(scalar).strip())
    return None if found is None or re.match(r"0\d", found["digits"]) else _decimal(found)


def _decimal(found: re.Match[str]) -> Decimal:
    digits = re.sub(r"\D", "", found["digits"]) or "0"
    number = Decimal(f"{digits}{found['decimals']}{found['exponent']}")
    return -number if found["sign"] in ("-", "\u2212") else number
