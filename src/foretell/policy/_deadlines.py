"""How long a prefill may take, from how long those of its length took."""

from __future__ import annotations

import math
from bisect import bisect_left, insort
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from foretell.errors import InputError

_QUANTILE: Final = 0.95
_REMEMBERED: Final = 128
"""Prefills a bucket remembers: 20 give a 95th percentile, and old ones must not outlive a change
of load by much."""


class PrefillDeadlines:
    """``max(floor, times × p95)`` of the prefills of that length.

    Lengths fall into buckets by powers of two (512 to 1,023 tokens are one); each remembers its
    last 128 prefills, and its 95th percentile is by nearest rank: the longest while there are fewer
    than 20.

    Args:
        floor_s: Never less than this.
        times: How many times the percentile.
    """

    def __init__(self, *, floor_s: float, times: float) -> None:
        if not (math.isfinite(floor_s) and floor_s > 0):
            raise InputError(f"floor_s is {floor_s}; wanted seconds above 0")
        if not (math.isfinite(times) and times >= 1):
            raise InputError(f"times is {times}; wanted a number of at least 1")
        self._floor_s = floor_s
        self._times = times
        self._buckets: dict[int, _Bucket] = {}

    def observe(self, tokens: int, seconds: float) -> None:
        """Tell how long the prefill of ``tokens`` took.

        One that was given up counts, too, by the time it had taken: were those left out, a machine
        that became slow for good would never be given more time. One that was stopped early by its
        gate took less than its length says, and is left out.
        """
        if not (math.isfinite(seconds) and seconds >= 0):
            raise InputError(f"a prefill took {seconds} seconds; wanted a number of at least 0")
        self._buckets.setdefault(_bucket_of(tokens), _Bucket()).add(tokens, seconds)

    def p95_s(self, tokens: int) -> float | None:
        """95th percentile of prefills of that length, in seconds; ``None`` before the first one.

        Where no prefill of that length was seen, the nearest bucket that has some (the longer one
        of two) says how long a token takes.
        """
        own = _bucket_of(tokens)
        if not self._buckets:
            return None
        nearest = min(self._buckets, key=lambda known: (abs(known - own), -known))
        bucket = self._buckets[nearest]
        return bucket.p95() if nearest == own else bucket.p95_of_a_token() * tokens

    def deadline_s(self, tokens: int) -> float | None:
        """How long a prefill of that length may take; ``None`` while nothing is known."""
        p95 = self.p95_s(tokens)
        return None if p95 is None else max(self._floor_s, self._times * p95)


@dataclass(slots=True)
class _Bucket:
    _in_order: deque[tuple[float, float]] = field(default_factory=deque[tuple[float, float]])
    _seconds: list[float] = field(default_factory=list[float])
    _a_token: list[float] = field(default_factory=list[float])

    def add(self, tokens: int, seconds: float) -> None:
        if len(self._in_order) == _REMEMBERED:
            oldest, oldest_a_token = self._in_order.popleft()
            del self._seconds[bisect_left(self._seconds, oldest)]
            del self._a_token[bisect_left(self._a_token, oldest_a_token)]
        self._in_order.append((seconds, seconds / tokens))
        insort(self._seconds, seconds)
        insort(self._a_token, seconds / tokens)

    def p95(self) -> float:
        return _nearest_rank(self._seconds)

    def p95_of_a_token(self) -> float:
        return _nearest_rank(self._a_token)


def _nearest_rank(ascending: list[float]) -> float:
    # The tolerance keeps 0.95 of 20 values at the 19th, whatever the product rounds to.
    return ascending[math.ceil(_QUANTILE * len(ascending) - 1e-9) - 1]


def _bucket_of(tokens: int) -> int:
    if tokens < 1:
        raise InputError(f"a prefill of {tokens} tokens; wanted at least 1")
    return tokens.bit_length()
