"""Why a query was decided as it was, in facts that a reader can check."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np

from foretell.calibration import clopper_pearson
from foretell.config import RouteConfig
from foretell.errors import RoutingError
from foretell.policy import Vectors
from foretell.probes import (
    FittedAttentionProbe,
    FittedFusionProbe,
    FittedProbe,
    HeldOut,
    Metric,
    SavedProbe,
)
from foretell.records import Decision
from foretell.runtime._changes import Change, GoalLadder, turning_points
from foretell.runtime._goals import Bar
from foretell.runtime._neighbours import NearQuery, Neighbours
from foretell.runtime._route import Route
from foretell.store import Store

_NEARBY: Final = 50
_TOP: Final = 10
_CONFIDENCE: Final = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class NearbyOutcomes:
    """How queries with nearly the same chance went, each foretold without its own group.

    ``n`` held-out queries had chances from ``lowest`` to ``highest``; the weak model succeeded at
    ``succeeded`` of them (rates count in part), a share of ``rate``. ``low`` and ``high`` are its
    exact interval (Clopper-Pearson) of that ``confidence``, for independent queries.
    """

    p_success: float
    n: int
    lowest: float
    highest: float
    succeeded: float
    rate: float
    low: float
    high: float
    confidence: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdOrigin:
    """The bar of a decision, and where it comes from.

    ``keep_at`` is this decision's, ``chosen_at`` that of the route: they differ where the bar is on
    the gain of a strong call (``least_gain``) or was moved to hold a share or a budget. The rest is
    as in ``Bar``.
    """

    keep_at: float
    chosen_at: float
    least_gain: float | None
    reason: str
    guaranteed: bool
    labels_needed: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeSummary:
    """What a probe's card says that bears on one decision."""

    name: str
    domain: str
    model: str
    kind: str
    read_points: tuple[str, ...]
    calibration: str
    n_train: int
    base_rate: float
    auroc: Metric | None
    nested: bool
    label: str
    label_source: str
    created: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShare:
    """A token that an attention probe looked at.

    ``position`` counts the query's own tokens from 0. ``weight`` is its share of the attention,
    ``contribution`` what it added to the log-odds of success. ``text`` is ``None`` where the texts
    were not given.
    """

    position: int
    text: str | None
    weight: float
    contribution: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """What stands behind one decision.

    ``neighbours`` are the nearest training queries, ``tokens`` those with the most attention,
    ``changes`` what alone would turn the decision. ``pool_gains`` is, by name, how much likelier
    than the weak one each other model of the pool is to succeed. An ``estimate``, ``probe``,
    neighbours or tokens that are not there have the reason under their name in ``missing``.
    """

    threshold: ThresholdOrigin
    estimate: NearbyOutcomes | None = None
    probe: ProbeSummary | None = None
    neighbours: tuple[NearQuery, ...] = ()
    tokens: tuple[TokenShare, ...] = ()
    changes: tuple[Change, ...] = ()
    pool_gains: Mapping[str, float] = field(default_factory=dict[str, float])
    missing: Mapping[str, str] = field(default_factory=dict[str, str])

    def as_json(self) -> dict[str, Any]:
        """As JSON values; what is undefined is ``None``."""
        return asdict(self)


class Explainer:
    """Explains the decisions of one route; safe for many threads.

    Args:
        saved: The probe behind its estimates; ``None`` for another router.
        bar: The route's bar.
        neighbours: Training queries to show; ``None`` for none.
        held_out: What the bar was chosen on; the probe's when not given.
        goal: What the bar was chosen for, to say which goal would turn a decision.
    """

    def __init__(
        self,
        saved: SavedProbe | None,
        bar: Bar,
        neighbours: Neighbours | None = None,
        *,
        held_out: HeldOut | None = None,
        goal: Any = None,
    ) -> None:
        self._saved = saved
        self._bar = bar
        self._neighbours = neighbours
        self._held_out = held_out or (saved and saved.held_out)
        self._ladder = GoalLadder.of(goal, self._held_out)
        self._attention = None if saved is None else _attention_in(saved.probe)

    @classmethod
    def of_route(
        cls,
        route: Route,
        config: RouteConfig,
        open_store: Callable[[], Store],
        *,
        strong_model: str | None = None,
    ) -> Explainer:
        """For a route and its settings; ``strong_model`` as in ``Neighbours.of_probe``."""
        saved = route.saved
        return cls(
            saved,
            route.bar,
            None
            if saved is None
            else Neighbours.of_probe(saved, open_store, strong_model=strong_model),
            held_out=route.held_out,
            goal=config.goal,
        )

    def explain(
        self,
        decision: Decision,
        activations: Vectors,
        *,
        token_texts: Sequence[str] | None = None,
        with_text: bool = False,
    ) -> Explanation:
        """What stands behind ``decision``; never an error.

        ``activations`` are what its prefill showed, empty without one. ``token_texts`` are the
        texts of the prompt's tokens, of which the query's own are the last. ``with_text`` shows the
        beginnings of the neighbours' texts, which are other people's.
        """
        saved = self._saved
        estimate, probe = self._estimate(decision), self._probe()
        near = self._near(activations, with_text=with_text)
        tokens = self._tokens(activations, token_texts)
        parts = {"estimate": estimate, "probe": probe, "neighbours": near, "tokens": tokens}
        return Explanation(
            threshold=self._threshold(decision),
            estimate=None if isinstance(estimate, str) else estimate,
            probe=None if isinstance(probe, str) else probe,
            neighbours=() if isinstance(near, str) else near,
            tokens=() if isinstance(tokens, str) else tokens,
            changes=turning_points(
                decision,
                self._bar,
                self._ladder,
                false_alarm=saved.gate.settings.false_alarm if saved and saved.gate else None,
            ),
            pool_gains=_pool_gains(decision),
            missing={name: part for name, part in parts.items() if isinstance(part, str)},
        )

    def _threshold(self, decision: Decision) -> ThresholdOrigin:
        bar = self._bar
        return ThresholdOrigin(
            keep_at=decision.keep_at,
            chosen_at=bar.keep_at,
            least_gain=bar.least_gain,
            reason=bar.reason,
            guaranteed=bar.guaranteed,
            labels_needed=bar.labels_needed,
        )

    def _estimate(self, decision: Decision) -> NearbyOutcomes | str:
        if decision.p_success is None:
            return "there is no estimate of this query"
        if self._held_out is None or not len(self._held_out.p_success):
            return "the router's chances were not held against any outcomes"
        try:
            return nearby_outcomes(decision.p_success, self._held_out)
        except RoutingError as error:  # the interval needs SciPy
            return str(error)

    def _probe(self) -> ProbeSummary | str:
        if self._saved is None:
            return "the route is not decided by a probe"
        card = self._saved.card
        return ProbeSummary(
            name=card.name,
            domain=card.domain,
            model=str(card.model),
            kind=card.kind,
            read_points=tuple(point.name for point in card.read_points),
            calibration=card.calibration.kind,
            n_train=card.n_train,
            base_rate=card.base_rate,
            auroc=card.metrics.get("auroc"),
            nested=card.nested_metrics,
            label=card.label.metric,
            label_source=card.label.source,
            created=card.created,
        )

    def _near(self, activations: Vectors, *, with_text: bool) -> tuple[NearQuery, ...] | str:
        if self._neighbours is None:
            return "there are no training queries to look among"
        vector = activations.get(self._neighbours.read_point)
        if vector is None:
            return f"the prefill did not reach {self._neighbours.read_point}"
        return self._neighbours.nearest(vector, with_text=with_text)

    def _tokens(
        self, activations: Vectors, texts: Sequence[str] | None
    ) -> tuple[TokenShare, ...] | str:
        if self._attention is None:
            return "the router has no attention to show"
        rows = activations.get(self._attention.read_point)
        if rows is None:
            return f"the prefill did not reach {self._attention.read_point}"
        return top_tokens(self._attention, rows, texts)


def nearby_outcomes(
    p_success: float, held_out: HeldOut, *, nearby: int = _NEARBY
) -> NearbyOutcomes:
    """Outcomes of the ``nearby`` held-out queries whose chance is nearest to ``p_success``.

    Those that are as far as the last of them count, too, so that the order of rows does not matter.
    """
    far = np.abs(held_out.p_success - p_success)
    reach = np.sort(far)[min(nearby, len(far)) - 1]
    near = far <= reach
    chances, outcomes = held_out.p_success[near], held_out.weak[near]
    n, succeeded = len(outcomes), float(outcomes.sum())
    low, high = clopper_pearson(succeeded, n, _CONFIDENCE)
    return NearbyOutcomes(
        p_success=p_success,
        n=n,
        lowest=float(chances.min()),
        highest=float(chances.max()),
        succeeded=succeeded,
        rate=succeeded / n,
        low=low,
        high=high,
        confidence=_CONFIDENCE,
    )


def top_tokens(
    probe: FittedAttentionProbe, rows: np.ndarray[Any, Any], texts: Sequence[str] | None
) -> tuple[TokenShare, ...]:
    """The own tokens with the largest share of a probe's attention, the largest first.

    ``rows`` is (own tokens, width); ``texts`` those of the whole prompt.
    """
    seen = probe.explain(rows)
    own = None if texts is None else texts[len(texts) - len(rows) :]
    order: list[int] = np.argsort(-seen.weights, kind="stable").tolist()
    return tuple(
        TokenShare(
            position=position,
            text=None if own is None else own[position],
            weight=float(seen.weights[position]),
            contribution=float(seen.contributions[position]),
        )
        for position in order[:_TOP]
    )


def _attention_in(probe: FittedProbe) -> FittedAttentionProbe | None:
    base = probe.base if isinstance(probe, FittedFusionProbe) else probe
    return base if isinstance(base, FittedAttentionProbe) else None


def _pool_gains(decision: Decision) -> dict[str, float]:
    if decision.p_success is None:
        return {}
    return {name: chance - decision.p_success for name, chance in decision.p_pool.items()}
