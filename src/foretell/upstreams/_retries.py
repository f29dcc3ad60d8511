"""When to try again, and after how long."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

from foretell.errors import ConfigError
from foretell.upstreams._protocol import UpstreamCallError


@dataclass(frozen=True, slots=True, kw_only=True)
class Retries:
    """Calls in all, and the waits between them in seconds.

    A wait doubles from the first to the longest, with up to ``jitter_s`` on top so that many
    clients do not come back in step.
    """

    attempts: int = 3
    first_wait_s: float = 0.5
    longest_wait_s: float = 8.0
    jitter_s: float = 0.5

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ConfigError(f"attempts is {self.attempts}; wanted at least 1, the call itself")
        if min(self.first_wait_s, self.longest_wait_s, self.jitter_s) < 0:
            raise ConfigError("the waits between attempts must not be negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class Deadlines:
    """Limits of one call in seconds, all its attempts and waits included in ``total_s``.

    ``connect_s`` bounds finding and connecting to the host, ``idle_s`` the silence before the
    first and between any two pieces.
    """

    total_s: float = 300.0
    connect_s: float = 5.0
    idle_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("total_s", "connect_s", "idle_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; wanted seconds above 0")


def backoff_s(tries: int, *, first_wait_s: float, longest_wait_s: float, draw: float) -> float:
    """Seconds to wait after ``tries`` failed attempts: doubled each time, up to the longest.

    ``draw``, from 0 to 1, takes up to half of it away, so that many clients do not come back in
    step.
    """
    whole = min(longest_wait_s, first_wait_s * 2.0 ** min(tries - 1, 60))
    return whole * (1 - draw / 2)


def retry_after_s(header: str | None, *, now: datetime) -> float | None:
    """Seconds that a ``Retry-After`` header asks for (RFC 9110, section 10.2.3).

    The header holds seconds or a date; a date in the past is 0. ``None`` when it is absent or
    makes no sense.
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            then = parsedate_to_datetime(header)
        except ValueError:
            return None
        zoned = then if then.tzinfo else then.replace(tzinfo=UTC)
        return max(0.0, (zoned - now).total_seconds())
    return seconds if math.isfinite(seconds) and seconds >= 0 else None


def backoff_hook(seconds_left: Callable[[], float]) -> Callable[[Exception], bool | timedelta]:
    """Tells stamina whether to call again, and after how long if the upstream said.

    A wait that would outlast the time left is not begun: the caller hears now rather than then.
    """

    def decide(error: Exception) -> bool | timedelta:
        if not isinstance(error, UpstreamCallError) or not error.retryable:
            return False
        if error.retry_after_s is None:
            return True
        return error.retry_after_s < seconds_left() and timedelta(seconds=error.retry_after_s)

    return decide
