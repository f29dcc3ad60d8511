"""People as labellers: a queue of answers to look at, and what they said of them."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from foretell.errors import InputError
from foretell.flywheel._active import Strategy, choose_queries
from foretell.flywheel._labeller import TRUNCATED
from foretell.flywheel._labelling import text_is_withheld
from foretell.flywheel._lots import lot
from foretell.flywheel._people_agreement import Agreement, agreement
from foretell.records import Message, Observation, Outcome, Role, content_text
from foretell.store import Store, model_key

Verdict = Literal["right", "wrong", "skip"]

ROLES: Final[tuple[Role, ...]] = ("weak", "strong")
VERDICTS: Final[Mapping[str, Verdict]] = {"right": "right", "wrong": "wrong", "skip": "skip"}
"""By what a person writes."""
_SKIPPED: Final = "skipped"
_VALUES: Final[Mapping[Verdict, float | None]] = {"right": 1.0, "wrong": 0.0, "skip": None}


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueItem:
    """One answer for a person to judge.

    ``key`` stands for exactly this answer of this model; ``id`` is the query's. ``question`` is the
    conversation as text. ``truncated`` says that the answer was cut at its token limit. ``labels``
    counts the people who have judged it before.
    """

    key: str
    id: str
    role: Role
    model: str
    question: str
    answer: str
    reference: Any
    truncated: bool
    labels: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleLabel:
    """What a person says of the answer that ``key`` stands for."""

    key: str
    verdict: Verdict
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleCounts:
    """What came of a person's labels.

    ``truncated`` were called wrong, but had been cut at their token limit, which is no failure:
    they are stored without a value. ``unknown`` were about answers that are not stored, or have
    changed. ``replaced`` are those of which the same person had said something else before.
    ``agreements`` compares everybody who has labelled the domain by this metric.
    """

    right: int
    wrong: int
    skipped: int
    truncated: int
    unknown: int
    replaced: int
    agreements: tuple[Agreement, ...]


def people_queue(
    store: Store,
    domain: str,
    metric: str,
    limit: int,
    *,
    author: str,
    now: float,
    role: Role = "weak",
    second_opinions: bool = False,
    strategy: Strategy = "helpful",
    random_share: float = 0.25,
    weak_model: str | None = None,
) -> list[QueueItem]:
    """Answers for a person to judge, the most useful first.

    Those that nobody has judged, in the order of ``choose_queries``; or, for ``second_opinions``,
    those that other people have judged: first where they disagree with each other or with another
    source, then by lot. Answers that this person has judged or skipped are not shown again, and of
    a query answered several times by one model (rollouts) the first is shown.

    Args:
        store: Holds the answers.
        domain: Whose.
        metric: What the person judges by; only outcomes by it count.
        limit: How many at most.
        author: Who will judge.
        now: Seconds since 1970 (UTC), from which age is counted.
        role: Whose answers.
        second_opinions: Show what others have judged instead of what nobody has.
        strategy: See ``choose_queries``.
        random_share: See ``choose_queries``.
        weak_model: Key of the weak model, needed when several have answered.

    Raises:
        InputError: No author.
    """
    _check_author(author)
    said = _said(store, domain, metric, role)
    answers = {
        place: one
        for place, one in _answers(store, domain, role).items()
        if (role == "strong" or weak_model in (None, place.model))
        and not text_is_withheld(one.query)
        and all(own.author != author for own in said[place].people)
    }
    if second_opinions:
        again = [place for place in answers if _verdicts(said[place].people)]
        salt = store.salt()
        again.sort(key=lambda place: (not said[place].disputed, lot(place.query_id, salt)))
        return [_item(place, answers[place], said[place]) for place in again[:limit]]
    fresh = [place for place in answers if not _verdicts(said[place].people)]
    choice = choose_queries(
        store,
        domain,
        limit,
        metric=metric,
        now=now,
        # what helps most is about the weak model's success
        strategy=strategy if role == "weak" else "random",
        random_share=random_share,
        weak_model=weak_model,
        candidates={place.query_id for place in fresh},
    )
    order = {query_id: row for row, query_id in enumerate(choice.ids)}
    chosen = sorted(
        (place for place in fresh if place.query_id in order),
        key=lambda place: (order[place.query_id], place.model),
    )
    return [_item(place, answers[place], said[place]) for place in chosen[:limit]]


def put_people_labels(
    store: Store, domain: str, labels: Sequence[PeopleLabel], *, metric: str, author: str
) -> PeopleCounts:
    """Store what a person says, beside what others have said of the same answers.

    Each person has one label an answer; a later one replaces the same person's own. Outcomes are
    of source ``human``. What was done is noted as an event ``people_labels``, without any text.

    Args:
        store: Holds the answers.
        domain: Whose.
        labels: At most one an answer; of several the last counts.
        metric: What the person judged by.
        author: Who judged.

    Raises:
        InputError: No author.
    """
    _check_author(author)
    places = _places(store, domain)
    found = {one.key: one for one in labels if one.key in places}
    unknown = sum(one.key not in places for one in labels)
    before = {
        (one.role, key, one.query_id): one
        for key, outcomes in store.outcomes(domain).items()
        for one in outcomes
        if (one.source, one.metric, one.author) == ("human", metric, author)
    }
    by_model = defaultdict[str, list[Outcome]](list)
    replaced = 0
    for key, label in found.items():
        place, cut = places[key]
        outcome = _outcome(domain, place, label, metric=metric, author=author, cut=cut)
        own = before.get((place.role, place.model, place.query_id))
        replaced += own is not None and own.value != outcome.value
        by_model[place.model].append(outcome)
    for model, outcomes in by_model.items():
        store.put_outcomes(outcomes, model_key=model)
    verdicts = [label.verdict for label in found.values()]
    truncated = sum(one.verdict == "wrong" and places[key][1] for key, one in found.items())
    counts = PeopleCounts(
        right=verdicts.count("right"),
        wrong=verdicts.count("wrong") - truncated,
        skipped=verdicts.count("skip"),
        truncated=truncated,
        unknown=unknown,
        replaced=replaced,
        agreements=people_agreement(store, domain, metric),
    )
    if found:
        _note(
            store, domain, author, metric=metric, right=counts.right, wrong=counts.wrong,
            skipped=counts.skipped, truncated=truncated, replaced=replaced,
        )  # fmt: skip
    return counts


def take_back_people_labels(
    store: Store, domain: str, keys: Iterable[str], *, metric: str, author: str
) -> int:
    """Undo: delete what one person has said of these answers, and return how many labels it was.

    Nobody else's label changes, and the answers are in that person's queue again.
    """
    _check_author(author)
    places = _places(store, domain)
    by_model = defaultdict[str, list[Outcome]](list)
    for key in set(keys) & places.keys():
        place, cut = places[key]
        label = PeopleLabel(key=key, verdict="skip")
        by_model[place.model].append(
            _outcome(domain, place, label, metric=metric, author=author, cut=cut)
        )
    taken = sum(
        store.delete_outcomes(outcomes, model_key=model) for model, outcomes in by_model.items()
    )
    if taken:
        _note(store, domain, author, metric=metric, taken_back=taken)
    return taken


def people_agreement(store: Store, domain: str, metric: str) -> tuple[Agreement, ...]:
    """How far each pair of people agrees on the answers of a domain that both have judged."""
    return agreement(
        (f"{one.query_id} ({one.role}, {model})", one.author, one.value)
        for model, outcomes in store.outcomes(domain).items()
        for one in outcomes
        if one.source == "human" and one.metric == metric and one.value is not None
    )


@dataclass(frozen=True, slots=True, order=True)
class _Place:
    """One answer: whose, to which query."""

    query_id: str
    role: Role
    model: str


@dataclass(frozen=True, slots=True)
class _Said:
    """What there is about one answer."""

    people: list[Outcome] = field(default_factory=list[Outcome])
    others: list[Outcome] = field(default_factory=list[Outcome])

    @property
    def disputed(self) -> bool:
        """Whether somebody calls a success what somebody else calls a failure."""
        return len(_verdicts([*self.people, *self.others])) > 1


def _verdicts(outcomes: Iterable[Outcome]) -> set[bool]:
    return {one.value > 0.5 for one in outcomes if one.value not in (None, 0.5)}


def _said(store: Store, domain: str, metric: str, role: Role) -> defaultdict[_Place, _Said]:
    said = defaultdict[_Place, _Said](_Said)
    for model, outcomes in store.outcomes(domain).items():
        for one in outcomes:
            if one.metric == metric and one.role == role:
                about = said[_Place(one.query_id, role, model)]
                (about.people if one.source == "human" else about.others).append(one)
    return said


def _answers(store: Store, domain: str, role: Role) -> dict[_Place, Observation]:
    """First answers by what they are."""
    return {
        _Place(one.query.id, role, model_key(one.model or one.answer.model)): one
        for one in store.observations(domain, role)
        if one.rollout == 0
    }


def _places(store: Store, domain: str) -> dict[str, tuple[_Place, bool]]:
    """By the key of a queue item, the answer it stands for, and whether that was cut."""
    return {
        _key_of(place, one): (place, one.answer.finish_reason == "length")
        for role in ROLES
        for place, one in _answers(store, domain, role).items()
    }


def _item(place: _Place, one: Observation, said: _Said) -> QueueItem:
    return QueueItem(
        key=_key_of(place, one),
        id=place.query_id,
        role=place.role,
        model=place.model,
        question=_transcript(one.query.messages),
        answer=one.answer.text,
        reference=one.query.reference,
        truncated=one.answer.finish_reason == "length",
        labels=sum(own.value is not None for own in said.people),
    )


def _key_of(place: _Place, one: Observation) -> str:
    """What no spreadsheet takes for a number, and changes with the answer."""
    parts = (one.domain, place.query_id, place.role, place.model, one.answer.text)
    texts = json.dumps(parts).encode()
    return f"key-{hashlib.sha256(texts).hexdigest()[:20]}"


def _transcript(messages: Sequence[Message]) -> str:
    """A lone question as it is; else who said what, without a begun answer, which it repeats."""
    asked = list(messages)
    if len(asked) > 1 and asked[-1].get("role") == "assistant":
        asked.pop()
    if len(asked) == 1:
        return content_text(asked[0])
    return "\n\n".join(f"{one.get('role', '')}: {content_text(one)}" for one in asked)


def _outcome(
    domain: str, place: _Place, label: PeopleLabel, *, metric: str, author: str, cut: bool
) -> Outcome:
    value, reasons = _VALUES[label.verdict], list[str]()
    if label.verdict == "skip":
        reasons.append(_SKIPPED)
    if label.verdict == "wrong" and cut:
        value, reasons = None, [TRUNCATED.reason]
    return Outcome(
        domain=domain,
        query_id=place.query_id,
        role=place.role,
        metric=metric,
        value=value,
        source="human",
        author=author,
        note="; ".join([*reasons, *filter(None, [label.note.strip()])]),
    )


def _note(store: Store, domain: str, author: str, **details: Any) -> None:
    store.note("people_labels", domain, by=author, details=details)


def _check_author(author: str) -> None:
    if not author.strip() or not author.isprintable():
        raise InputError(
            "people's labels need the name of who judged, so that nobody's are mixed up with "
            "another's; give --author NAME"
        )
