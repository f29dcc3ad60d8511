"""How far people agree on the same answers, beyond what chance would make them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from math import sqrt
from statistics import NormalDist

import numpy as np

from foretell.calibration import clopper_pearson
from foretell.evaluation import Interval

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Two people over the answers that both have judged.

    ``share`` is how often they agree (95 % interval, exact), ``kappa`` the same beyond chance
    (Cohen, 1960): ``(share - chance) / (1 - chance)``, 1 for perfect, 0 for what two people
    who ignore the answers would reach. It is ``None`` where both always say the same one thing, so
    that chance alone explains all. Its interval is normal, by the jackknife over answers; ``None``
    where they agree on everything or on nothing, since that tells no spread. ``disagreements`` are
    the ids of the queries on which they differ.
    """

    authors: tuple[str, str]
    share: Interval
    kappa: Interval
    disagreements: tuple[str, ...]


def agreement(labels: Iterable[tuple[str, str, float]]) -> tuple[Agreement, ...]:
    """Every pair of people who have judged some answer both, by their names.

    ``labels`` are an answer's id, who judged it, and the value; above one half is a success. One
    half is no verdict.
    """
    said = defaultdict[str, dict[str, bool]](dict)
    for query_id, author, value in labels:
        if value != 0.5:
            said[author][query_id] = value > 0.5
    pairs = [_pair(said, *names) for names in combinations(sorted(said), 2)]
    return tuple(one for one in pairs if one.share.n)


def _pair(said: Mapping[str, Mapping[str, bool]], first: str, second: str) -> Agreement:
    both = sorted(said[first].keys() & said[second].keys())
    ours = np.array([said[first][one] for one in both], dtype=bool)
    theirs = np.array([said[second][one] for one in both], dtype=bool)
    return Agreement(
        authors=(first, second),
        share=_share(int((ours == theirs).sum()), len(both)),
        kappa=_kappa(ours, theirs),
        disagreements=tuple(one for one, a, b in zip(both, ours, theirs, strict=True) if a != b),
    )


def _share(count: int, n: int) -> Interval:
    if n == 0:
        return Interval(value=None, n=0)
    low, high = clopper_pearson(count, n, _CONFIDENCE)
    return Interval(value=count / n, low=low, high=high, n=n)


def _kappa(ours: np.ndarray, theirs: np.ndarray) -> Interval:
    n = len(ours)
    value = _kappa_of(n, int((ours == theirs).sum()), int(ours.sum()), int(theirs.sum()))
    if value is None:
        return Interval(value=None, n=n)
    # Answers of one kind (of four) have the same value when left out, and count as often.
    left_out = [
        (
            int(((ours == a) & (theirs == b)).sum()),
            _kappa_of(n - 1, int((ours == theirs).sum()) - (a == b), int(ours.sum()) - a,
                      int(theirs.sum()) - b),
        )
        for a in (False, True)
        for b in (False, True)
    ]  # fmt: skip
    known = [(times, other) for times, other in left_out if times and other is not None]
    if len(known) < sum(times > 0 for times, _ in left_out) or len(known) < 2:
        return Interval(value=value, n=n)
    mean = sum(times * other for times, other in known) / n
    variance = (n - 1) / n * sum(times * (other - mean) ** 2 for times, other in known)
    if variance == 0:
        return Interval(value=value, n=n)
    half = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * sqrt(variance)
    return Interval(value=value, low=max(-1.0, value - half), high=min(1.0, value + half), n=n)


def _kappa_of(n: int, agreed: int, ours: int, theirs: int) -> float | None:
    if n == 0:
        return None
    chance = (ours * theirs + (n - ours) * (n - theirs)) / n**2
    return None if chance == 1 else (agreed / n - chance) / (1 - chance)
