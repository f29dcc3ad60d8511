"""Noticing that a caller gave its request up."""

from __future__ import annotations

from typing import Final

from foretell.errors import CancelledError
from foretell.prefill._protocol import GivenUp

ASK_EVERY_S: Final = 0.03
"""How often whoever waits asks: rarely enough to cost nothing, often enough for nobody to mind."""


def refuse_when_given_up(given_up: GivenUp | None) -> None:
    """Raises ``CancelledError`` once the caller has given its prefill up."""
    if given_up is not None and given_up():
        raise prefill_given_up()


def prefill_given_up() -> CancelledError:
    """What a prefill ends with when nobody wants it any more."""
    return CancelledError("the prefill was given up by its caller before it was complete")


def answer_given_up() -> CancelledError:
    """What an answer ends with when nobody wants it any more."""
    return CancelledError("the answer was given up before it was finished; ask again")
