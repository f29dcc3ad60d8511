"""A string that, appended to any query, moves a router's decision: how easily is one found?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from foretell.errors import InputError
from foretell.evaluation._perturbations import append_text
from foretell.evaluation._scoring import Score
from foretell.records import Query

Direction = Literal["keep", "escalate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Confounder:
    """The best string found, and what it does to the queries that it was optimised on.

    That is better than what it does to others: ``robustness`` measures it on those.
    ``p_before`` and ``p_after`` are the mean chances without and with it, ``escalated_before``
    and ``escalated_after`` the shares below the bar. ``evaluations`` counts the prompts scored.
    """

    text: str
    direction: Direction
    p_before: float
    p_after: float
    escalated_before: float
    escalated_after: float
    evaluations: int
    query_ids: frozenset[str]


def optimise_confounder(
    score: Score,
    queries: Sequence[Query],
    vocabulary: Sequence[str],
    rng: np.random.Generator,
    *,
    keep_at: float,
    direction: Direction = "escalate",
    length: int = 10,
    candidates: int = 16,
    budget: int = 10_000,
) -> Confounder:
    """Hill climbing over word substitutions, after Shafran et al. (arXiv 2501.01818).

    Begins with ``length`` random words; each step tries ``candidates`` other words at one random
    place and takes the best of them if it moves the mean chance further. A black-box attack: it
    sees chances alone. The paper's string is one for all queries too, but stands before the query
    and is optimised by itself; here it is appended, and optimised on the mean over ``queries``, as
    it is going to be used. A few dozen queries will do.

    Args:
        score: The router under attack.
        queries: What to optimise on; other queries than those that it is measured on later.
        vocabulary: Words that the string is made of, two or more different ones.
        rng: Decides the beginning, places and candidates.
        keep_at: Chance from which a query is kept: only for the shares, not for the search.
        direction: What the attacker wants: the strong model's answers, or to spoil quality.
        length: Words in the string.
        candidates: Words tried in each step.
        budget: Most prompts to score; the search ends before the step that would exceed it.

    Raises:
        InputError: Nothing to optimise on or with, or a budget below two rounds over ``queries``.
    """
    words = sorted(set(vocabulary))
    if not queries or len(words) < 2 or length < 1 or candidates < 1:
        raise InputError(
            f"cannot optimise over {len(queries)} queries, {len(words)} different words, length "
            f"{length} and {candidates} candidates; wanted 1, 2, 1 and 1 at least"
        )
    if budget < 2 * len(queries):
        raise InputError(
            f"a budget of {budget} prompts is not enough to score {len(queries)} queries without "
            "and with a string; raise it, or give fewer queries"
        )
    attack = _Attack(score=score, queries=queries, sign=1 if direction == "keep" else -1)
    (before,) = attack.chances([()])
    best = [words[i] for i in rng.integers(len(words), size=length)]
    (after,) = attack.chances([best])
    evaluations = 2 * len(queries)
    while evaluations + candidates * len(queries) <= budget:
        place = int(rng.integers(length))
        others = [word for word in words if word != best[place]]
        drawn = rng.choice(len(others), size=min(candidates, len(others)), replace=False)
        tried = [[*best[:place], others[i], *best[place + 1 :]] for i in drawn.tolist()]
        found = attack.chances(tried)
        evaluations += len(tried) * len(queries)
        likest = max(range(len(tried)), key=lambda i: attack.sign * found[i].mean())
        if attack.sign * found[likest].mean() > attack.sign * after.mean():
            best, after = tried[likest], found[likest]
    return Confounder(
        text=" ".join(best),
        direction=direction,
        p_before=float(before.mean()),
        p_after=float(after.mean()),
        escalated_before=float((before < keep_at).mean()),
        escalated_after=float((after < keep_at).mean()),
        evaluations=evaluations,
        query_ids=frozenset(query.id for query in queries),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Attack:
    """Scores strings on all queries in one call; ``sign`` makes more of what is wanted better."""

    score: Score
    queries: Sequence[Query]
    sign: int

    def chances(self, strings: Sequence[Sequence[str]]) -> np.ndarray:
        """(strings, queries)."""
        changed = [
            append_text(query, " ".join(string)) for string in strings for query in self.queries
        ]
        return self.score(changed).reshape(len(strings), len(self.queries))
