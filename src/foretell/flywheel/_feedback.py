"""What callers said of their requests becomes labels, and follows them when they take it back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from foretell.errors import InputError
from foretell.flywheel._believed import Place, believed
from foretell.flywheel._votes import FROM_FEEDBACK, FeedbackOutcomes, feedback_outcomes
from foretell.records import Outcome, Role, Vote
from foretell.store import Store

_ROLES: Final[tuple[Role, ...]] = ("weak", "strong")

_Key = tuple[Role, str, str]
"""Whose answer, to which query, by the vote of which key."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedbackCounts:
    """What came of a domain's feedback.

    ``votes`` are all there are by the metric that was asked for, ``labels`` those that count as
    labels now, from ``keys`` different keys; ``created``, ``changed`` and ``taken_back`` say how
    that differs from the last time. ``unstored`` votes are about answers of which nothing is kept
    (see ``store.traffic`` in the configuration). ``other_metrics`` counts the votes by other
    metrics, which were left alone. The rest is as in ``FeedbackOutcomes``.
    """

    metric: str
    votes: int
    labels: int
    keys: int
    created: int
    changed: int
    taken_back: int
    superseded: int
    forged: int
    overruled: int
    truncated: int
    unstored: int
    over_cap: Mapping[str, int]
    contradicted: tuple[str, ...]
    mistaken: tuple[str, ...]
    other_metrics: Mapping[str, int]


def take_feedback(
    store: Store, domain: str, *, metric: str, influence_cap: float, votes_by: str | None = None
) -> FeedbackCounts:
    """Bring the outcomes that follow from feedback up to date with the feedback there is.

    Call it as often as you like: it writes what is new or has changed and takes back what no vote
    stands behind any longer (feedback that was deleted, a key that is over its share, an answer
    that a person has judged since). Outcomes that came by another way are never touched.

    Args:
        store: Holds the feedback and the answers.
        domain: Whose.
        metric: Which labels the votes become; those of more trusted sources by the same metric
            overrule them.
        influence_cap: Largest share of the labels that one key may give; see ``feedback_outcomes``.
        votes_by: The metric that callers name in their feedback; ``metric`` when left out.
    """
    asked = metric if votes_by is None else votes_by
    every = store.votes(domain)
    by_metric = Counter(vote.metric for vote in every)
    votes = [vote for vote in every if vote.metric == asked]
    outcomes = [one for of_model in store.outcomes(domain).values() for one in of_model]
    before = {
        _key(one): one
        for one in outcomes
        if one.metric == metric and one.source == "client" and one.note.startswith(FROM_FEEDBACK)
    }
    answered = _answered(store, domain, metric, outcomes)
    known = [vote for vote in votes if (vote.role, vote.request_id) in answered]
    owners, cut = _requests(store, known)
    weighed = feedback_outcomes(
        known,
        metric=metric,
        influence_cap=influence_cap,
        owners=owners,
        cut=cut,
        trusted=_of_trusted(outcomes, metric),
        salt=store.salt(),
    )
    now = {_key(one): one for one in weighed.outcomes}
    written = [one for key, one in now.items() if before.get(key) != one]
    gone = [one for key, one in before.items() if key not in now]
    store.put_outcomes(written)
    store.delete_outcomes(gone)
    created = sum(key not in before for key in now)
    return _counts(
        metric,
        weighed,
        votes=len(votes),
        created=created,
        changed=len(written) - created,
        taken_back=len(gone),
        unstored=len(votes) - len(known),
        other_metrics={name: n for name, n in sorted(by_metric.items()) if name != asked},
    )


def the_vote_metric(store: Store, domain: str) -> str:
    """The only metric by which callers have voted.

    Raises ``InputError`` when they used several, or none.
    """
    metrics = sorted({vote.metric for vote in store.votes(domain)})
    if len(metrics) == 1:
        return metrics[0]
    raise InputError(
        f"callers have given feedback on domain {domain!r} by several metrics: "
        f"{', '.join(metrics)}; choose one with --option metric=…"
        if metrics
        else f"no caller has given feedback on domain {domain!r}; name a metric to wait for with "
        "--option metric=…"
    )


def _counts(
    metric: str,
    weighed: FeedbackOutcomes,
    *,
    votes: int,
    created: int,
    changed: int,
    taken_back: int,
    unstored: int,
    other_metrics: Mapping[str, int],
) -> FeedbackCounts:
    labels = [one for one in weighed.outcomes if one.value is not None]
    return FeedbackCounts(
        metric=metric,
        votes=votes,
        labels=len(labels),
        keys=len({one.author for one in labels}),
        created=created,
        changed=changed,
        taken_back=taken_back,
        superseded=weighed.superseded,
        forged=weighed.forged,
        overruled=weighed.overruled,
        truncated=weighed.truncated,
        unstored=unstored,
        over_cap=weighed.over_cap,
        contradicted=weighed.contradicted,
        mistaken=weighed.mistaken,
        other_metrics=other_metrics,
    )


def _key(outcome: Outcome) -> _Key:
    return outcome.role, outcome.query_id, outcome.author


def _answered(store: Store, domain: str, metric: str, outcomes: Iterable[Outcome]) -> set[Place]:
    """Answers that are stored: those without an outcome of a caller, and those with one."""
    places: set[Place] = {
        (one.role, one.query_id)
        for one in outcomes
        if one.metric == metric and one.source == "client"
    }
    for role in _ROLES:
        without = store.unlabelled(domain, metric, role, source="client")
        places |= {(role, query_id) for query_id in without}
    return places


def _requests(store: Store, votes: Sequence[Vote]) -> tuple[dict[str, str], set[str]]:
    """Who made each request that was voted on, and which answers were cut at their token limit."""
    owners, cut = dict[str, str](), set[str]()
    for request_id in {vote.request_id for vote in votes}:
        if (record := store.request(request_id)) is not None:
            owners[request_id] = record.key_id
            if record.finish_reason == "length":
                cut.add(request_id)
    return owners, cut


def _of_trusted(outcomes: Iterable[Outcome], metric: str) -> dict[Place, float]:
    """Success of the answers that somebody more trusted than a caller has judged."""
    values = believed(one for one in outcomes if one.metric == metric and one.source != "client")
    return {place: value for place, value in values.items() if value is not None}
