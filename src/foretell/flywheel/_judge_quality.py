"""How far a judge can be believed, and what its verdicts say once that is known."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

from foretell.calibration import clopper_pearson
from foretell.errors import InputError
from foretell.evaluation import Interval
from foretell.records import Outcome

_CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeQuality:
    """A judge against people, over the answers that both have judged; 95 % intervals, exact.

    ``sensitivity`` is the share of what people call a success that the judge calls one, too,
    ``specificity`` the same of failures, ``agreement`` of all. Each is ``None`` where people have
    found no such answer. ``disagreements`` are the queries on which they differ, in order;
    ``left_out`` counts those where either side was undecided.
    """

    sensitivity: Interval
    specificity: Interval
    agreement: Interval
    disagreements: tuple[str, ...]
    left_out: int


@dataclass(frozen=True, slots=True, kw_only=True)
class JudgeHonesty:
    """What a judge's verdicts on a model's answers are worth.

    ``apparent`` is the success rate as the judge sees it, ``rogan_gladen`` and
    ``prediction_powered`` the rate as people would see it, estimated in two ways. Both take the
    answers that people judged for a random sample of those that the judge judged.
    """

    quality: JudgeQuality
    apparent: Interval
    rogan_gladen: Interval
    prediction_powered: Interval


@dataclass(frozen=True, slots=True)
class _Paired:
    """Verdicts by query: of both, and of the judge where people have said nothing."""

    both: Mapping[str, tuple[bool, bool]]
    judge_alone: tuple[bool, ...]
    left_out: int


def judge_quality(judge: Iterable[Outcome], human: Iterable[Outcome]) -> JudgeQuality:
    """Compare a judge's outcomes with people's, over the same answers of one model.

    Outcomes belong together by query. Several of one side on a query are averaged; above one half
    is a success, below a failure, and one half is undecided. The metrics may differ in name.

    Raises ``InputError`` for outcomes of several domains or roles: compare them one by one.
    """
    return _quality(_pair(judge, human))


def judge_honesty(judge: Iterable[Outcome], human: Iterable[Outcome]) -> JudgeHonesty:
    """A judge's quality, and the success rate of the answers corrected for it.

    Outcomes as for ``judge_quality``.
    """
    paired = _pair(judge, human)
    quality = _quality(paired)
    ours = [verdict for verdict, _ in paired.both.values()]
    theirs = [verdict for _, verdict in paired.both.values()]
    said = [*ours, *paired.judge_alone]
    return JudgeHonesty(
        quality=quality,
        apparent=_share(sum(said), len(said)),
        rogan_gladen=rogan_gladen(
            sum(said), len(said), sensitivity=quality.sensitivity, specificity=quality.specificity
        ),
        prediction_powered=prediction_powered(ours, theirs, paired.judge_alone),
    )


def rogan_gladen(
    positives: int, n: int, *, sensitivity: Interval, specificity: Interval
) -> Interval:
    """The true success rate behind an apparent one (Rogan and Gladen, 1978), ``n`` judged.

    ``(apparent + specificity − 1) / (sensitivity + specificity − 1)``, cut to 0 and 1, with the
    95 % interval of Lang and Reiczigel (2014), which counts in that sensitivity and specificity are
    themselves estimated. All are ``None`` where either is not known or the judge is no better than
    chance; the interval alone may be, where that cannot be told apart.
    """
    se, sp = sensitivity.value, specificity.value
    if n == 0 or se is None or sp is None or se + sp <= 1:
        return Interval(value=None, n=n)
    value = _within((positives / n + sp - 1) / (se + sp - 1))
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    # Their equations: each share is drawn towards one half before its variance is taken.
    n_p, n_se, n_sp = n + z**2, sensitivity.n + 2, specificity.n + 2
    p = (positives + z**2 / 2) / n_p
    se, sp = (se * sensitivity.n + 1) / n_se, (sp * specificity.n + 1) / n_sp
    better = se + sp - 1
    if better <= 0:
        return Interval(value=value, n=n)
    rate = (p + sp - 1) / better
    of_se, of_sp = se * (1 - se) / n_se, sp * (1 - sp) / n_sp
    shift = 2 * z**2 * (rate * of_se - (1 - rate) * of_sp)
    half = z * math.sqrt(p * (1 - p) / n_p + rate**2 * of_se + (1 - rate) ** 2 * of_sp) / better
    low, high = _within(rate + shift - half), _within(rate + shift + half)
    return Interval(value=value, low=min(low, value), high=max(high, value), n=n)


def prediction_powered(
    judge: Sequence[bool], human: Sequence[bool], judge_alone: Sequence[bool]
) -> Interval:
    """The success rate by people, with the judge's verdicts as cheap predictions of theirs.

    The mean of people's verdicts, moved by how much the judge finds the rest better than the part
    that people saw (Angelopoulos et al., 2023), as far as the judge's word helps (PPI++, 2024). It
    is never much worse than people's verdicts alone. The 95 % interval is normal, of counts to
    which one answer of each of the four combinations was added, since few labels that happen to
    agree prove little. ``judge`` and ``human`` are of the same answers, ``judge_alone`` is of
    others; ``n`` counts them all. ``None`` without verdicts of people.
    """
    if len(judge) != len(human):
        raise InputError(f"{len(judge)} verdicts of the judge, but {len(human)} of people")
    n, more = len(human), len(judge_alone)
    if n == 0:
        return Interval(value=None, n=more)
    weight = _weight(judge, human, more)
    value = _within(_rate(judge, human, judge_alone, weight))
    added = [*judge, True, True, False, False], [*human, True, False, True, False]
    weight = _weight(*added, more)
    centre = _rate(*added, judge_alone, weight)
    residuals = np.array(added[1], dtype=float) - weight * np.array(added[0], dtype=float)
    variance = residuals.var() / len(residuals)
    if more:
        variance += weight**2 * np.array([*judge_alone, True, False], dtype=float).var() / more
    half = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2) * math.sqrt(variance)
    low, high = _within(centre - half), _within(centre + half)
    return Interval(value=value, low=min(low, value), high=max(high, value), n=n + more)


def _rate(
    judge: Sequence[bool], human: Sequence[bool], judge_alone: Sequence[bool], weight: float
) -> float:
    moved = weight * (fmean(judge_alone) - fmean(judge)) if judge_alone else 0.0
    return fmean(human) + moved


def _weight(judge: Sequence[bool], human: Sequence[bool], more: int) -> float:
    """How much of the judge's word to take, 0 to 1: what makes the variance least."""
    ours, theirs = np.array(judge, dtype=float), np.array(human, dtype=float)
    spread = ours.var()
    if more == 0 or spread == 0:
        return 0.0
    together = ((ours - ours.mean()) * (theirs - theirs.mean())).mean()
    return _within(float(together / ((1 + len(ours) / more) * spread)))


def _pair(judge: Iterable[Outcome], human: Iterable[Outcome]) -> _Paired:
    judge, human = list(judge), list(human)
    kinds = {(outcome.domain, outcome.role) for outcome in (*judge, *human)}
    if len(kinds) > 1:
        listed = ", ".join(f"{role} of {domain!r}" for domain, role in sorted(kinds))
        raise InputError(f"outcomes of several kinds of answers: {listed}; compare one by one")
    ours, theirs = _verdicts(judge), _verdicts(human)
    both = dict[str, tuple[bool, bool]]()
    alone, left_out = list[bool](), 0
    for query_id, verdict in sorted(ours.items()):
        if query_id not in theirs:
            alone += [] if verdict is None else [verdict]
            continue
        seen = theirs[query_id]
        if verdict is None or seen is None:
            left_out += 1
        else:
            both[query_id] = verdict, seen
    return _Paired(both, tuple(alone), left_out)


def _verdicts(outcomes: Iterable[Outcome]) -> dict[str, bool | None]:
    """By query, success or failure; ``None`` where neither."""
    values = defaultdict[str, list[float]](list)
    for outcome in outcomes:
        values[outcome.query_id] += [] if outcome.value is None else [outcome.value]
    means = {
        query_id: fmean(of_query) if of_query else 0.5 for query_id, of_query in values.items()
    }
    return {query_id: None if mean == 0.5 else mean > 0.5 for query_id, mean in means.items()}


def _quality(paired: _Paired) -> JudgeQuality:
    pairs = paired.both.values()
    successes = [judge for judge, human in pairs if human]
    failures = [not judge for judge, human in pairs if not human]
    agreed = [judge == human for judge, human in pairs]
    return JudgeQuality(
        sensitivity=_share(sum(successes), len(successes)),
        specificity=_share(sum(failures), len(failures)),
        agreement=_share(sum(agreed), len(agreed)),
        disagreements=tuple(
            query_id for query_id, (judge, human) in paired.both.items() if judge != human
        ),
        left_out=paired.left_out,
    )


def _share(count: int, n: int) -> Interval:
    if n == 0:
        return Interval(value=None, n=0)
    low, high = clopper_pearson(count, n, _CONFIDENCE)
    return Interval(value=count / n, low=low, high=high, n=n)


def _within(share: float) -> float:
    return min(1.0, max(0.0, share))
