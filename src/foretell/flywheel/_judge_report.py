"""Judges against people, from what is stored."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from foretell.errors import InputError
from foretell.flywheel._judge_quality import JudgeHonesty, judge_honesty
from foretell.flywheel._labeller import Attributed, Labeller
from foretell.records import Outcome, Role
from foretell.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgedModel:
    """A judge against people, over the answers of one model.

    ``model`` is its key in the store, ``people`` the metric that people's outcomes have.
    """

    role: Role
    model: str
    people: str
    honesty: JudgeHonesty


def compare_with_people(
    store: Store, domain: str, labeller: Labeller, *, people: str | None = None
) -> list[JudgedModel]:
    """How a judge's stored outcomes compare with people's, by the model that answered.

    Models of whose answers people have judged none that the judge has are left out. ``people`` is
    the metric of people's outcomes; left out, it is the judge's own where people have used that,
    else the only one that they have used.

    Raises:
        InputError: People have used several metrics, or not the one that was given.
    """
    stored = store.outcomes(domain)
    author = labeller.author if isinstance(labeller, Attributed) else ""
    metric = _peoples_metric(
        {one.metric for of_model in stored.values() for one in of_model if one.source == "human"},
        labeller.metric,
        people,
    )
    if metric is None:
        return []
    compared = list[JudgedModel]()
    for key, outcomes in sorted(stored.items()):
        for role, of_role in _by_role(outcomes):
            judge = [
                one
                for one in of_role
                if (one.source, one.metric, one.author) == ("judge", labeller.metric, author)
            ]
            human = [one for one in of_role if (one.source, one.metric) == ("human", metric)]
            honesty = judge_honesty(judge, human)
            if honesty.quality.agreement.n:
                compared.append(JudgedModel(role=role, model=key, people=metric, honesty=honesty))
    return compared


def _peoples_metric(used: set[str], own: str, chosen: str | None) -> str | None:
    listed = ", ".join(sorted(used)) or "none"
    if chosen is not None:
        if chosen not in used:
            raise InputError(f"people have labelled nothing by {chosen!r}; they have used {listed}")
        return chosen
    if own in used:
        return own
    if len(used) > 1:
        raise InputError(
            f"people have labelled by several metrics: {listed}; choose one to compare the judge "
            "with, with --people"
        )
    return next(iter(used), None)


def _by_role(outcomes: Iterable[Outcome]) -> Sequence[tuple[Role, list[Outcome]]]:
    roles = defaultdict[Role, list[Outcome]](list)
    for outcome in outcomes:
        roles[outcome.role].append(outcome)
    return sorted(roles.items())
