"""What waits to be written, oldest first."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """Things that wait to be written, those being written at its head; not safe for threads.

    ``newest`` counts all that ever came, ``shed`` what of it was lost; ``size`` is the sum of what
    each thing in line was said to take.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[T, int]] = deque()
        self._taken: list[tuple[T, int]] = []
        self.newest = 0
        self.shed = 0
        self.size = 0

    def __len__(self) -> int:
        return len(self._taken) + len(self._waiting)

    @property
    def waiting(self) -> int:
        """How many are not being written."""
        return len(self._waiting)

    @property
    def settled(self) -> int:
        """How many have left. While none is shed, those are the first of all that ever came."""
        return self.newest - len(self)

    def put(self, thing: T, size: int) -> None:
        """Join the end of the line."""
        self._waiting.append((thing, size))
        self.newest += 1
        self.size += size

    def take(self, most: int) -> list[T]:
        """The oldest things, which are being written from now on."""
        n = min(most, len(self._waiting))
        self._taken = [self._waiting.popleft() for _ in range(n)]
        return [thing for thing, _ in self._taken]

    def settle(self) -> None:
        """What was taken is stored."""
        self.size -= sum(size for _, size in self._taken)
        self._taken = []

    def put_back(self) -> int:
        """What was taken is not stored: it waits again, before all others; how many that are."""
        n = len(self._taken)
        self._waiting.extendleft(reversed(self._taken))
        self._taken = []
        return n

    def drop(self, lost: T) -> None:
        """One of the things that were taken will never be stored."""
        for at, (thing, size) in enumerate(self._taken):
            if thing is lost:
                del self._taken[at]
                self.size -= size
                self.shed += 1
                return

    def shed_oldest(self) -> T:
        """Let go of the one that has waited longest."""
        thing, size = self._waiting.popleft()
        self.size -= size
        self.shed += 1
        return thing


@dataclass(slots=True)
class Pace:
    """When to write next: some time after something came, or after waits that grow.

    Times are in seconds of a clock that only goes on.
    """

    interval_s: float
    longest_wait_s: float
    since: float | None = None
    """When the oldest that waits came."""
    error: Exception | None = None
    """Why the last try failed."""
    _wait_s: float = 0.0
    _retry_at: float = 0.0

    def due_at(self, is_urgent: Callable[[], bool]) -> float:
        """When to write next; infinity when nothing waits."""
        if self.since is None:
            return float("inf")
        if self.error is not None:
            return self._retry_at
        return self.since if is_urgent() else self.since + self.interval_s

    def failed(self, error: Exception, now: float) -> None:
        """Wait twice as long as the last time."""
        longer = self.interval_s if self.error is None else 2 * self._wait_s
        self._wait_s = min(longer, self.longest_wait_s)
        self._retry_at = now + self._wait_s
        self.error = error
