"""What a caller may do: which models, how often, how many at a time, for how much money."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import TracebackType
from typing import Final

from foretell.errors import InputError, StoreError
from foretell.gateway._callers import Caller, Clock, KeySource
from foretell.gateway._errors import ApiError
from foretell.records import KeyLimits

SpentToday = Callable[[str, float], tuple[float, int]]
"""Known cost in USD and escalations of a key's requests on the UTC day of a moment, out of the
ledger; may block, and raise ``StoreError``."""

_DAY_S: Final = 86_400
_MINUTE_S: Final = 60.0
_NANO: Final = 1_000_000_000
_ROUNDING: Final = 1e-9


class Admission:
    """Lets requests in and keeps the books on them; of one event loop.

    The books outlive a reload of the configuration. After a restart a key with a daily budget
    starts with what ``spent_today`` says. Several gateways on one store each hold every key to its
    limits by themselves.
    """

    def __init__(
        self,
        keys: KeySource,
        clock: Clock,
        *,
        max_concurrent: int = 1024,
        spent_today: SpentToday | None = None,
    ) -> None:
        self._keys = keys
        self._clock = clock
        self._max_concurrent = max_concurrent
        self._spent_today = spent_today
        self._accounts: dict[str, _Account] = {}
        self._in_flight = 0

    @property
    def in_flight(self) -> int:
        """Requests that are in now."""
        return self._in_flight

    def reload(self, *, keys: KeySource, max_concurrent: int) -> None:
        """Go by these from now on; the keys so far are closed. Requests that are in stay in."""
        self._keys.close()
        self._keys = keys
        self._max_concurrent = max_concurrent

    def require_own_machine(self, host: str | None, origin: str | None) -> None:
        """See ``KeySource.require_own_machine``."""
        self._keys.require_own_machine(host, origin)

    async def authenticate(self, authorization: str | None, x_api_key: str | None) -> Caller:
        """Whoever sent these headers; see ``KeySource.authenticate``.

        Raises ``ApiError`` 503, too, while it is not known what a key with a daily budget has spent
        before the gateway was started.
        """
        caller = await self._keys.authenticate(authorization, x_api_key)
        if caller.key_id not in self._accounts and _has_daily_limit(caller.limits):
            await self._open_account(caller.key_id)
        return caller

    def enter(self, caller: Caller, model_name: str) -> Ticket:
        """Let a request for a route or model in; leave by the ticket's ``release``.

        Raises ``ApiError``: 403 for a model that is not the caller's to use, 503 when the gateway
        is full, 429 when the caller has too many requests under way, or sends them too fast. A
        request that is refused counts for nothing.
        """
        limits = caller.limits
        if limits.routes is not None and model_name not in limits.routes:
            raise ApiError(
                403,
                "this API key may not use that model",
                code="model_not_allowed",
                param="model",
            )
        if self._in_flight >= self._max_concurrent:
            raise _come_back(503, "too many requests are being served", "overloaded", 1)
        now = self._clock()
        account = self._account(caller.key_id, now)
        if limits.concurrent is not None and account.in_flight >= limits.concurrent:
            raise _come_back(
                429,
                f"this API key has {limits.concurrent} requests under way, which is its most",
                "concurrency_limit_exceeded",
                1,
            )
        if limits.requests_per_minute is not None:
            account.rate.take(now, limits.requests_per_minute)
        account.in_flight += 1
        self._in_flight += 1
        return Ticket(self, account, limits, now)

    def leave(self, account: _Account) -> None:
        """For tickets alone."""
        account.in_flight -= 1
        self._in_flight -= 1

    async def _open_account(self, key_id: str) -> None:
        now = self._clock()
        spent_usd, escalations = 0.0, 0
        if self._spent_today is not None:
            try:
                spent_usd, escalations = await asyncio.to_thread(self._spent_today, key_id, now)
            except StoreError:
                raise _come_back(
                    503,
                    "what this API key has spent today cannot be read at the moment",
                    "keys_unavailable",
                    1,
                ) from None
        # Requests that came first while this one waited have opened it, and may have spent since.
        if key_id not in self._accounts:
            day = _Day(_day(now), spent=_nano(spent_usd), escalations=escalations)
            self._accounts[key_id] = _Account(day, now)

    def _account(self, key_id: str, now: float) -> _Account:
        account = self._accounts.get(key_id)
        if account is None:
            account = self._accounts[key_id] = _Account(_Day(_day(now)), now)
        account.turn_to(_day(now))
        return account


class Ticket:
    """One request that was let in; a context that is left by ``release``.

    Money is booked on the UTC day on which the request came in. Each call that may cost something
    is reserved before it is made and settled when its cost is known. As long as no call costs more
    than was reserved for it, a key never spends more than its budget, however its requests overlap.
    """

    __slots__ = (
        "_account",
        "_admission",
        "_at",
        "_day",
        "_escalated",
        "_in",
        "_limits",
        "_reserved",
    )

    def __init__(
        self, admission: Admission, account: _Account, limits: KeyLimits, at: float
    ) -> None:
        self._admission = admission
        self._account = account
        self._day = account.day
        self._limits = limits
        self._at = at
        self._reserved = 0
        self._escalated = False
        self._in = True

    def __enter__(self) -> Ticket:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def reserve(self, usd_worst: float | None) -> None:
        """Put money aside for a call that may cost this much; adds to what is put aside already.

        Raises ``ApiError`` 429 when the key's budget has less left, and 403 when the key has a
        budget and the cost is ``None``: what cannot be priced cannot be held to a budget.
        """
        budget = self._limits.usd_per_day
        if budget is None:
            self._reserve(0 if usd_worst is None else _nano(usd_worst))
            return
        if usd_worst is None:
            raise ApiError(
                403,
                "this API key has a daily budget, and what that model costs is not known",
                code="price_not_known",
                param="model",
            )
        amount = _nano(usd_worst)
        if self._day.spent + self._day.reserved + amount > math.floor(budget * _NANO):
            raise self._spent_out(f"this API key's budget of {budget:g} USD a day is used up")
        self._reserve(amount)

    def settle(self, usd: float | None) -> None:
        """Book what the reserved calls did cost; ``None`` (not known) books all that was reserved.

        The next call is reserved anew.
        """
        self._day.spent += self._reserved if usd is None else _nano(usd)
        self._reserve(-self._reserved)

    def may_escalate(self) -> bool:
        """Whether the key has an escalation left today; asks only."""
        most = self._limits.escalations_per_day
        return self._escalated or most is None or self._day.escalations < most

    def escalate(self) -> None:
        """Count this request as escalated, once however often it is called.

        Raises ``ApiError`` 429 when the key has no escalation left today.
        """
        if not self.may_escalate():
            raise self._spent_out("this API key has no calls of a strong model left for today")
        if not self._escalated:
            self._escalated = True
            self._day.escalations += 1

    def release(self) -> None:
        """Leave; what is still reserved is booked as spent. Safe to call twice."""
        if self._in:
            self._in = False
            self.settle(None)
            self._admission.leave(self._account)

    def _reserve(self, amount: int) -> None:
        self._reserved += amount
        self._day.reserved += amount

    def _spent_out(self, what: str) -> ApiError:
        return _come_back(
            429,
            what,
            "insufficient_quota",
            (self._day.number + 1) * _DAY_S - self._at,
            type="insufficient_quota",
        )


class _Day:
    """What a key used on one UTC day; money in billionths of a USD, whose sums are exact."""

    __slots__ = ("escalations", "number", "reserved", "spent")

    def __init__(self, number: int, *, spent: int = 0, escalations: int = 0) -> None:
        self.number = number
        self.spent = spent
        self.reserved = 0
        self.escalations = escalations


class _Account:
    """The books on one key."""

    __slots__ = ("day", "in_flight", "rate")

    def __init__(self, day: _Day, now: float) -> None:
        self.in_flight = 0
        self.day = day
        self.rate = _Rate(now)

    def turn_to(self, day: int) -> None:
        """Begin a new page at midnight; tickets of the day before still write on theirs.

        A clock that was set back over midnight goes on with the later day: a budget is not given
        twice.
        """
        if day > self.day.number:
            self.day = _Day(day)


class _Rate:
    """A token bucket that holds one minute's worth, at least one request."""

    __slots__ = ("_at", "_used")

    def __init__(self, now: float) -> None:
        self._at = now
        self._used = 0.0

    def take(self, now: float, per_minute: float) -> None:
        """Take one token; raises ``ApiError`` 429 when there is none yet."""
        if per_minute <= 0:
            raise _too_fast(per_minute, _MINUTE_S)
        per_second = per_minute / _MINUTE_S
        # Moves on when it refuses, too, or a clock that was set back would keep it shut.
        self._used = max(0.0, self._used - max(0.0, now - self._at) * per_second)
        self._at = now
        over = self._used + 1 - max(1.0, per_minute)
        if over > _ROUNDING:
            raise _too_fast(per_minute, over / per_second)
        self._used += 1


def _too_fast(per_minute: float, wait_s: float) -> ApiError:
    return _come_back(
        429,
        f"this API key may send {per_minute:g} requests a minute",
        "rate_limit_exceeded",
        wait_s,
    )


def _come_back(
    status: int,
    what: str,
    code: str,
    after_s: float,
    *,
    type: str | None = None,  # noqa: A002 (the field's name in the body)
) -> ApiError:
    seconds = max(1, math.ceil(after_s))
    return ApiError(
        status,
        f"{what}; try again in {seconds} s",
        type=type,
        code=code,
        headers={"Retry-After": str(seconds)},
    )


def _has_daily_limit(limits: KeyLimits) -> bool:
    return limits.usd_per_day is not None or limits.escalations_per_day is not None


def _day(at: float) -> int:
    """Days since 1970 (UTC)."""
    return int(at // _DAY_S)


def _nano(usd: float) -> int:
    """Billionths of a USD, rounded up: what is reserved or booked is never less than it costs."""
    if not 0 <= usd < math.inf:
        raise InputError(f"a cost is {usd} USD; wanted a number from 0, or None if not known")
    return math.ceil(usd * _NANO)
