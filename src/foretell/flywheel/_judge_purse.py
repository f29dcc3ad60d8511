"""What judging may cost in all."""

from __future__ import annotations

import threading


class JudgePurse:
    """Holds a cap on dollars over calls from several threads.

    What a call may cost at most is set aside before it is made, so the cap is never passed, as long
    as no call costs more than that.
    """

    def __init__(self, max_usd: float) -> None:
        self._max_usd = max_usd
        self._lock = threading.Lock()
        self._spent_usd = 0.0
        self._held_usd = 0.0

    @property
    def spent_usd(self) -> float:
        """What the calls so far have cost."""
        return self._spent_usd

    def hold(self, worst_usd: float) -> bool:
        """Set that much aside; ``False`` when it is not left."""
        with self._lock:
            fits = self._spent_usd + self._held_usd + worst_usd <= self._max_usd
            if fits:
                self._held_usd += worst_usd
            return fits

    def settle(self, worst_usd: float, actual_usd: float) -> None:
        """What a call cost for which ``worst_usd`` was set aside."""
        with self._lock:
            self._held_usd -= worst_usd
            self._spent_usd += actual_usd
