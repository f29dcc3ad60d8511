"""Labels for a few queries of a domain: those that help its probe most, in batches."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from foretell.flywheel._active import Strategy, choose_queries
from foretell.flywheel._labeller import Labeller
from foretell.flywheel._labelling import LabelCounts, label_domain, text_is_withheld
from foretell.records import Role
from foretell.store import Store

BATCH: Final = 50
"""Labels after which the choice is thought over again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetedLabels:
    """What a budget of labels was spent on.

    ``chosen`` queries had their answers labelled, ``at_random`` of them drawn by lot; ``basis`` is
    by what the others were chosen in the end (see ``Choice``). ``waiting`` were unlabelled before.
    ``counts`` says by role what came of it.
    """

    chosen: int
    at_random: int
    basis: str
    waiting: int
    counts: dict[Role, LabelCounts]


def label_budget(
    store: Store,
    domain: str,
    labeller: Labeller,
    budget: int,
    *,
    now: float,
    strategy: Strategy = "helpful",
    random_share: float = 0.25,
    batch: int = BATCH,
    weak_model: str | None = None,
    roles: Sequence[Role] = ("weak", "strong"),
    parallel: int = 1,
    on_done: Callable[[], object] | None = None,
) -> BudgetedLabels:
    """Choose queries by ``choose_queries`` and label their answers by ``label_domain``, in turns.

    Each batch is chosen with what the labels before it have taught. Interrupted, it keeps the
    batches that were finished.

    Args:
        store: Holds the answers.
        domain: Whose.
        labeller: Who judges.
        budget: Queries to label; each is counted once, however many models have answered it.
        now: Seconds since 1970 (UTC).
        strategy: See ``choose_queries``.
        random_share: See ``choose_queries``.
        batch: Queries between two choices.
        weak_model: Key of the weak model, needed when several have answered.
        roles: Which models' answers are labelled.
        parallel: Answers at once.
        on_done: Called after each answer.
    """
    readable = {one.id for one in store.queries(domain) if not text_is_withheld(one)}
    chosen, at_random, waiting, basis = 0, 0, None, "nothing"
    counts: dict[Role, list[LabelCounts]] = {role: [] for role in roles}
    while chosen < budget:
        choice = choose_queries(
            store,
            domain,
            min(batch, budget - chosen),
            metric=labeller.metric,
            now=now,
            strategy=strategy,
            random_share=random_share,
            weak_model=weak_model,
            candidates=store.unlabelled(domain, labeller.metric, "weak") & readable,
        )
        waiting = choice.waiting if waiting is None else waiting
        if not choice.ids:
            break
        done = label_domain(
            store, domain, labeller, roles, parallel=parallel, only=set(choice.ids), on_done=on_done
        )
        for role, row in done.items():
            counts[role].append(row)
        chosen += len(choice.ids)
        at_random += len(choice.at_random)
        basis = choice.basis
    return BudgetedLabels(
        chosen=chosen,
        at_random=at_random,
        basis=basis,
        waiting=waiting or 0,
        counts={role: _sum(rows) for role, rows in counts.items()},
    )


def _sum(rows: Sequence[LabelCounts]) -> LabelCounts:
    labelled = sum(row.labelled for row in rows)
    succeeded = sum((row.success_rate or 0.0) * row.labelled for row in rows)
    reasons = Counter[str]()
    for row in rows:
        reasons.update(row.reasons)
    return LabelCounts(
        queries=sum(row.queries for row in rows),
        labelled=labelled,
        success_rate=succeeded / labelled if labelled else None,
        reasons=dict(reasons.most_common()),
    )
