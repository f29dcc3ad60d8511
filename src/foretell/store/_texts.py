"""Which text a database takes."""

from __future__ import annotations


def is_storable(text: str) -> bool:
    """Whether every database takes a text: it has no NUL and no half of a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= character <= "\udfff" for character in text)
