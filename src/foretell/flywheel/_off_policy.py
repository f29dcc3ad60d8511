"""What a rule would do on logged traffic, when only the served model's answer is known."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.errors import InputError
from foretell.evaluation import Interval
from foretell.flywheel._influence import interval_of
from foretell.records import TrafficLog

Floats = NDArray[np.float64]

_CHANCES: Final = (0.0, 1.0)
_ANY: Final = (-math.inf, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyValue:
    """What a policy is worth by the log, estimated in four ways; ``n`` counts the answers used.

    ``naive`` takes the answers that the log happens to hold for it, all alike. ``ips`` (inverse
    propensity) and ``snips`` (with weights that add up) undo the choice of who served, ``dr``
    (doubly robust) besides lets a model fill in what was not seen. ``None`` where nothing was seen.

    ``strong_share`` is the share that the policy sends to the strong model. ``unreached`` counts
    requests of which the log cannot say anything under this policy, since it never takes the turn
    that the policy would: they are left out of all numbers.
    """

    naive: Interval
    ips: Interval
    snips: Interval
    dr: Interval
    strong_share: float | None
    unreached: int


def estimate_accuracy(
    log: TrafficLog,
    weak_share: ArrayLike,
    *,
    p_success: ArrayLike | None = None,
    p_strong: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> PolicyValue:
    """The share of answers that succeed under a policy other than the one that served.

    Requests without a ``weak_chance``, whose caller or conversation chose the model, are left out.
    Outcomes may be missing, if by chance alone. A log without any ``pair_chance`` is one in which
    nobody was asked afterwards.

    Args:
        log: Requests as they were served.
        weak_share: The policy: the chance that the weak model serves each request, (n,), or one
            number for all of them; 0 or 1 without exploration.
        p_success: What a model foretells of the weak model, for ``dr``; the log's where not given.
            It must not have been fitted on these outcomes. Where it is NaN, the mean stands in.
        p_strong: The same of the strong model.
        groups: Requests of one group are not independent; each its own where not given.
        confidence: Of the intervals.
    """
    n = len(log)
    afterwards = bool(np.isfinite(log.pair_chance).any())
    pairs = np.nan_to_num(log.pair_chance)
    weak = _Arm(
        share=np.broadcast_to(np.asarray(weak_share, dtype=np.float64), n),
        outcome=log.weak,
        chance=log.weak_chance,
        taken=log.served_weak,
        foretold=_column(p_success, log.p_success),
    )
    strong = _Arm(
        share=1 - weak.share,
        outcome=log.strong if afterwards else _of(~log.served_weak, log.strong),
        # One of the two is always known, so what is left is that of the other.
        chance=1 - log.weak_chance + pairs,
        taken=~log.served_weak,
        foretold=_column(p_strong, log.p_strong),
    )
    return _value(weak, strong, groups, confidence, _CHANCES)


def weak_success_rate(
    log: TrafficLog,
    *,
    p_success: ArrayLike | None = None,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> PolicyValue:
    """How often the weak model would succeed if it served every request it may be asked."""
    return estimate_accuracy(log, 1.0, p_success=p_success, groups=groups, confidence=confidence)


def estimate_cost(
    log: TrafficLog,
    weak_share: ArrayLike,
    *,
    shadow_share: float = 0.0,
    groups: Sequence[str] | None = None,
    confidence: float = 0.95,
) -> PolicyValue:
    """What a request costs on average under another policy, in USD.

    Arguments as for ``estimate_accuracy``. No model foretells a cost, so ``dr`` fills in means.
    ``shadow_share`` is the share of what the weak model did not serve that it was asked afterwards:
    part of ``weak_chance``, and not of what a request cost. It must have been the same throughout.
    """
    served_weak = _p_weak(log, shadow_share)
    share = np.broadcast_to(np.asarray(weak_share, dtype=np.float64), len(log))
    nothing = np.full(len(log), np.nan)
    weak = _Arm(
        share=share,
        outcome=_of(log.served_weak, log.cost_usd),
        chance=served_weak,
        taken=log.served_weak,
        foretold=nothing,
    )
    strong = _Arm(
        share=1 - share,
        outcome=_of(~log.served_weak, log.cost_usd),
        chance=1 - served_weak,
        taken=~log.served_weak,
        foretold=nothing,
    )
    return _value(weak, strong, groups, confidence, _ANY)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Arm:
    """One of the two models: how often the policy takes it, and what the log shows of it.

    ``outcome`` is NaN where it is not known, ``chance`` how likely it was to be seen, ``taken``
    where this model served, ``foretold`` what a model foretells of the outcome. All (n,).
    """

    share: Floats
    outcome: Floats
    chance: Floats
    taken: NDArray[np.bool_]
    foretold: Floats

    def take(self, rows: NDArray[np.bool_]) -> _Arm:
        return replace(self, **{name: getattr(self, name)[rows] for name in self.__slots__})

    @property
    def unreached(self) -> NDArray[np.bool_]:
        """Where the policy takes this model, and the log never does."""
        return (self.share > 0) & ~(self.chance > 0)

    @property
    def seen(self) -> NDArray[np.bool_]:
        return np.isfinite(self.outcome) & (self.chance > 0)

    @property
    def weights(self) -> Floats:
        """Of the policy's choice against the log's; 0 where the outcome is not known."""
        safe = np.where(self.seen, self.chance, 1.0)
        return np.where(self.seen, self.share / safe, 0.0)

    @property
    def known(self) -> Floats:
        """Outcomes, and 0 where they are not known."""
        return np.where(self.seen, self.outcome, 0.0)

    def labelled_share(self) -> float:
        """Of this model's answers that were served."""
        reached = self.taken & (self.chance > 0)
        served = np.count_nonzero(reached)
        return np.count_nonzero(self.seen & reached) / served if served else 0.0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Part:
    """An estimate of one model's part of the value, and what each row moves it by, times n."""

    value: float
    influence: Floats


def _value(
    weak: _Arm,
    strong: _Arm,
    groups: Sequence[str] | None,
    confidence: float,
    limits: tuple[float, float],
) -> PolicyValue:
    n = len(weak.share)
    if not ((weak.share >= 0) & (weak.share <= 1)).all():
        raise InputError("a policy's weak_share is no chance; wanted numbers from 0 to 1")
    if groups is not None and len(groups) != n:
        raise InputError(f"there are {len(groups)} groups of {n} requests; wanted one of each")
    ruled = np.isfinite(weak.chance)
    unreached = ruled & (weak.unreached | strong.unreached)
    rows = ruled & ~unreached
    arms = [arm for arm in (weak.take(rows), strong.take(rows)) if arm.share.any()]
    of = None if groups is None else [groups[int(i)] for i in np.flatnonzero(rows)]
    answers = sum(int(np.count_nonzero(arm.weights)) for arm in arms)

    def estimate(parts: Sequence[_Part | None]) -> Interval:
        known = [part for part in parts if part is not None]
        if not known or len(known) < len(parts):
            return Interval(value=None, n=answers)
        total = sum(part.influence for part in known) / len(known[0].influence)
        return interval_of(
            sum(part.value for part in known),
            np.asarray(total),
            groups=of,
            confidence=confidence,
            n=answers,
            limits=limits,
        )

    return PolicyValue(
        naive=estimate([_naive(arms)]),
        ips=estimate([_ips(arm) for arm in arms]),
        snips=estimate([_with_model(arm, np.zeros(len(arm.share))) for arm in arms]),
        dr=estimate([_with_model(arm, _filled(arm)) for arm in arms]),
        strong_share=float(1 - weak.share[rows].mean()) if rows.any() else None,
        unreached=int(np.count_nonzero(unreached)),
    )


def _naive(arms: Sequence[_Arm]) -> _Part | None:
    if not arms:
        return None
    weights = sum(np.where(arm.seen, arm.share, 0.0) for arm in arms)
    sums = sum(np.where(arm.seen, arm.share, 0.0) * arm.known for arm in arms)
    weights, sums = np.asarray(weights), np.asarray(sums)
    if not weights.sum():
        return None
    value = float(sums.sum() / weights.sum())
    return _Part(value=value, influence=(sums - value * weights) / weights.mean())


def _ips(arm: _Arm) -> _Part | None:
    """The mean of weighted outcomes (Horvitz and Thompson, 1952)."""
    if not (share := arm.labelled_share()):
        return None
    terms = arm.weights * arm.known / share
    value = float(terms.mean())
    return _Part(value=value, influence=terms - value)


def _with_model(arm: _Arm, foretold: Floats) -> _Part | None:
    """What a model foretells, and the weighted mean of what it leaves over.

    With a model that foretells 0 that is the mean with weights that add up (Hájek, 1971;
    Swaminathan and Joachims, 2015), with a good one the doubly robust estimate (Dudík et al.,
    2011).
    """
    weights = arm.weights
    if not weights.sum():
        return None
    left = weights * (arm.known - np.where(arm.seen, foretold, 0.0))
    over = float(left.sum() / weights.sum())
    share = float(arm.share.mean())
    terms = arm.share * foretold
    value = float(terms.mean()) + share * over
    correction = share * (left - over * weights) / weights.mean() + over * (arm.share - share)
    return _Part(value=value, influence=terms - terms.mean() + correction)


def _filled(arm: _Arm) -> Floats:
    """What is foretold; the weighted mean of outcomes where nothing is."""
    weights = arm.weights
    mean = float(weights @ arm.known / weights.sum()) if weights.sum() else 0.0
    return np.where(np.isfinite(arm.foretold), arm.foretold, mean)


def _p_weak(log: TrafficLog, shadow_share: float) -> Floats:
    """The chance that the weak model served, of which ``weak_chance`` is made."""
    if not 0 <= shadow_share < 1:
        raise InputError(f"shadow_share is {shadow_share}; wanted a share, less than 1")
    return np.clip((log.weak_chance - shadow_share) / (1 - shadow_share), 0.0, 1.0)


def _of(served: NDArray[np.bool_], outcome: Floats) -> Floats:
    """What is known of those requests alone."""
    return np.where(served, outcome, np.nan)


def _column(given: ArrayLike | None, logged: Floats) -> Floats:
    column = logged if given is None else np.asarray(given, dtype=np.float64)
    if len(column) != len(logged):
        raise InputError(f"{len(column)} chances are foretold of {len(logged)} requests")
    return column
