"""Which answers to label next: those that help the probe most, and some by lot."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import clopper_pearson
from foretell.errors import InputError, UnknownReadPointError
from foretell.evaluation import Interval
from foretell.flywheel._believed import believed
from foretell.flywheel._design_space import DesignSpace, text_features
from foretell.flywheel._labelling import text_is_withheld
from foretell.flywheel._lots import by_lot, lot
from foretell.records import ReadPoint, RoutingData
from foretell.store import Store

Strategy = Literal["helpful", "random"]
Floats = NDArray[np.float64]

_DEPTH: Final = 2 / 3
"""Of the layers, where to look before a probe says better."""
_MOST_CANDIDATES: Final = 20_000
"""More are thinned by lot: the work grows with every pick."""
_TEST_SHARE: Final = 0.3
"""Of the queries, about."""
_SECONDS_A_DAY: Final = 86_400.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """Queries to label, those that help and those drawn by lot in turns.

    ``at_random`` are the ids among them that were drawn. ``basis`` says by what the others were
    told apart: ``layer 15, last``, ``text``, or ``nothing``, when all are drawn. ``waiting`` is the
    number of queries with an answer and no label.
    """

    ids: tuple[str, ...]
    at_random: tuple[str, ...]
    basis: str
    waiting: int


@dataclass(frozen=True, slots=True, kw_only=True)
class HonestSample:
    """Labelled queries that are a random sample of a domain's answered ones, however labels came.

    Each of all answered queries was in it with the same ``chance``. ``undecided`` of them have an
    outcome without a value. ``success_rate`` has an exact 95 % interval, rounded successes;
    for traffic it is of the queries whose answer was seen.
    """

    ids: tuple[str, ...]
    chance: float
    undecided: int
    success_rate: Interval


def choose_queries(
    store: Store,
    domain: str,
    budget: int,
    *,
    metric: str,
    now: float,
    strategy: Strategy = "helpful",
    random_share: float = 0.25,
    half_life_days: float = 30.0,
    weak_model: str | None = None,
    read_point: ReadPoint | None = None,
    candidates: Collection[str] | None = None,
) -> Choice:
    """The unlabelled queries of a domain whose labels would help its probe most.

    ``random_share`` of them are drawn by lot from all unlabelled queries, so that what is
    estimated from them stays honest (``honest_sample``). The others are those of the training side
    that most reduce the variance of a linear probe's estimates over the domain's queries, recent
    ones counting more; see ``DesignSpace``. On the test side labels are given by lot alone, so
    that what a probe is judged by favours none. Before there are labels all chances are one half,
    so the choice is diverse.

    Lots are a keyed hash of the id with the store's own salt: nobody who makes requests can aim,
    and the same store draws the same lots for ever.

    Args:
        store: Holds the answers, their vectors and the labels so far.
        domain: Whose queries.
        budget: How many; fewer when fewer wait.
        metric: What they will be labelled by.
        now: Seconds since 1970 (UTC), from which age is counted.
        strategy: ``random`` draws all by lot.
        random_share: Part of the budget that is drawn, rounded up; 0 to 1.
        half_life_days: Age at which a request counts half. What did not come as a request is as old
            as the oldest that did.
        weak_model: Key of the weak model, needed when several have answered.
        read_point: Where to compare vectors; the one nearest to two thirds of the layers when left
            out. Texts are compared where most queries have no vectors.
        candidates: Ids to choose from; those without any outcome by the metric when left out.

    Raises:
        InputError: A budget below 1, or a share or a half life out of range.
        TrainingDataError: Nothing has been answered.
    """
    if budget < 1 or not 0 <= random_share <= 1 or half_life_days <= 0:
        raise InputError(
            f"budget {budget}, random share {random_share}, half life {half_life_days} days; "
            "wanted a budget of 1 or more, a share from 0 to 1 and a half life above 0"
        )
    waiting = store.unlabelled(domain, metric, "weak") if candidates is None else set(candidates)
    drawn_order = by_lot(waiting, store.salt())
    if strategy == "random":
        ids = tuple(drawn_order[:budget])
        return Choice(ids=ids, at_random=ids, basis="nothing", waiting=len(waiting))
    at_random = drawn_order[: ceil(random_share * min(budget, len(waiting)))]
    left = waiting - set(at_random)
    pool = (
        _pool(store, domain, metric, left, weak_model=weak_model, read_point=read_point)
        if left and len(at_random) < budget
        else None
    )
    helpful = list[str]()
    if pool is not None:
        weights = _recency(store, domain, metric, pool.ids, now=now, half_life_days=half_life_days)
        some = [one for one in drawn_order if one in left][:_MOST_CANDIDATES]
        helpful = _helpful(pool, some, weights, budget - len(at_random))
    if (short := budget - len(at_random) - len(helpful)) > 0:
        taken = {*at_random, *helpful}
        at_random += [one for one in drawn_order if one not in taken][:short]
    return Choice(
        ids=_in_turns(helpful, at_random),
        at_random=tuple(at_random),
        basis="nothing" if pool is None or not helpful else pool.basis,
        waiting=len(waiting),
    )


def honest_sample(
    store: Store, domain: str, *, metric: str, weak_model: str | None = None
) -> HonestSample:
    """What was labelled of a random part of the domain, by whatever strategy.

    Queries are put in the order of their lots; those before the first that nobody has tried to
    label are the sample. ``choose_queries`` draws in this very order, so its random share makes
    the sample grow, and what was chosen as helpful in between does not bend it: with the first
    untried one left out, shares are unbiased (inverse sampling; Haldane, 1945). Queries that were
    stored without their text are not counted: only callers can label them.
    """
    readable = {one.id for one in store.queries(domain) if not text_is_withheld(one)}
    untried = store.unlabelled(domain, metric, "weak") & readable
    salt = store.salt()
    values = _values(store, domain, metric, weak_model)
    limit = min((lot(one, salt) for one in untried), default=1.0)
    inside = sorted(one for one in values if one in readable and lot(one, salt) < limit)
    known = [value for one in inside if (value := values[one]) is not None]
    rate = Interval(value=None, n=0)
    if known:
        low, high = clopper_pearson(round(sum(known)), len(known), 0.95)
        rate = Interval(value=sum(known) / len(known), low=low, high=high, n=len(known))
    return HonestSample(
        ids=tuple(one for one in inside if values[one] is not None),
        chance=limit,
        undecided=len(inside) - len(known),
        success_rate=rate,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Pool:
    """The training side as a linear probe would see it; ``labels`` are NaN where unknown."""

    ids: tuple[str, ...]
    space: DesignSpace
    labels: Floats
    basis: str


def _pool(
    store: Store,
    domain: str,
    metric: str,
    left: Collection[str],
    *,
    weak_model: str | None,
    read_point: ReadPoint | None,
) -> _Pool | None:
    """By vectors where most queries have them, else by texts; ``None`` with neither."""
    known, outcomes = store.metrics(domain), store.outcomes(domain)
    # When nothing is labelled by this metric yet, any other loads the same rows.
    loaded_by = metric if metric in known else next(iter(known), None)
    # Nothing is read of the strong models' outcomes, but one of several must be named.
    strong = next(
        (key for key, of_model in outcomes.items() if any(o.role == "strong" for o in of_model)),
        None,
    )

    def load(*points: ReadPoint) -> RoutingData:
        return store.load_routing_data(
            domain,
            metric=loaded_by,
            read_points=points,
            split="train",
            weak_model=weak_model,
            strong_model=strong,
        )

    here = _look(store, domain, weak_model, read_point)
    try:
        data = None if here is None else load(here)
    except UnknownReadPointError:  # the training side has no vectors there
        data = None
    if here is not None and data is not None and _covers(data, left):
        features, basis = data.activations[here], str(here)
    else:
        whole = load()
        if any(whole.texts):
            data, features, basis = whole, text_features(list(whole.texts)), "text"
        elif here is not None and data is not None:
            features, basis = data.activations[here], str(here)
        else:
            return None
    labels = data.weak if metric in known else np.full(len(data), np.nan)
    return _Pool(ids=data.ids, space=DesignSpace(features), labels=labels, basis=basis)


def _covers(data: RoutingData, left: Collection[str]) -> bool:
    """Whether vectors tell most of the queries apart; some 30 % of them are on the test side."""
    return len(left) * (1 - _TEST_SHARE) <= 2 * sum(one in left for one in data.ids)


def _helpful(pool: _Pool, left: Sequence[str], weights: Floats, count: int) -> list[str]:
    rows = {query_id: row for row, query_id in enumerate(pool.ids)}
    # in the order of the pool, so that ties fall the same way
    candidates = np.array(sorted(rows[one] for one in left if one in rows), dtype=np.int64)
    chosen = pool.space.helpful(pool.labels, candidates, count, weights=weights)
    return [pool.ids[row] for row in chosen]


def _look(
    store: Store, domain: str, weak_model: str | None, read_point: ReadPoint | None
) -> ReadPoint | None:
    """Where to compare vectors; ``None`` when there are none."""
    if read_point is not None:
        return read_point
    known = store.read_points(domain, weak_model=weak_model)
    pooled = [point for point in known if point.pooling != "tokens"]
    last = max((point.layer for point in pooled), default=0)
    return min(
        pooled,
        key=lambda point: (abs(point.layer - _DEPTH * last), point.pooling != "last"),
        default=None,
    )


def _recency(
    store: Store,
    domain: str,
    metric: str,
    ids: Sequence[str],
    *,
    now: float,
    half_life_days: float,
) -> Floats:
    """1 for a request of this moment, one half after each half life."""
    log = store.traffic(domain, metric=metric)
    at = dict(zip(log.ids, log.at.tolist(), strict=True))
    oldest = min(at.values(), default=now)
    ages = np.array([max(0.0, now - at.get(one, oldest)) for one in ids])
    # Only how they compare matters, and nothing may vanish altogether.
    ages -= ages.min(initial=np.inf) if len(ages) else 0.0
    return np.maximum(2 ** -(ages / (_SECONDS_A_DAY * half_life_days)), 1e-6)


def _in_turns(helpful: Sequence[str], drawn: Sequence[str]) -> tuple[str, ...]:
    """Both lists in one, evenly, each in its order: whoever stops half-way has some of both."""
    places = [
        ((row + 0.5) / len(ids), name, query_id)
        for name, ids in enumerate((helpful, drawn))
        for row, query_id in enumerate(ids)
    ]
    return tuple(query_id for _, _, query_id in sorted(places))


def _values(
    store: Store, domain: str, metric: str, weak_model: str | None
) -> dict[str, float | None]:
    """Success of the weak model's answers that somebody has tried to label."""
    outcomes = [
        one
        for key, of_model in store.outcomes(domain).items()
        for one in of_model
        if one.role == "weak" and one.metric == metric and weak_model in (None, key)
    ]
    return {query_id: value for (_, query_id), value in believed(outcomes).items()}
