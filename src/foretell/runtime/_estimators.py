"""Estimates of one query: from its text, or from what its prefill shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from foretell.errors import RoutingError
from foretell.policy import Vectors
from foretell.probes import (
    FittedGate,
    FittedLinearProbe,
    FittedProbe,
    Heads,
    SavedProbe,
    StrongHead,
)
from foretell.records import (
    Estimate,
    FirstToken,
    Message,
    ReadPoint,
    RoutingData,
    Subspace,
    TokenActivations,
    last_asked,
)
from foretell.routers import FittedConstantRouter, FittedRouter
from foretell.runtime._rules import Rule


class OutsideEstimator:
    """A router that needs only the text: it is asked before any prefill."""

    def __init__(self, router: FittedRouter, domain: str) -> None:
        self._router = router
        self._domain = domain

    @classmethod
    def constant(cls, name: str, chance: float, domain: str) -> OutsideEstimator:
        """The same chance for every query: always keep, or never."""
        return cls(FittedConstantRouter(name=name, chance=chance), domain)

    def estimate(self, messages: Sequence[Message], own_tokens: int) -> Estimate:
        """What the router foretells of one query."""
        query = _one_query(self._domain, own_tokens, last_asked(messages))
        return Estimate(
            score=float(self._router.score(query)[0]),
            p_success=float(self._router.p_success(query)[0]),
            router=self._router.name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class EarlyLook:
    """A weaker probe at a lower layer, which may end a prefill there and then.

    It does when what it foretells is below ``bar``: ``p_success``, or with ``strong``, which
    foretells the strong model at the same read point, ``p_success - p_strong``. ``name`` is that of
    the probe it looks for, ``subspace`` that of the activations it was fitted on.
    """

    probe: FittedLinearProbe
    bar: float
    strong: StrongHead | None = None
    name: str = ""
    subspace: Subspace | None = None

    @property
    def read_point(self) -> ReadPoint:
        """Where it reads."""
        return self.probe.read_point

    def estimate(self, vectors: Vectors) -> Estimate:
        """What it foretells of a query."""
        point = self.read_point
        vector = _within(self.subspace, {point: vectors[point]})[point]
        score = float(self.probe.score(vector))
        return Estimate(
            score=score,
            p_success=float(self.probe.calibration.p(score)),
            router=f"probe {self.name}",
            p_strong=None if self.strong is None else float(self.strong.p_strong(vector)),
        )

    def goes_on(self, seen: Estimate, rule: Rule) -> bool:
        """Whether the prefill is worth going on; what it stops, the rule itself would escalate."""
        if seen.p_strong is None:
            return seen.p_success >= min(self.bar, rule.stops_below)
        return seen.p_success - seen.p_strong >= min(self.bar, rule.stops_below_gain)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeEstimator:
    """A saved probe that fits the served model; ``name`` is ``id@version``.

    ``gate`` tells queries that look like nothing in training, ``heads`` foretell what else they
    can. ``early`` holds looks at lower layers. What is read is projected on the ``subspace``, where
    there is one, since nothing else was seen in training.
    """

    probe: FittedProbe
    name: str
    domain: str = ""
    gate: FittedGate | None = None
    heads: Heads = field(default_factory=Heads)
    early: tuple[EarlyLook, ...] = ()
    subspace: Subspace | None = None

    @classmethod
    def of(cls, saved: SavedProbe, early: tuple[EarlyLook, ...] = ()) -> ProbeEstimator:
        """All that was saved with a probe."""
        return cls(
            probe=saved.probe,
            name=saved.card.name,
            domain=saved.card.domain,
            gate=saved.gate,
            heads=saved.heads,
            early=tuple(
                replace(look, name=saved.card.name, subspace=saved.subspace) for look in early
            ),
            subspace=saved.subspace,
        )

    @property
    def own_points(self) -> tuple[ReadPoint, ...]:
        """Where the probe, its gate and its heads read, layers rising."""
        beside = () if self.gate is None else (self.gate.read_point,)
        return tuple(sorted({*self.probe.read_points, *beside, *self.heads.read_points}))

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """Where the prefill must be read."""
        return tuple(sorted({*(look.read_point for look in self.early), *self.own_points}))

    @property
    def needs_whole_prefill(self) -> bool:
        """Whether it can answer only once the first token is known."""
        return self.probe.reads_first_token

    def estimate(
        self, vectors: Vectors, *, own_tokens: int, first_token: FirstToken | None = None
    ) -> Estimate:
        """What the probe, its gate and its heads foretell; ``vectors`` hold ``own_points``."""
        vectors = _within(self.subspace, vectors)
        score, p_success = self._foretold(vectors, own_tokens, first_token)
        gate, strong = self.gate, self.heads.strong
        familiarity = None if gate is None else float(gate.p_value(vectors[gate.read_point]))
        return Estimate(
            score=score,
            p_success=p_success,
            router=f"probe {self.name}",
            p_strong=None if strong is None else float(strong.p_strong(vectors[strong.read_point])),
            outside=gate is not None
            and familiarity is not None
            and familiarity <= gate.settings.false_alarm,
            familiarity=familiarity,
            p_pool={
                name: float(head.p_strong(vectors[head.read_point]))
                for name, head in self.heads.pool.items()
            },
            domain=self.domain or None,
        )

    def familiarity(self, vectors: Vectors) -> float:
        """The gate's p-value of a query; 0 without a gate, which knows nobody."""
        gate = self.gate
        if gate is None:
            return 0.0
        point = gate.read_point
        return float(gate.p_value(_within(self.subspace, {point: vectors[point]})[point]))

    def expected_tokens(self, vectors: Vectors) -> float | None:
        """Likely length of the weak model's answer, ``None`` when that is not foretold."""
        head = self.heads.tokens
        if head is None or head.read_point not in vectors:
            return None
        point = head.read_point
        return float(head.expected_tokens(_within(self.subspace, {point: vectors[point]})[point]))

    def _foretold(
        self, vectors: Vectors, own_tokens: int, first_token: FirstToken | None
    ) -> tuple[float, float]:
        """Score and chance."""
        probe = self.probe
        if isinstance(probe, FittedLinearProbe):  # some microseconds instead of some dozen
            score = float(probe.score(vectors[probe.read_point]))
            return score, float(probe.calibration.p(score))
        if probe.reads_first_token and first_token is None:
            raise RoutingError(
                f"probe {self.name} reads the first token, which this prefill does not show; "
                "this is a defect of the engine"
            )
        query = _one_query(self.domain, own_tokens, "", vectors, first_token)
        score = float(probe.scores(query)[0])
        return score, float(probe.calibration.p(score))


@dataclass(frozen=True, slots=True, kw_only=True)
class NearestEstimator:
    """The probes of several domains on one model; whichever knows the query best foretells it.

    That is the one whose gate finds the largest share of its own training queries at least as
    strange. P-values of different gates compare: each is uniform for queries of its own domain.
    """

    estimators: tuple[ProbeEstimator, ...]

    @property
    def early(self) -> tuple[EarlyLook, ...]:
        """None: who is asked is known only once all gates have been read."""
        return ()

    @property
    def own_points(self) -> tuple[ReadPoint, ...]:
        """Where any of them reads, layers rising."""
        return tuple(sorted({point for one in self.estimators for point in one.own_points}))

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """Where the prefill must be read."""
        return self.own_points

    @property
    def needs_whole_prefill(self) -> bool:
        """Whether one of them can answer only once the first token is known."""
        return any(one.needs_whole_prefill for one in self.estimators)

    def nearest(self, vectors: Vectors) -> ProbeEstimator:
        """The one that knows the query best; of equals the first."""
        return max(self.estimators, key=lambda one: one.familiarity(vectors))

    def estimate(
        self, vectors: Vectors, *, own_tokens: int, first_token: FirstToken | None = None
    ) -> Estimate:
        """What that one foretells."""
        return self.nearest(vectors).estimate(
            vectors, own_tokens=own_tokens, first_token=first_token
        )

    def expected_tokens(self, vectors: Vectors) -> float | None:
        """Likely length of the weak model's answer; ``None`` after an early end."""
        if any(point not in vectors for point in self.own_points):
            return None
        return self.nearest(vectors).expected_tokens(vectors)


def _within(subspace: Subspace | None, vectors: Vectors) -> Vectors:
    return vectors if subspace is None else subspace.project(vectors)


def _one_query(
    domain: str,
    own_tokens: int,
    text: str,
    vectors: Vectors | None = None,
    first_token: FirstToken | None = None,
) -> RoutingData:
    vectors = vectors or {}
    return RoutingData(
        domain=(domain,),
        ids=("query",),
        texts=(text,),
        groups=("query",),
        lengths=np.array([own_tokens]),
        attributes=({},),
        activations={p: v[None] for p, v in vectors.items() if p.pooling != "tokens"},
        sequences={
            point: TokenActivations.stack([vector])
            for point, vector in vectors.items()
            if point.pooling == "tokens"
        },
        first_entropy=np.empty(0) if first_token is None else np.array([first_token.entropy]),
        first_margin=np.empty(0) if first_token is None else np.array([first_token.margin]),
    )
