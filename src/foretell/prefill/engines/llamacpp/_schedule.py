"""Which tokens go into the next ``llama_decode``.

Pure; the reasons are in ``docs/decisions/0003-batching.md``.

Three kinds of work compete: decoding (one token per running answer), open prefill (tokens that no
gate can stop: shared prefixes and ungated queries) and gated prefill. Stopping ends the whole
graph of a call, so gated prefill shares a call with nothing else; open prefill shares calls with
decoding. Gated and decoding calls alternate, so neither waits for more than one call of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

# A call costs about as much as this many tokens on top of its own (weights are read once a call):
# 9 ms against 2.7 ms a token, SmolLM2-135M Q4_0 on one core; other models were alike.
CALL_OVERHEAD_TOKENS: Final = 3.5
# What an early exit saves of its call: gates sit near half depth, and the head is skipped.
_STOP_SAVES: Final = 0.45
# Open prefill beside running answers is cut into pieces, so that a long prompt does not stall them.
_PREFILL_BESIDE_DECODE: Final = 64


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in its prefill: tokens of the stretch it is in (prefix, or its own)."""

    tokens: int
    gated: bool


@dataclass(frozen=True, slots=True)
class Call:
    """The next call: whether running answers take part, and tokens by waiting request."""

    decode: bool
    prefill: tuple[tuple[int, int], ...] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to do."""
        return not self.decode and not self.prefill


def next_call(
    waiting: Sequence[Waiting],
    *,
    decoding: int,
    after_prefill: bool,
    batch_tokens: int,
    decline_rate: float,
) -> Call:
    """What to evaluate next.

    ``waiting`` is in order of arrival, ``decoding`` counts running answers, ``after_prefill``
    says that the last call was gated prefill, ``batch_tokens`` bounds a call, and
    ``decline_rate`` is the recent share of gated queries that were declined.
    """
    if not waiting or (waiting[0].gated and decoding and after_prefill):
        return Call(decode=decoding > 0)
    if waiting[0].gated:
        own = [w.tokens for w in waiting if w.gated]
        together = gated_together(own, batch_tokens=batch_tokens, decline_rate=decline_rate)
        places = [i for i, w in enumerate(waiting) if w.gated][:together]
        return Call(
            decode=False,
            prefill=tuple((i, min(waiting[i].tokens, batch_tokens)) for i in places),
        )
    budget = min(batch_tokens, _PREFILL_BESIDE_DECODE + decoding) if decoding else batch_tokens
    room = budget - decoding
    taken: list[tuple[int, int]] = []
    for place, work in enumerate(waiting):
        if room <= 0:
            break
        if not work.gated:
            taken.append((place, min(work.tokens, room)))
            room -= taken[-1][1]
    return Call(decode=decoding > 0, prefill=tuple(taken))


def gated_together(own: Sequence[int], *, batch_tokens: int, decline_rate: float) -> int:
    """How many gated queries, in order, to prefill in one call: the cheapest per query.

    With k queries of n tokens a call costs ``overhead + k n``, and a share of that is saved only
    if all k are declined, which happens with chance ``decline_rate ** k``.
    """
    best, best_cost, tokens = 1, float("inf"), 0
    for k, n in enumerate(own, start=1):
        tokens += n
        if k > 1 and tokens > batch_tokens:
            break
        saved = _STOP_SAVES * decline_rate**k
        cost = (CALL_OVERHEAD_TOKENS + tokens) * (1 - saved) / k
        if cost < best_cost:
            best, best_cost = k, cost
    return best
