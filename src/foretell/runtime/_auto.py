"""The ladder of ``router: auto``: from a rule of thumb to the probe, as far as evidence carries.

Which step is in force stands in the store's events, so that every process serves the same one. A
step below the probe is fitted when a route opens, on what is labelled by then.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal, cast

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import keep_at_for_strong_share
from foretell.config import (
    CostGoal,
    DailyCostGoal,
    Goal,
    QualityGoal,
    RiskGoal,
    StrongShareGoal,
    ThresholdGoal,
)
from foretell.errors import TrainingDataError
from foretell.probes import HeldOut
from foretell.records import Event, RoutingData, Split
from foretell.routers import FittedConstantRouter, FittedRouter, make_router
from foretell.runtime._goals import Bar
from foretell.runtime._ladder_rows import load_ladder_rows, unselected
from foretell.store import Store

Step = Literal["start", "keyword", "length", "embedding", "probe"]
"""What a route decides by; see ``RUNGS``."""

Floats = NDArray[np.float64]

RUNGS: Final[tuple[tuple[Step, ...], ...]] = (
    ("start",),
    ("keyword", "length"),
    ("embedding",),
    ("probe",),
)
"""Steps from the lowest to the highest; those of one rung are alternatives."""

LEAST_LABELS: Final = MappingProxyType[Step, int](
    {"start": 0, "keyword": 50, "length": 50, "embedding": 100, "probe": 200}
)
"""Labelled training queries below which a step is not tried: fixed beforehand, come what may."""

_READ_TEXT: Final[tuple[Step, ...]] = ("keyword", "embedding")
_USUAL_TOKENS: Final = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Where a route stands in a domain: by the newest event of its weak model, or at the start.

    ``metric`` says by which labels it came there. ``looks`` counts the comparisons made there, the
    last of them on ``labels`` training queries; ``event`` is what was noted then.
    """

    step: Step = "start"
    metric: str | None = None
    looks: int = 0
    labels: int = 0
    event: Event | None = None


def rung_of(step: Step) -> int:
    """How high a step is, 0 for ``start``."""
    return next(height for height, steps in enumerate(RUNGS) if step in steps)


def steps_above(step: Step) -> list[Step]:
    """All steps of the higher rungs, the nearest first."""
    return [other for steps in RUNGS[rung_of(step) + 1 :] for other in steps]


def steps_down_from(step: Step) -> list[Step]:
    """A step and all of the lower rungs, the start left out."""
    below: list[Step] = [other for steps in reversed(RUNGS[1 : rung_of(step)]) for other in steps]
    return [step, *below] if rung_of(step) else []


def ladder_subject(route: str, domain: str) -> str:
    """What events of kind ``ladder`` are about."""
    return f"{route}/{domain}"


def standing_of(store: Store, route: str, domain: str, weak_model: str) -> Standing:
    """The step in force; a weak model that nothing was noted about begins at the start.

    ``weak_model`` is the store's key of it.
    """
    for event in store.events(kind="ladder", subject=ladder_subject(route, domain)):
        noted = event.details
        if noted.get("weak_model") == weak_model and noted.get("step") in LEAST_LABELS:
            return Standing(
                step=cast("Step", noted["step"]),
                metric=noted.get("metric"),
                looks=int(noted.get("looks", 0)),
                labels=int(noted.get("labels", 0)),
                event=event,
            )
    return Standing()


def readable_by(step: Step, data: RoutingData) -> NDArray[np.bool_]:
    """Which queries hold what the step reads of a query: their text may have been withheld."""
    if step in _READ_TEXT:
        return np.array([bool(text) for text in data.texts], dtype=bool)
    return np.ones(len(data), dtype=bool)


def fit_step(
    step: Step,
    store: Store,
    domain: str,
    goal: Goal,
    *,
    weak_model: str,
    metric: str | None,
    strong_model: str | None,
) -> tuple[FittedRouter, HeldOut]:
    """A step between start and probe, fitted on training queries; test queries are for its bar.

    Models are named by their keys in the store, see ``load_ladder_rows``. Raises
    ``TrainingDataError`` where the labelled queries do not allow for it.
    """

    def rows(split: Split, strong: str | None) -> RoutingData:
        data = load_ladder_rows(
            store, domain, split, weak_model=weak_model, metric=metric, strong_model=strong
        )
        return data.take(readable_by(step, data))

    train = rows("train", "")
    if not len(train):
        raise TrainingDataError(
            f"no labelled training query of domain {domain!r} holds what {step!r} reads; keep "
            "texts (store.traffic.text), or label more queries"
        )
    fitted = make_router(step).fit(train, np.random.default_rng(0))
    test = unselected(rows("test", strong_model), goal, np.random.default_rng(0))
    if not len(test):
        both = isinstance(goal, QualityGoal | RiskGoal)
        raise TrainingDataError(
            f"domain {domain!r} has no test query to choose the bar of {step!r} on, "
            + (
                "labelled for both models as this goal needs it; set shadow_runs, or collect "
                "--with-strong, and label"
                if both
                else "labelled for the weak model; label more queries"
            )
        )
    _, groups = np.unique(np.asarray(test.groups), return_inverse=True)
    held_out = HeldOut(
        p_success=fitted.p_success(test),
        weak=test.weak,
        strong=test.strong if test.strong.size else np.full(len(test), np.nan),
        groups=groups.astype(np.float64),
    )
    return fitted, held_out


def start_step(goal: Goal, lengths: NDArray[np.int64], why: str) -> tuple[FittedRouter, Bar]:
    """What a route begins with, knowing nothing.

    A goal that promises something sends all to the strong model but what is explored. A share, or a
    budget, is filled with the longest queries: ``lengths`` are the own tokens of those stored.
    ``why`` says in words what is missing for a higher step.
    """
    if isinstance(goal, QualityGoal | RiskGoal | ThresholdGoal):
        keep_at = goal.threshold if isinstance(goal, ThresholdGoal) else 1.0
        reason = f"the strong model serves all but what is explored: {why}"
        return FittedConstantRouter(name="start", chance=0.0), Bar(keep_at=keep_at, reason=reason)
    share = _first_share(goal)
    # Without a query to rank, a share of the range stands for the share of the queries.
    keep_at = keep_at_for_strong_share(_brevity(lengths), share) if len(lengths) else share
    reason = f"the longest {share:.0%} of the queries go to the strong model: {why}"
    return _ShorterFirst(), Bar(keep_at=keep_at, reason=reason)


@dataclass(frozen=True, slots=True)
class _ShorterFirst:
    """Foretells nothing: keeps the shorter queries, until labels say what is better kept."""

    name: str = "start"

    def score(self, data: RoutingData) -> Floats:
        """Falls from 1 to 0 as queries grow longer."""
        return _brevity(data.lengths)

    def p_success(self, data: RoutingData) -> Floats:
        """The score, which is no chance and good for ranking alone."""
        return self.score(data)


def _brevity(lengths: NDArray[np.int64]) -> Floats:
    """One half at 64 tokens."""
    return 1 / (1 + lengths / _USUAL_TOKENS)


def _first_share(goal: StrongShareGoal | CostGoal | DailyCostGoal) -> float:
    match goal:
        case StrongShareGoal():
            return goal.strong_share
        case DailyCostGoal():
            return 0.5  # as on every other step: what a day may cost is kept to while it passes
        case CostGoal():
            return 0.0  # what queries cost is not known before some were served
