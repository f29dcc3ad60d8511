"""Days in UTC, which budgets and ledgers are kept by."""

from __future__ import annotations

from datetime import UTC, date, datetime

from foretell.errors import InputError

SECONDS_A_DAY = 86_400.0  # seconds since 1970 leave out leap seconds, so every day has as many


def day_of(at: float) -> str:
    """The day, such as ``2026-03-01``, of a time in seconds since 1970 (UTC)."""
    # of its midnight: a datetime would round the last half microsecond into the next day
    return datetime.fromtimestamp(start_of_day(at), UTC).date().isoformat()


def start_of_day(at: float) -> float:
    """The last midnight (UTC), in seconds since 1970, at or before ``at``."""
    return at - at % SECONDS_A_DAY


def start_of(day: str) -> float:
    """When a day such as ``2026-03-01`` begins, in seconds since 1970 (UTC).

    Raises ``InputError`` for any other text.
    """
    try:
        midnight = datetime.combine(date.fromisoformat(day), datetime.min.time(), UTC)
    except ValueError:
        raise InputError(f"{day!r} is not a day; wanted one such as '2026-03-01'") from None
    return midnight.timestamp()
