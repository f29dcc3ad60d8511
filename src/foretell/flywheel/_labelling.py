"""Labels for all stored answers of a domain."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Final

from foretell.errors import InputError, RoutingError
from foretell.flywheel._labeller import Attributed, Label, Labeller, Source
from foretell.records import Observation, Outcome, Query, Role, content_text
from foretell.store import Store, model_key

_logger = logging.getLogger(__name__)

_AT_ONCE: Final = 32
"""Answers in memory for each thread."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelCounts:
    """What came of labelling one role's answers.

    ``success_rate`` is the mean over the labelled queries, ``None`` when there are none.
    ``reasons`` counts answers, by why they failed or could not be told.
    """

    queries: int
    labelled: int
    success_rate: float | None
    reasons: Mapping[str, int]


def label_domain(
    store: Store,
    domain: str,
    labeller: Labeller,
    roles: Sequence[Role] = ("weak", "strong"),
    *,
    parallel: int = 1,
    only: Collection[str] | None = None,
    on_done: Callable[[], object] | None = None,
) -> dict[Role, LabelCounts]:
    """Label the stored answers of a domain and store the outcomes.

    A query answered several times (rollouts) gets the mean of its labels, those that could not
    be told left out. Answers of other weights are labelled on their own. The outcomes' source
    is ``code`` unless the labeller is ``Attributed``; labelling again replaces them. Confidence
    and details go into their notes. An answer at which the labeller crashes is left unlabelled, and
    the error is logged. Queries that were stored without their text are passed over.

    Args:
        store: Where the answers are and the outcomes go.
        domain: Whose answers.
        labeller: Who judges; from several threads when ``parallel``.
        roles: Which models' answers.
        parallel: Answers at once.
        only: Ids of the queries whose answers are labelled; all of the domain's when left out.
        on_done: Called after each answer.

    Raises:
        InputError: Nothing is stored for the domain, nothing with its text, or the labeller refuses
            all of its queries; then no outcome is written.
        RoutingError: Whatever the labeller cannot go on after; outcomes of a model whose answers
            were not all labelled are not written.
    """
    queries = store.queries(domain)
    if not queries:
        known = ", ".join(counts.domain for counts in store.domains())
        raise InputError(
            f"nothing is stored for domain {domain!r}; "
            + (f"there are {known}" if known else "run 'foretell collect' first")
        )
    asked = [one for one in queries if only is None or one.id in only]
    wanted = {one.id: one for one in asked if not text_is_withheld(one)}
    if withheld := len(asked) - len(wanted):
        _logger.warning(
            "%d queries of domain %r are stored without their text (store.traffic.text is off) "
            "and cannot be labelled, except by feedback",
            withheld,
            domain,
        )
        if not wanted:
            raise InputError(
                f"the text of all {withheld} queries of domain {domain!r} is withheld, so only "
                "feedback can label them; turn store.traffic.text on for traffic to come"
            )
    labeller.check(list(wanted.values()))
    counts = dict[Role, LabelCounts]()
    for role in roles:
        labels: defaultdict[str, defaultdict[str, list[Label]]]
        labels = defaultdict(lambda: defaultdict(list))
        observations = (one for one in store.observations(domain, role) if one.query.id in wanted)
        for observation, label in _labelled(labeller, observations, parallel):
            labels[_key(observation)][observation.query.id].append(label)
            if on_done is not None:
                on_done()
        counts[role] = _store_labels(store, domain, labeller, role, labels)
    return counts


def text_is_withheld(query: Query) -> bool:
    """Whether a query was stored without what it asks, so that nobody can judge its answers."""
    return not any(content_text(message) for message in query.messages)


def _labelled(
    labeller: Labeller, observations: Iterable[Observation], parallel: int
) -> Iterator[tuple[Observation, Label]]:
    """Each observation with its label, in order."""
    if parallel == 1:
        for observation in observations:
            yield observation, _label(labeller, observation)
        return

    def label(observation: Observation) -> Label:
        return _label(labeller, observation)

    waiting = iter(observations)
    with ThreadPoolExecutor(parallel, thread_name_prefix="foretell-label") as pool:
        try:
            while some := list(islice(waiting, parallel * _AT_ONCE)):
                labels = pool.map(label, some)
                yield from zip(some, labels, strict=True)
        finally:
            pool.shutdown(cancel_futures=True)


def _label(labeller: Labeller, observation: Observation) -> Label:
    try:
        return labeller.label(observation.query, observation.answer)
    except RoutingError:
        raise
    except Exception as error:
        _logger.exception("labeller %r crashed at %r", labeller.metric, observation.query.id)
        return Label(None, f"labeller crashed: {type(error).__name__}")


def _store_labels(
    store: Store,
    domain: str,
    labeller: Labeller,
    role: Role,
    labels: Mapping[str, Mapping[str, Sequence[Label]]],
) -> LabelCounts:
    values: list[float | None] = []
    reasons: Counter[str] = Counter()
    for key, by_query in labels.items():
        outcomes = [
            _outcome(domain, query_id, role, labeller, of_query)
            for query_id, of_query in by_query.items()
        ]
        store.put_outcomes(outcomes, model_key=key)
        values += [outcome.value for outcome in outcomes]
        reasons.update(label.reason for row in by_query.values() for label in row if label.reason)
    known = [value for value in values if value is not None]
    return LabelCounts(
        queries=len(values),
        labelled=len(known),
        success_rate=fmean(known) if known else None,
        reasons=dict(reasons.most_common()),
    )


def _outcome(
    domain: str, query_id: str, role: Role, labeller: Labeller, labels: Sequence[Label]
) -> Outcome:
    known = [label.value for label in labels if label.value is not None]
    source: Source = "code"
    author = ""
    if isinstance(labeller, Attributed):
        source, author = labeller.source, labeller.author
    return Outcome(
        domain=domain,
        query_id=query_id,
        role=role,
        metric=labeller.metric,
        value=fmean(known) if known else None,
        source=source,
        author=author,
        note=_note(labels),
    )


def _note(labels: Sequence[Label]) -> str:
    reasons = Counter(label.reason for label in labels if label.reason)
    sure = [label.confidence for label in labels if label.confidence is not None]
    details = Counter(label.detail for label in labels if label.detail)
    parts = (
        ", ".join(reasons),
        f"confidence {fmean(sure):.2f}" if sure else "",
        " / ".join(details),
    )
    # A lone surrogate in a model's words is no text for a database.
    note = "; ".join(part for part in parts if part)
    return note.encode(errors="replace").decode()


def _key(observation: Observation) -> str:
    return model_key(observation.model or observation.answer.model)
