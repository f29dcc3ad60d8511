"""Fitting heads: the one place where they need scikit-learn."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.probes._fitting import Reduction, fit_reduction, group_folds
from foretell.probes._heads import (
    Floats,
    Heads,
    HeadsSelection,
    StrongHead,
    StrongHeadSettings,
    TokensHead,
    TokensHeadSettings,
    smeared,
)
from foretell.probes._honest import Metric, with_interval
from foretell.probes._linear import FittedLinearProbe
from foretell.probes._saveable import saveable
from foretell.probes._selection import select_probe
from foretell.probes._threads import spare_one_core
from foretell.probes._training_rows import (
    require_activations,
    require_distinct_ids,
    require_groups,
    require_read_points,
)
from foretell.records import ReadPoint, RoutingData

try:
    from scipy.stats import rankdata
    from sklearn.linear_model import Ridge
except ImportError as error:
    raise TrainingDataError(
        "fitting heads needs scikit-learn, which is not installed; pip install 'foretell[train]'"
    ) from error

_FEWEST: Final = 50
"""Known values below which a head would be mostly noise."""

_COMPONENTS: Final = 64

_PENALTIES: Final = (1.0, 10.0, 100.0, 1_000.0, 10_000.0)
"""Ridge penalties to choose from, on components in units of standardised activations."""


def fit(
    data: RoutingData,
    read_points: Sequence[ReadPoint],
    *,
    pool: Mapping[str, Floats],
    folds: int,
    seed: int,
) -> HeadsSelection:
    """``fit_heads``, behind the import of scikit-learn."""
    if folds < 2:
        raise InputError(f"cross-validation needs at least 2 folds, got {folds}")
    points = require_read_points(data, read_points)
    require_distinct_ids(data)
    for name, outcomes in pool.items():
        if outcomes.shape != (len(data),):
            raise InputError(
                f"the outcomes of {name!r} have shape {outcomes.shape}; wanted one for each of the "
                f"{len(data)} queries"
            )
    reasons: dict[str, str] = {}
    strong: tuple[StrongHead, Floats] | None = None
    tokens: tuple[TokensHead, Floats] | None = None
    members: dict[str, tuple[StrongHead, Floats]] = {}
    with spare_one_core():
        try:
            strong = _fit_strong(data, data.strong, points, folds, seed)
        except TrainingDataError as error:
            reasons["strong"] = f"outcomes of the strong model: {error}"
        for name, outcomes in pool.items():
            try:
                members[name] = _fit_strong(data, outcomes, points, folds, seed)
            except TrainingDataError as error:
                reasons[f"pool.{name}"] = f"outcomes of {name}: {error}"
        try:
            tokens = _fit_tokens(data, points, folds, seed)
        except TrainingDataError as error:
            reasons["tokens"] = f"lengths of the weak model's answers: {error}"
    return HeadsSelection(
        heads=Heads(
            strong=strong[0] if strong else None,
            tokens=tokens[0] if tokens else None,
            pool={name: head for name, (head, _) in members.items()},
            reasons=reasons,
        ),
        p_strong=strong[1] if strong else None,
        expected_tokens=tokens[1] if tokens else None,
        p_pool={name: chances for name, (_, chances) in members.items()},
    )


def _known(column: Floats, n: int) -> NDArray[np.int64]:
    """Rows where the column holds a value; refuses too few."""
    known = np.flatnonzero(np.isfinite(column)) if len(column) else np.empty(0, np.int64)
    if len(known) < _FEWEST:
        raise TrainingDataError(
            f"known for {len(known)} of {n} queries; wanted at least {_FEWEST}, so label more"
        )
    return known


def _fit_strong(
    data: RoutingData,
    outcomes: Floats,
    points: tuple[ReadPoint, ...],
    folds: int,
    seed: int,
) -> tuple[StrongHead, Floats]:
    known = _known(outcomes, len(data))
    # To another model the same search applies, with its outcomes in the place of the weak one's.
    rows = replace(data.take(known), weak=outcomes[known])
    selection = select_probe(
        rows, kinds=("linear",), read_points=points, folds=folds, nested=False, seed=seed
    )
    probe = cast("FittedLinearProbe", selection.probe)  # the only kind asked for
    weights, succeeded = selection.weights, selection.outcomes
    head = StrongHead(
        settings=StrongHeadSettings(
            probe=dict(probe.settings()),
            calibration=saveable(probe.calibration),
            metrics=selection.metrics,
            n_train=len(succeeded),
            base_rate=float(weights @ succeeded / weights.sum()),
        ),
        probe=probe,
    )
    p_strong = np.array(head.p_strong(data.activations[head.read_point]))
    row_of = {each: row for row, each in enumerate(data.ids)}
    p_strong[[row_of[each] for each in selection.ids]] = selection.p_success
    return head, p_strong


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lengths:
    """Rows whose answer has a known length; ``log`` is of one more token than that."""

    tokens: Floats
    log: Floats
    weights: Floats
    groups: NDArray[np.str_]
    held_out: tuple[NDArray[np.int64], ...]

    def others(self, test: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.setdiff1d(np.arange(len(self.tokens)), test, assume_unique=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Setting:
    """A read point and penalty, with the log lengths that it foretells of held-out rows."""

    point: ReadPoint
    penalty: float
    log: Floats
    loss: float


def _fit_tokens(
    data: RoutingData, points: tuple[ReadPoint, ...], folds: int, seed: int
) -> tuple[TokensHead, Floats]:
    known = _known(data.weak_tokens, len(data))
    lengths = _lengths(data, known, folds, seed)
    activations = {
        point: require_activations(data.activations[point][known], point, len(known))
        for point in points
    }
    tried = [
        setting
        for point, rows in activations.items()
        for setting in _try_penalties(point, rows, lengths)
    ]
    # Of equals the first: the lower layer, and the larger penalty.
    best = min(tried, key=lambda setting: setting.loss)

    rows = activations[best.point]
    reduction = fit_reduction(rows, _COMPONENTS)
    ridge = _ridge(reduction, rows, lengths.log, lengths.weights, best.penalty)
    residuals = np.exp(lengths.log - best.log)
    settings = TokensHeadSettings(
        read_point=best.point,
        bias=ridge.bias,
        smearing=float(lengths.weights @ residuals / lengths.weights.sum()),
        fewest=float(lengths.tokens.min()),
        most=float(lengths.tokens.max()),
        metrics={},
        n_train=len(known),
    )
    foretold = np.asarray(smeared(best.log, settings))
    metrics = _measured(best.log, foretold, lengths, seed)
    head = TokensHead(settings=replace(settings, metrics=metrics), weight=ridge.weight)
    expected = np.array(head.expected_tokens(data.activations[best.point]))
    expected[known] = foretold
    return head, expected


def _lengths(data: RoutingData, known: NDArray[np.int64], folds: int, seed: int) -> _Lengths:
    tokens = data.weak_tokens[known]
    if bad := int(np.count_nonzero(tokens < 0)):
        raise TrainingDataError(f"{bad} of {len(tokens)} are negative; wanted counts of tokens")
    weights = data.row_weights()[known]
    if not weights.sum() > 0:
        raise TrainingDataError(f"none of the {len(tokens)} queries has weight; wanted some")
    groups = np.asarray([data.groups[i] for i in known])
    require_groups(groups.tolist(), folds)
    return _Lengths(
        tokens=tokens,
        log=np.log1p(tokens),
        weights=weights,
        groups=groups,
        held_out=group_folds(tokens > np.median(tokens), groups, folds, seed),
    )


def _try_penalties(
    point: ReadPoint, activations: NDArray[np.float32], lengths: _Lengths
) -> list[_Setting]:
    foretold = np.empty((len(_PENALTIES), len(lengths.log)))
    for test in lengths.held_out:
        train = lengths.others(test)
        reduction = fit_reduction(activations[train], _COMPONENTS)
        for i, penalty in enumerate(_PENALTIES):
            ridge = _ridge(
                reduction, activations[train], lengths.log[train], lengths.weights[train], penalty
            )
            foretold[i, test] = activations[test] @ ridge.weight + ridge.bias
    return [
        _Setting(
            point=point,
            penalty=penalty,
            log=log,
            loss=float(lengths.weights @ (log - lengths.log) ** 2),
        )
        for penalty, log in sorted(zip(_PENALTIES, foretold, strict=True), key=lambda x: -x[0])
    ]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ridge:
    """A ridge regression and the reduction before it, as one weight vector and bias."""

    weight: NDArray[np.float32]
    bias: float


def _ridge(
    reduction: Reduction,
    activations: NDArray[np.float32],
    log: Floats,
    weights: Floats,
    penalty: float,
) -> _Ridge:
    model: Any = Ridge(alpha=penalty, solver="cholesky")
    model.fit(reduction(activations), log, sample_weight=weights)
    weight = (reduction.projection.astype(np.float64) @ model.coef_).astype(np.float32)
    # The bias answers the rounded weight, not the exact one: large means would magnify the gap.
    bias = float(model.intercept_) - float(reduction.mean.astype(np.float64) @ weight)
    return _Ridge(weight=weight, bias=bias)


def _measured(log: Floats, foretold: Floats, lengths: _Lengths, seed: int) -> dict[str, Metric]:
    """Of held-out rows: their log lengths and tokens as foretold, against what came."""
    median = np.empty(len(log))
    for test in lengths.held_out:
        median[test] = np.median(lengths.tokens[lengths.others(test)])
    ranks = rankdata(log), rankdata(lengths.tokens)

    def r2(weights: Floats) -> float | None:
        share = weights / weights.sum()
        spread = _variance(lengths.log, share)
        return None if spread is None else 1 - float(share @ (lengths.log - log) ** 2) / spread

    def spearman(weights: Floats) -> float | None:
        return _correlation(*ranks, weights)

    def mean_absolute(errors: Floats) -> Callable[[Floats], float | None]:
        return lambda weights: float(weights @ np.abs(errors) / weights.sum())

    metrics = {
        "r2": r2,
        "spearman": spearman,
        "mae": mean_absolute(foretold - lengths.tokens),
        "mae_of_median": mean_absolute(median - lengths.tokens),
    }
    return {
        name: with_interval(
            lambda draws, metric=metric: (
                metric(draws * lengths.weights) if draws @ lengths.weights > 0 else None
            ),
            lengths.groups.tolist(),
            seed,
        )
        for name, metric in metrics.items()
    }


def _correlation(x: Floats, y: Floats, weights: Floats) -> float | None:
    share = weights / weights.sum()
    spread_x, spread_y = _variance(x, share), _variance(y, share)
    if spread_x is None or spread_y is None:
        return None
    covariance = float(share @ ((x - share @ x) * (y - share @ y)))
    return covariance / math.sqrt(spread_x * spread_y)


def _variance(x: Floats, share: Floats) -> float | None:
    """Variance with weights that sum to 1; ``None`` where it is nothing but rounding."""
    mean = float(share @ x)
    variance = float(share @ (x - mean) ** 2)
    return variance if variance > 1e-12 * mean**2 else None
