"""Who holds which cells of the KV cache: leases of running requests, and prefixes kept for reuse.

Pure bookkeeping over token tuples; the engine mirrors it to llama.cpp. Cells are counted
conservatively: a prefix that two kept sequences share counts twice, so the real cache is never
fuller than the books say.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Tokens = tuple[int, ...]

SHORTEST_KEPT = 8  # a shorter prefix costs less to evaluate than to keep track of


@dataclass(slots=True, eq=False)
class Kept:
    """A sequence whose tokens stay in the cache so that the next query need not evaluate them."""

    sequence: int
    tokens: Tokens
    users: int = 0
    last_used: int = 0


@dataclass(slots=True, eq=False)
class Lease:
    """One request's place: a sequence of its own and ``cells`` that nobody else may take.

    Its first ``shared`` tokens were copied from ``source`` and are counted there.
    """

    sequence: int
    cells: int
    source: Kept | None
    shared: int


class CellPool:
    """Sequences and cells of one context.

    ``clear`` is called with a sequence whose cells must be removed from the real cache.
    ``kept_cells`` bounds what kept prefixes may hold; running requests may evict all of it.
    """

    def __init__(
        self, *, cells: int, sequences: int, kept_cells: int, clear: Callable[[int], None]
    ) -> None:
        self.cells = cells
        self._kept_cells = kept_cells
        self._clear = clear
        self._free = list(range(sequences - 1, -1, -1))
        self._kept: list[Kept] = []
        self._leased = 0
        self._clock = 0

    @property
    def used(self) -> int:
        """Cells spoken for: leased, or holding a kept prefix."""
        return self._leased + sum(len(k.tokens) for k in self._kept)

    def longest_match(self, tokens: Tokens) -> tuple[Kept | None, int]:
        """The kept sequence that shares the most leading tokens, and how many."""
        best: tuple[Kept | None, int] = (None, 0)
        for kept in self._kept:
            length = common_prefix(kept.tokens, tokens)
            if length > best[1]:
                best = (kept, length)
        return best if best[1] >= SHORTEST_KEPT else (None, 0)

    def lease(self, prefix: Tokens, total: int) -> Lease | None:
        """Room for ``total`` tokens that begin with ``prefix``; ``None`` when there is none now.

        What is already kept of the prefix is shared, not counted again.
        """
        source, shared = self.longest_match(prefix)
        if source is not None:
            source.users += 1  # must survive the evictions below
        if not self._make_room(total - shared, sequences=1):
            if source is not None:
                source.users -= 1
            return None
        if source is not None:
            self._touch(source)
        self._leased += total - shared
        return Lease(self._free.pop(), total - shared, source, shared)

    def keep_prefix(self, lease: Lease, prefix: Tokens) -> int | None:
        """A sequence to copy the lease's evaluated ``prefix`` into; ``None`` when not worth it.

        From then on the prefix is counted there, and the lease shares it.
        """
        fresh = len(prefix) - lease.shared
        if len(prefix) < SHORTEST_KEPT or fresh <= 0 or len(prefix) > self._kept_cells:
            return None
        self._leased -= fresh
        lease.cells -= fresh
        if not self._make_room(len(prefix), sequences=1):
            self._leased += fresh
            lease.cells += fresh
            return None
        kept = self._keep(self._free.pop(), prefix)
        kept.users += 1
        self._drop_source(lease)
        lease.source, lease.shared = kept, len(prefix)
        return kept.sequence

    def release(self, lease: Lease, *, keep: Tokens | None = None) -> None:
        """End a lease. ``keep`` names the tokens that its sequence holds, to reuse them later."""
        self._leased -= lease.cells
        self._drop_source(lease)
        worth = keep is not None and SHORTEST_KEPT <= len(keep) <= self._kept_cells
        if worth and keep is not None and self._make_room(len(keep), sequences=0):
            self._keep(lease.sequence, keep)
        else:
            self._clear(lease.sequence)
            self._free.append(lease.sequence)

    def _keep(self, sequence: int, tokens: Tokens) -> Kept:
        kept = Kept(sequence, tokens)
        self._touch(kept)
        self._kept.append(kept)
        over = sum(len(k.tokens) for k in self._kept) - self._kept_cells
        for old in sorted(self._kept, key=lambda k: k.last_used):
            if over <= 0:
                break
            if old is not kept and old.users == 0:
                over -= len(old.tokens)
                self._evict(old)
        return kept

    def _make_room(self, cells: int, *, sequences: int) -> bool:
        """Evict the least recently used prefixes until this much is free; all or nothing."""
        idle = sorted((k for k in self._kept if k.users == 0), key=lambda k: k.last_used)
        could_free = self.cells - self.used + sum(len(k.tokens) for k in idle)
        if could_free < cells or len(self._free) + len(idle) < sequences:
            return False
        for kept in idle:
            if self.cells - self.used >= cells and len(self._free) >= sequences:
                break
            self._evict(kept)
        return True

    def _evict(self, kept: Kept) -> None:
        self._kept.remove(kept)
        self._clear(kept.sequence)
        self._free.append(kept.sequence)

    def _touch(self, kept: Kept) -> None:
        self._clock += 1
        kept.last_used = self._clock

    def _drop_source(self, lease: Lease) -> None:
        if lease.source is not None:
            lease.source.users -= 1
            lease.source = None


def common_prefix(left: Tokens, right: Tokens) -> int:
    """Number of leading tokens that two sequences share."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while low < high:  # slices compare in C; a loop over tokens would not
        middle = (low + high + 1) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
