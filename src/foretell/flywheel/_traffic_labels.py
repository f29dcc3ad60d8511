"""Labels for what traffic brought: callers' feedback, and the domain's labeller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Final

from foretell.config import Config, LabellerConfig
from foretell.errors import InputError
from foretell.flywheel._duty import Task
from foretell.flywheel._feedback import take_feedback, the_vote_metric
from foretell.flywheel._judge import Judge
from foretell.flywheel._labelling import label_domain, text_is_withheld
from foretell.flywheel._options import number
from foretell.flywheel._queue import Progress, domain_of
from foretell.flywheel._registry import make_labeller, metric_named
from foretell.flywheel._triggers import LATER, WAITING
from foretell.flywheel._workshop import Workshop
from foretell.records import Role
from foretell.runtime import Foretell
from foretell.store import Store

FEEDBACK: Final = "feedback"
"""The labeller that is nobody but the callers."""

_AT_ONCE: Final = 500
"""Queries a job labels at most, so that other duties have their turn."""
_PARALLEL: Final = 4
_ROLES: Final[tuple[Role, ...]] = ("weak", "strong")
_HISTORY: Final = 2_000
_USD_A_DAY: Final = 1.0
_PASSING: Final = tuple(
    f"judge: {what}"
    for what in (
        "breaker open",
        "broke off",
        "busy",
        "cost cap reached",
        "error",
        "timeout",
        "unreachable",
    )
)
"""Why a judge gave no verdict that it may give another day."""


def label_traffic(task: Task, progress: Progress) -> dict[str, Any]:
    """Take over the domain's feedback, then label what nobody has judged yet.

    Of more than some hundred queries as many are taken, by their ids, which for traffic is by lot;
    the next job goes on. A judge's ``max_usd`` is what it may cost in a day (UTC).
    """
    chosen = task.config.flywheel.labellers.get(task.domain)
    result: dict[str, Any] = {}
    said = [_take_feedback(task, result)]
    if chosen is not None and chosen.name != FEEDBACK:
        said.append(_label(task, chosen, result, progress))
    return {**result, "words": "; ".join(words for words in said if words)}


def metric_of(config: Config, domain: str) -> str | None:
    """What the labels of a domain's labeller are called.

    ``None`` where there is no labeller, or it is the callers and their own word counts. Raises
    ``InputError`` for a labeller that cannot be made.
    """
    chosen = config.flywheel.labellers.get(domain)
    match chosen:
        case None:
            return None
        case LabellerConfig(name="feedback"):
            return chosen.options.get("metric")
        case _:
            return metric_named(chosen.name, chosen.options)


def _take_feedback(task: Task, result: dict[str, Any]) -> str:
    if not task.store.votes(task.domain):
        return "no feedback"
    try:
        metric = metric_of(task.config, task.domain) or the_vote_metric(task.store, task.domain)
    except InputError as error:
        return str(error)
    taken = take_feedback(
        task.store, task.domain, metric=metric, influence_cap=task.config.flywheel.influence_cap
    )
    result["feedback"] = asdict(taken)
    set_aside = sum(taken.over_cap.values())
    return f"{taken.labels} labels by feedback" + (
        f" ({set_aside} votes set aside: their keys gave too many)" if set_aside else ""
    )


def _label(task: Task, chosen: LabellerConfig, result: dict[str, Any], progress: Progress) -> str:
    """Label what nobody has judged; returns what came of it."""
    store, domain = task.store, task.domain
    options = dict(chosen.options)
    if chosen.name == "judge":
        cap, spent = number(options, "max_usd", default=_USD_A_DAY), _spent_today(task)
        if spent >= cap:
            result[LATER] = len(_waiting(store, domain, metric_named(chosen.name, options)))
            return f"the judge has cost {spent:.4f} USD today, of {cap:g} it may (max_usd)"
        options["max_usd"] = str(cap - spent)
    with Foretell(task.config) as ft, Workshop(ft, store, domain) as workshop:
        labeller = make_labeller(chosen.name, options, workshop)
        waiting = _waiting(store, domain, labeller.metric)
        some = set(sorted(waiting)[:_AT_ONCE])
        if not some:
            return f"{labeller.metric}: nothing new whose text is kept"
        done = 0

        def advance() -> None:
            nonlocal done
            done += 1
            share = min(1.0, done / (len(some) * len(_ROLES)))
            progress(share, f"labelling by {labeller.metric}: {done} answers")

        counts = label_domain(
            store, domain, labeller, _ROLES, parallel=_PARALLEL, only=some, on_done=advance
        )
        if isinstance(labeller, Judge):
            result["usd"] = labeller.used.usd
        again = _take_back_passing(store, domain, labeller.metric)
    result["labelled"] = {role: asdict(row) for role, row in counts.items()}
    labelled = sum(row.labelled for row in counts.values())
    words = f"{labelled} answers labelled by {labeller.metric}"
    if again:
        words += f", {sum(again.values())} left for later ({', '.join(again)})"
    left = len(waiting) - len(some)
    # One that got nowhere need not be followed at once.
    result[WAITING if labelled else LATER] = left
    result[LATER] = result.get(LATER, 0) + sum(again.values())
    return words + (f", {left} queries go on waiting" if left else "")


def _waiting(store: Store, domain: str, metric: str) -> set[str]:
    """Queries with an answer that nobody has judged, and whose text is kept."""
    unjudged = set[str]().union(*(store.unlabelled(domain, metric, role) for role in _ROLES))
    if not unjudged:
        return unjudged
    return {
        query.id
        for query in store.queries(domain)
        if query.id in unjudged and not text_is_withheld(query)
    }


def _take_back_passing(store: Store, domain: str, metric: str) -> Mapping[str, int]:
    """Forget that a judge could not say, where it may say another day; returns the reasons."""
    passing = [
        outcome
        for of_model in store.outcomes(domain).values()
        for outcome in of_model
        if outcome.metric == metric and outcome.value is None and outcome.note.startswith(_PASSING)
    ]
    store.delete_outcomes(passing)
    return Counter(outcome.note for outcome in passing)


def _spent_today(task: Task) -> float:
    """Dollars that labelling the domain has cost this day (UTC)."""
    today = task.now.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()
    return sum(
        float(job.result.get("usd", 0.0))
        for job in task.store.jobs(limit=_HISTORY)
        if job.kind == "label" and domain_of(job) == task.domain and job.created_at >= today
    )
