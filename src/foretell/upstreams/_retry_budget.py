"""How many retries there may be, so that an outage is not multiplied."""

from __future__ import annotations


class RetryBudget:
    """A bucket that every call fills by ``share`` and every retry empties by one.

    Holds at most ``reserve``, with which it starts, so that among any calls in a row the retries
    are at most ``reserve + share * calls``. A share of 0 allows none.
    """

    def __init__(self, share: float, *, reserve: float = 10.0) -> None:
        self._share = share
        self._reserve = reserve if share > 0 else 0.0
        self._left = self._reserve

    def called(self) -> None:
        """A call is made that is no retry."""
        self._left = min(self._reserve, self._left + self._share)

    def allows(self) -> bool:
        """Whether a retry may be made now; ``True`` spends it."""
        if self._left < 1 - 1e-9:  # ten times a tenth is a little less than one
            return False
        self._left = max(0.0, self._left - 1)
        return True
