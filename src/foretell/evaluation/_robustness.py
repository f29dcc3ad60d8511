"""How often a decision changes though the question did not, and whether a text can force it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from foretell.errors import InputError
from foretell.evaluation._confounder import Confounder
from foretell.evaluation._intervals import Floats, Interval, Resamples, interval
from foretell.evaluation._perturbations import (
    PERTURBATIONS,
    Perturbation,
    append_text,
    perturb_query,
)
from foretell.evaluation._scoring import Score
from foretell.evaluation._statistics import mean_of
from foretell.records import Query


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipRate:
    """Shares of the queries whose decision changed, and by how much their chance did.

    ``flipped`` is the sum of ``to_escalate`` (kept before, escalated after) and ``to_keep``.
    ``mean_change`` is the mean absolute change of p_success.
    """

    flipped: Interval
    to_escalate: Interval
    to_keep: Interval
    mean_change: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class RobustnessRow:
    """Decisions under one kind of change: a perturbation, or ``confounder``."""

    kind: str
    flips: FlipRate


def flip_rate(
    before: ArrayLike, after: ArrayLike, keep_at: float, resamples: Resamples
) -> FlipRate:
    """How the decisions ``p_success >= keep_at`` differ between two rounds of chances.

    Args:
        before: Chances of the queries as they are, (n,).
        after: Of the same queries, changed, (n,).
        keep_at: Chance from which a query is kept.
        resamples: Draws over the groups of the same n queries.

    Raises:
        InputError: The two rounds are not of the same length.
    """
    one, other = np.asarray(before, dtype=np.float64), np.asarray(after, dtype=np.float64)
    if one.ndim != 1 or one.shape != other.shape or one.shape != resamples.group.shape:
        raise InputError(
            f"chances before have shape {one.shape} and after {other.shape} over "
            f"{len(resamples.group)} queries; wanted one of each per query"
        )
    kept, still = one >= keep_at, other >= keep_at
    rows = np.arange(len(one))

    def share(values: Floats) -> Interval:
        return interval(mean_of(values), resamples, rows)

    return FlipRate(
        flipped=share((kept != still).astype(np.float64)),
        to_escalate=share((kept & ~still).astype(np.float64)),
        to_keep=share((~kept & still).astype(np.float64)),
        mean_change=share(np.abs(other - one)),
    )


def robustness(
    queries: Sequence[Query],
    score: Score,
    keep_at: float,
    rng: np.random.Generator,
    *,
    kinds: Sequence[Perturbation] = PERTURBATIONS,
    confounder: Confounder | None = None,
    resamples: int = 1_000,
) -> tuple[RobustnessRow, ...]:
    """Flip rates of one router under each kind of change.

    Each kind scores every query once more. The same ``rng`` makes the same changes, so routers
    can be compared on them.

    Args:
        queries: Held-out queries; the confounder's own are refused.
        score: Queries to chances, see ``engine_scorer`` and ``text_scorer``.
        keep_at: Chance from which a query is kept.
        rng: Decides changes and resamples.
        kinds: Perturbations to try; a kind's changes do not depend on the others.
        confounder: A string found on other queries, which is measured as the last row.
        resamples: Bootstrap draws behind each interval, over groups.

    Raises:
        InputError: No queries, or the confounder was optimised on some of them.
    """
    if not queries:
        raise InputError("there are no queries to perturb; give at least one")
    seen = confounder.query_ids & {query.id for query in queries} if confounder else frozenset()
    if seen:
        raise InputError(
            f"the confounder was optimised on {len(seen)} of these queries, such as "
            f"{min(seen)!r}; measure it on others"
        )
    for_draws, *for_kinds = rng.spawn(1 + len(PERTURBATIONS))
    by_kind = dict(zip(PERTURBATIONS, for_kinds, strict=True))
    draws = Resamples.draw([q.group or q.id for q in queries], for_draws, resamples)
    before = score(queries)

    def row(kind: str, changed: Sequence[Query]) -> RobustnessRow:
        return RobustnessRow(kind=kind, flips=flip_rate(before, score(changed), keep_at, draws))

    rows = [
        row(kind, [perturb_query(query, kind, by_kind[kind]) for query in queries])
        for kind in kinds
    ]
    if confounder is not None:
        rows.append(row("confounder", [append_text(query, confounder.text) for query in queries]))
    return tuple(rows)
