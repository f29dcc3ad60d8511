"""What may still be spent, to the billionth of a dollar: reserved before, settled after."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Protocol

from foretell.errors import InputError

NANO: Final = 1_000_000_000
"""Sums are whole billionths of a dollar, so that adding and taking back leaves nothing over."""

_WINDOW: Final = 1000
_HORIZON: Final = 100
"""Requests over which a rolling purse spends what it is ahead, or saves what it is behind."""

_AIM: Final = 0.95
"""A window's sum varies by some percent around its aim; at the limit itself, half of all windows
would meet the hard stop, and who is escalated would be a matter of who comes first."""

_DAY_S: Final = 86_400


class Purse(Protocol):
    """A limit on spending."""

    def left(self) -> int:
        """What the next request may cost, in billionths of a dollar; below 0 when overdrawn."""
        ...

    def take(self, nano: int) -> int:
        """Spend or reserve for one request, whatever is left; returns a token for ``amend``."""
        ...

    def amend(self, token: int, change: int) -> None:
        """Change what was taken under a token, once the true cost is known."""
        ...

    def aim_nano(self) -> float | None:
        """What the next request should cost on average; ``None`` when that is not known yet."""
        ...


class RollingPurse:
    """The last 1,000 requests together cost no more than ``usd_per_1k``."""

    def __init__(self, usd_per_1k: float, recent_usd: Iterable[float] = ()) -> None:
        self._limit = _limit(usd_per_1k, "usd_per_1k")
        self._costs: deque[int] = deque(maxlen=_WINDOW)
        self._sum = 0
        self._taken = 0
        for usd in recent_usd:
            self.take(whole_nano(usd))

    def left(self) -> int:
        """The limit less the 999 requests before the next one."""
        drops_out = self._costs[0] if len(self._costs) == _WINDOW else 0
        return self._limit - self._sum + drops_out

    def take(self, nano: int) -> int:
        """One request more; the oldest leaves the window."""
        if len(self._costs) == _WINDOW:
            self._sum -= self._costs[0]
        self._costs.append(nano)
        self._sum += nano
        self._taken += 1
        return self._taken

    def amend(self, token: int, change: int) -> None:
        """Nothing happens when the request has left the window."""
        back = self._taken - token
        if back < len(self._costs):
            self._costs[-1 - back] += change
            self._sum += change

    def aim_nano(self) -> float:
        """95 % of the budget, and what brings the window there within 100 requests."""
        aim = _AIM * self._limit / _WINDOW
        return max(0.0, aim + (aim * len(self._costs) - self._sum) / _HORIZON)


class DayPurse:
    """A day, from midnight to midnight UTC, costs no more than ``usd_per_day``.

    What is reserved before midnight and settled after it belongs to the day before.
    """

    def __init__(
        self, usd_per_day: float, clock: Callable[[], float], already_spent_usd: float = 0.0
    ) -> None:
        self._limit = _limit(usd_per_day, "usd_per_day")
        self._clock = clock
        self._day = math.floor(clock() / _DAY_S)
        self._sum = whole_nano(already_spent_usd)
        self._arrivals: deque[float] = deque(maxlen=_WINDOW)

    def left(self) -> int:
        """The limit less what was spent and reserved today."""
        self._turn_page()
        return self._limit - self._sum

    def take(self, nano: int) -> int:
        """The token is the day's number."""
        self._arrivals.append(self._turn_page())
        self._sum += nano
        return self._day

    def amend(self, token: int, change: int) -> None:
        """Nothing happens once the day is over."""
        self._turn_page()
        if token == self._day:
            self._sum += change

    def aim_nano(self) -> float | None:
        """What is left, spread over the requests to come at the rate of the last 1,000.

        ``None`` before the second request.
        """
        now = self._turn_page()
        seconds = now - self._arrivals[0] if self._arrivals else 0.0
        if len(self._arrivals) < 2 or seconds <= 0:
            return None
        to_come = (len(self._arrivals) - 1) / seconds * ((self._day + 1) * _DAY_S - now)
        return max(0, self._limit - self._sum) / max(1.0, to_come)

    def _turn_page(self) -> float:
        now = self._clock()
        # A clock that was put back does not bring yesterday's money back.
        if (day := math.floor(now / _DAY_S)) > self._day:
            self._day, self._sum = day, 0
        return now


def whole_nano(usd: float) -> int:
    """Billionths of a dollar, rounded up."""
    if not (math.isfinite(usd) and usd >= 0):
        raise InputError(f"a cost is {usd} USD; wanted a number of at least 0")
    # The tolerance keeps 0.3 dollars at 300 millions, whatever the product rounds to.
    return math.ceil(usd * NANO - 1e-3)


def _limit(usd: float, name: str) -> int:
    if not (math.isfinite(usd) and usd >= 0):
        raise InputError(f"{name} is {usd}; wanted a number of at least 0")
    return math.floor(usd * NANO + 1e-3)
