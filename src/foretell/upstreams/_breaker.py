"""When a target that fails is left alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

BreakerState = Literal["closed", "open", "half_open"]


class Breaker:
    """Stops calls to a target after failures in a row; then lets one call at a time try it.

    Closed: every call is allowed. After ``failures`` failed ones with no success in between it
    opens: none is. ``open_s`` seconds later it is half open: one call, the probe, is allowed, and
    what becomes of it closes or opens the breaker again. Whoever was allowed must report exactly
    one of ``succeeded``, ``failed`` and ``gave_up``, with ``since=epoch`` as ``epoch`` was right
    after ``allows``: a report of a call from before the last change of state says nothing about
    the target as it is now, and is ignored. Not safe between threads.
    """

    def __init__(self, *, failures: int, open_s: float, clock: Callable[[], float]) -> None:
        self._failures = failures
        self._open_s = open_s
        self._clock = clock
        self._failed_in_a_row = 0
        self._open_until: float | None = None
        self._probing = False
        self._epoch = 0

    @property
    def state(self) -> BreakerState:
        """Half open also while nobody has tried the target yet, and while the probe is out."""
        if self._open_until is None:
            return "closed"
        return "half_open" if self._probing or self._clock() >= self._open_until else "open"

    @property
    def epoch(self) -> int:
        """Counts the changes of state; see ``since`` in the reports."""
        return self._epoch

    @property
    def opens_in_s(self) -> float:
        """Seconds until a call may try the target; 0 when one may, or when a probe is out."""
        return 0.0 if self._open_until is None else max(0.0, self._open_until - self._clock())

    def allows(self) -> bool:
        """Whether a call may be made now; ``True`` takes the probe's place when half open."""
        if self._open_until is None:
            return True
        if self._probing or self._clock() < self._open_until:
            return False
        self._probing = True
        self._epoch += 1
        return True

    def succeeded(self, *, since: int | None = None) -> None:
        """The target answered."""
        if self._is_late(since):
            return
        self._failed_in_a_row = 0
        if self._probing:
            self._change(open_until=None)

    def failed(self, *, since: int | None = None) -> None:
        """The target is at fault."""
        if self._is_late(since):
            return
        self._failed_in_a_row += 1
        if self._probing or self._failed_in_a_row >= self._failures:
            self._change(open_until=self._clock() + self._open_s)

    def gave_up(self, *, since: int | None = None) -> None:
        """The call says nothing about the target: its caller went away, or was at fault."""
        if self._probing and not self._is_late(since):
            self._change(open_until=self._open_until)

    def _is_late(self, since: int | None) -> bool:
        left_alone = self._open_until is not None and not self._probing
        return left_alone or (since is not None and since != self._epoch)

    def _change(self, *, open_until: float | None) -> None:
        self._open_until = open_until
        self._probing = False
        self._failed_in_a_row = 0
        self._epoch += 1
