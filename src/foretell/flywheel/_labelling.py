"""Labels for all stored answers of a domain."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from foretell.errors import InputError
from foretell.flywheel._labeller import Label, Labeller
from foretell.records import Outcome, Role
from foretell.store import Store, model_key


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
    store: Store, domain: str, labeller: Labeller, roles: Sequence[Role] = ("weak", "strong")
) -> dict[Role, LabelCounts]:
    """Label the stored answers of a domain and store the outcomes.

    A query answered several times (rollouts) gets the mean of its labels, those that could not
    be told left out. Answers of other weights are labelled on their own. The outcomes' source
    is ``code``; labelling again replaces them.

    Raises ``InputError`` when nothing is stored for the domain, or the labeller refuses all of
    its queries; then no outcome is written.
    """
    queries = store.queries(domain)
    if not queries:
        known = ", ".join(counts.domain for counts in store.domains())
        raise InputError(
            f"nothing is stored for domain {domain!r}; "
            + (f"there are {known}" if known else "run 'foretell collect' first")
        )
    labeller.check(queries)
    return {role: _label_role(store, domain, labeller, role) for role in roles}


def _label_role(store: Store, domain: str, labeller: Labeller, role: Role) -> LabelCounts:
    labels: defaultdict[str, defaultdict[str, list[Label]]]
    labels = defaultdict(lambda: defaultdict(list))
    for observation in store.observations(domain, role):
        key = model_key(observation.model or observation.answer.model)
        label = labeller.label(observation.query, observation.answer)
        labels[key][observation.query.id].append(label)
    values: list[float | None] = []
    reasons: Counter[str] = Counter()
    for key, by_query in labels.items():
        outcomes = [
            _outcome(domain, query_id, role, labeller.metric, of_query)
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
    domain: str, query_id: str, role: Role, metric: str, labels: Sequence[Label]
) -> Outcome:
    known = [label.value for label in labels if label.value is not None]
    reasons = Counter(label.reason for label in labels if label.reason)
    return Outcome(
        domain=domain,
        query_id=query_id,
        role=role,
        metric=metric,
        value=fmean(known) if known else None,
        source="code",
        note=", ".join(reasons),
    )
