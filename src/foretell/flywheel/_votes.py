"""Callers' votes as labels that no single caller can bend: pure counting, nothing is stored."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from math import floor
from typing import Final

from foretell.errors import InputError
from foretell.flywheel._believed import Place
from foretell.flywheel._labeller import TRUNCATED
from foretell.flywheel._lots import lot
from foretell.records import Outcome, Role, Vote

FROM_FEEDBACK: Final = "feedback"
"""Begins the note of every outcome that follows a vote. The caller's own words are not repeated."""

_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackOutcomes:
    """The outcomes that votes make, and what became of all other votes.

    An outcome's source is ``client`` whatever a vote says of itself, its author the key.
    ``superseded`` counts votes that the same key replaced by a later one on the same request,
    ``forged`` those on requests of other keys, ``overruled`` those on answers that a more trusted
    source has judged, and ``truncated`` those against an answer that was cut at its token limit,
    which become outcomes without a value. ``over_cap`` counts by key the votes set aside because a
    key may give only so many of the labels. ``contradicted`` are the requests on which keys
    disagree, ``mistaken`` those of overruled votes that say the opposite of the trusted source.
    """

    outcomes: tuple[Outcome, ...]
    superseded: int
    forged: int
    overruled: int
    truncated: int
    over_cap: Mapping[str, int]
    contradicted: tuple[str, ...]
    mistaken: tuple[str, ...]


def feedback_outcomes(
    votes: Sequence[Vote],
    *,
    metric: str,
    influence_cap: float,
    owners: Mapping[str, str] | None = None,
    cut: Collection[str] = (),
    trusted: Mapping[Place, float] | None = None,
    salt: bytes = b"",
) -> FeedbackOutcomes:
    """Labels from votes: one a key and request, and of each key no more than its share.

    The share is of all labels there are in the end, those of trusted sources and those that votes
    give: each key keeps at most ``n`` votes, for the largest ``n`` that is at most
    ``influence_cap`` of that sum. So a few keys alone label nothing unless the cap is that wide.
    Which votes of a key above its share count is decided by a keyed hash of their requests, so that
    the key cannot choose, and stays the same as more arrive. Each role is reckoned on its own.

    Args:
        votes: Of one domain and one question. The order decides between votes of one time.
        metric: Name that the outcomes get.
        influence_cap: Largest share of the labels that one key may give, above 0 and up to 1.
        owners: The key that made each request; a vote by another key is forged. ``""`` may vote on
            any. Requests that are not here are not checked.
        cut: Requests whose answer was cut at its token limit.
        trusted: By answer, the success by the sources that are believed before any caller.
        salt: Of the hash; secret, so that nobody can aim.

    Raises:
        InputError: A cap out of its range, or votes of several domains.
    """
    if not 0 < influence_cap <= 1:
        raise InputError(f"the influence cap is {influence_cap}; wanted above 0 and up to 1")
    if len(domains := {vote.domain for vote in votes}) > 1:
        raise InputError(f"votes of several domains: {', '.join(sorted(domains))}; one at a time")
    trusted = trusted or {}
    sorted_out = _Sorted()
    latest = _latest(votes, owners or {}, sorted_out)
    kept = [vote for vote in latest if not _is_overruled(vote, trusted, sorted_out)]
    judged = [vote for vote in kept if vote.value == 1 or vote.request_id not in cut]
    unclear = [vote for vote in kept if vote.value < 1 and vote.request_id in cut]
    counting, over_cap = _within_cap(
        judged, Counter(role for role, _ in trusted), influence_cap, salt
    )
    outcomes = [_outcome(vote, metric) for vote in counting]
    outcomes += [_outcome(vote, metric, truncated=True) for vote in unclear]
    return FeedbackOutcomes(
        outcomes=tuple(sorted(outcomes, key=lambda one: (one.query_id, one.author))),
        superseded=sorted_out.superseded,
        forged=sorted_out.forged,
        overruled=sorted_out.overruled,
        truncated=len(unclear),
        over_cap=over_cap,
        contradicted=_contradicted(counting),
        mistaken=tuple(sorted(sorted_out.mistaken)),
    )


@dataclass(slots=True)
class _Sorted:
    """Counts of what was sorted out so far."""

    superseded: int = 0
    forged: int = 0
    overruled: int = 0
    mistaken: set[str] = field(default_factory=set[str])


def _latest(votes: Sequence[Vote], owners: Mapping[str, str], out: _Sorted) -> list[Vote]:
    """The last vote of each key on each request."""
    latest = dict[tuple[str, str], Vote]()
    for vote in sorted(votes, key=lambda vote: vote.at):  # stable: then by their order
        if vote.key_id and vote.key_id != owners.get(vote.request_id, vote.key_id):
            out.forged += 1
            continue
        place = (vote.request_id, vote.key_id)
        out.superseded += place in latest
        latest[place] = vote
    return list(latest.values())


def _is_overruled(vote: Vote, trusted: Mapping[Place, float], out: _Sorted) -> bool:
    believed = trusted.get((vote.role, vote.request_id))
    if believed is None:
        return False
    out.overruled += 1
    if (vote.value - 0.5) * (believed - 0.5) < 0:
        out.mistaken.add(vote.request_id)
    return True


def _within_cap(
    votes: Sequence[Vote], others: Mapping[Role, int], cap: float, salt: bytes
) -> tuple[list[Vote], dict[str, int]]:
    """Votes that count, and by key how many do not."""
    by_role = defaultdict[Role, defaultdict[str, list[Vote]]](lambda: defaultdict(list))
    for vote in votes:
        by_role[vote.role][vote.key_id].append(vote)
    counting, over = list[Vote](), Counter[str]()
    for role, by_key in by_role.items():
        most = allowance([len(own) for own in by_key.values()], others.get(role, 0), cap)
        for key_id, own in by_key.items():
            own.sort(key=lambda vote: lot(vote.request_id, salt))
            counting += own[:most]
            if len(own) > most:
                over[key_id] += len(own) - most
    return counting, dict(over)


def allowance(counts: Sequence[int], others: int, cap: float) -> int:
    """The largest ``n`` with ``n <= cap * (others + sum(min(count, n) for count in counts))``.

    Never above the largest of ``counts``. The right side less the left is concave in ``n`` and not
    negative at 0, so the numbers that fit are those up to some point: bisection finds it.
    """
    fits, fails = 0, max(counts, default=0) + 1
    while fails - fits > 1:
        n = (fits + fails) // 2
        total = others + sum(min(count, n) for count in counts)
        if n <= floor(cap * total + _ROUNDING):
            fits = n
        else:
            fails = n
    return fits


def _outcome(vote: Vote, metric: str, *, truncated: bool = False) -> Outcome:
    return Outcome(
        domain=vote.domain,
        query_id=vote.request_id,
        role=vote.role,
        metric=metric,
        value=None if truncated else vote.value,
        source="client",
        author=vote.key_id,
        note=f"{FROM_FEEDBACK}; {TRUNCATED.reason}" if truncated else FROM_FEEDBACK,
    )


def _contradicted(votes: Sequence[Vote]) -> tuple[str, ...]:
    sides = defaultdict[str, set[bool]](set)
    for vote in votes:
        if vote.value != 0.5:
            sides[vote.request_id].add(vote.value > 0.5)
    return tuple(sorted(request for request, said in sides.items() if len(said) > 1))
