"""Which text a database takes."""

from __future__ import annotations

import json
from typing import Any

from foretell.errors import InputError


def is_storable(text: str) -> bool:
    """Whether every database takes a text: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def check_plain_json(value: Any, what: str) -> None:
    """Refuse what JSON has no word for, such as NaN or an array, before one database takes it."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{what} are not plain JSON: {error}; wanted text, finite numbers, true, false, null, "
            "and lists and objects of these"
        ) from None
