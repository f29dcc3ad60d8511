"""Keeping to a budget: a share of strong calls to aim at, and a hard stop behind it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from foretell.errors import InputError
from foretell.policy._purses import NANO, DayPurse, Purse, RollingPurse, whole_nano
from foretell.records import Role

_NEWEST_COUNTS: Final = 0.02
"""Weight of the newest cost in a mean, once there are 50: prices and prompts change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reservation:
    """What was set aside for one request; ``settle`` takes it once."""

    usd: float
    serve: Role
    token: int
    number: int


class BudgetPacer:
    """Spends a budget evenly, and never more than it.

    Made by ``per_1k`` or ``per_day``. Each request of the route is told once, when it is decided:
    ``reserve`` with the most that it may cost, weak prefill included, which is turned down when
    that much is not left, or ``charge`` when it is served in any case. ``settle`` says what a
    reservation cost in truth. As long as no request costs more than was reserved for it, and
    nothing is charged beyond what is left, no window of 1,000 requests (no day) exceeds the budget;
    a cost above its reservation is counted in full, and later requests make up for it. Every
    reservation is settled, also that of a request that failed, by what it cost.

    ``share`` is the strong-call share at which the requests to come cost what they may, for a
    ``ShareController`` to hold: were it not for that, the first requests would spend it all.
    Nothing here is safe from other threads.
    """

    def __init__(
        self, purse: Purse, *, weak_usd: float | None = None, strong_usd: float | None = None
    ) -> None:
        self._purse = purse
        self._means = {"weak": _Mean(weak_usd), "strong": _Mean(strong_usd)}
        self._reserved = 0
        self._open: set[int] = set()

    @classmethod
    def per_1k(
        cls,
        usd: float,
        *,
        recent_usd: Iterable[float] = (),
        weak_usd: float | None = None,
        strong_usd: float | None = None,
    ) -> BudgetPacer:
        """At most ``usd`` in any 1,000 consecutive requests.

        Args:
            usd: The budget.
            recent_usd: What the last requests cost, oldest first, to go on after a restart.
            weak_usd: What a request costs on average when the weak model serves it, as far as known
                beforehand; ``None`` until one was seen.
            strong_usd: The same for the strong model, weak prefill included.
        """
        return cls(RollingPurse(usd, recent_usd), weak_usd=weak_usd, strong_usd=strong_usd)

    @classmethod
    def per_day(
        cls,
        usd: float,
        *,
        clock: Callable[[], float],
        already_spent_usd: float = 0.0,
        weak_usd: float | None = None,
        strong_usd: float | None = None,
    ) -> BudgetPacer:
        """At most ``usd`` from midnight to midnight UTC.

        Args:
            usd: The budget.
            clock: Seconds since 1970 (UTC).
            already_spent_usd: Today, before a restart.
            weak_usd: As for ``per_1k``.
            strong_usd: As for ``per_1k``.
        """
        return cls(
            DayPurse(usd, clock, already_spent_usd), weak_usd=weak_usd, strong_usd=strong_usd
        )

    def left_usd(self) -> float:
        """What the next request may cost; below 0 when more was charged than there was."""
        return self._purse.left() / NANO

    def allows(self, worst_usd: float) -> bool:
        """Whether that much is left; nothing is reserved."""
        return whole_nano(worst_usd) <= self._purse.left()

    def reserve(self, worst_usd: float, *, serve: Role) -> Reservation | None:
        """Set aside the most that a request may cost; ``None`` when that is not left."""
        return self._hold(worst_usd, serve) if self.allows(worst_usd) else None

    def charge(self, worst_usd: float, *, serve: Role) -> Reservation:
        """Set it aside though it may not be left, for a request that is served in any case."""
        return self._hold(worst_usd, serve)

    def settle(
        self, reservation: Reservation, actual_usd: float | None, *, serve: Role | None = None
    ) -> None:
        """What a request cost in truth; when that is not known, all that was reserved.

        ``serve`` says who answered in the end, where that was not whom it was reserved for. Raises
        ``InputError`` for a reservation that was settled before.
        """
        if reservation.number not in self._open:
            raise InputError("this reservation was settled before; each request is settled once")
        usd = reservation.usd if actual_usd is None else actual_usd
        change = whole_nano(usd) - whole_nano(reservation.usd)
        self._open.remove(reservation.number)
        self._purse.amend(reservation.token, change)
        self._means[serve or reservation.serve].add(usd)

    def share(self) -> float | None:
        """The strong-call share to aim at now, 0 to 1.

        ``None`` while it is not known what a request costs at either model, or, by the day, how
        many there are. 1 where the strong model is not dearer and the budget allows for it.
        """
        weak, strong = self._means["weak"].value, self._means["strong"].value
        aim_nano = self._purse.aim_nano()
        if weak is None or strong is None or aim_nano is None:
            return None
        aim = aim_nano / NANO
        if strong <= weak:
            return 1.0 if strong <= aim else 0.0
        return min(1.0, max(0.0, (aim - weak) / (strong - weak)))

    def _hold(self, usd: float, serve: Role) -> Reservation:
        token = self._purse.take(whole_nano(usd))
        self._reserved += 1
        self._open.add(self._reserved)
        return Reservation(usd=usd, serve=serve, token=token, number=self._reserved)


class _Mean:
    """Mean of all, then of the newest; a value known beforehand counts as the first."""

    def __init__(self, first: float | None) -> None:
        self.value = first
        self._n = 0 if first is None else 1

    def add(self, value: float) -> None:
        self._n += 1
        weight = max(1 / self._n, _NEWEST_COUNTS)
        self.value = value if self.value is None else self.value + weight * (value - self.value)
