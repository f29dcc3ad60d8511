"""Richer kinds of probe, tried against the linear one on the same folds.

A richer kind must earn its place: it replaces the simpler one when its held-out log loss is lower
by more than one standard error of the paired difference, clustered by group (the one-standard-
error rule of Breiman et al., 1984). Chances are calibrated on the other folds before the loss.

What is learnt across read points (shares, fusion weights) is fitted on held-out scores of the
other folds, as in stacking (Wolpert, 1992): the scores' own probes have seen the fold that is
judged, which a handful of numbers cannot exploit. The nested estimate has no such overlap.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import ClassVar, Final, get_args

import numpy as np

from foretell.errors import TrainingDataError
from foretell.probes._attention import AttentionProbe, AttentionVariant
from foretell.probes._folds import (
    Floats,
    Rows,
    auroc_over_folds,
    held_out_chances,
    held_out_scores,
    others,
    reading_only,
)
from foretell.probes._fusion import FittedFusionProbe
from foretell.probes._honest import STRICT_JSON
from foretell.probes._linear_search import (
    Grid,
    LinearSearch,
    Sample,
    linear_scores,
    rank,
)
from foretell.probes._mix import MixProbe
from foretell.probes._mlp import MlpProbe
from foretell.probes._protocol import FittedProbe, Probe
from foretell.probes._several import SeveralProbe
from foretell.records import ReadPoint

SIMPLEST_FIRST: Final = ("linear", "several", "mix", "mlp", "attention", "fusion")
"""Kinds of probe in the order of what they need; fusion wraps the best of the others."""

_MOST_POINTS = 8
"""Read points that several and mix choose from: those of the best first look."""

_MOST_SEVERAL = 4
_MLP_POINTS = 2

_LABELS_TO_CONCATENATE = 1_000
"""Below about as many labels, read points are averaged: concatenated, they overfit."""

_MOST_CONCATENATED = 64
"""Components of each read point when several are concatenated."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KindRow:
    """One kind tried: held-out AUROC (mean and standard deviation over folds) and log loss (nats).

    ``skipped`` says why a kind was not tried; its numbers are then ``None``.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    kind: str
    auroc: float | None
    auroc_sd: float | None
    log_loss: float | None
    chosen: bool
    skipped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Candidate:
    """A probe with its held-out scores; ``fit`` fits it on all rows, not calibrated."""

    kind: str
    scores: Floats
    fit: Callable[[], FittedProbe]


def choose_kind(
    sample: Sample,
    search: LinearSearch,
    grid: Grid,
    kinds: Sequence[str],
    *,
    seed: int,
    step: Callable[[], None],
) -> tuple[Candidate, tuple[KindRow, ...]]:
    """The simplest of ``kinds`` that no richer one clearly beats, and how each did.

    ``step`` is called once for every kind but ``linear``.

    Raises:
        TrainingDataError: None of the kinds can be tried on these rows.
    """
    rivals = _Rivals(sample, search, grid, seed)
    tried: dict[str, Candidate | str] = {}
    chosen: Candidate | None = None
    for kind in (kind for kind in SIMPLEST_FIRST if kind in kinds):
        tried[kind] = rival = rivals.candidate(kind, chosen)
        if isinstance(rival, Candidate) and (
            chosen is None or clearly_better(rival.scores, chosen.scores, sample)
        ):
            chosen = rival
        if kind != "linear":
            step()
    if chosen is None:
        reasons = "; ".join(f"{kind}: {why}" for kind, why in tried.items())
        raise TrainingDataError(f"no kind of probe can be tried ({reasons})")
    rows = (_kind_row(kind, of, chosen, sample) for kind, of in tried.items())
    return chosen, tuple(rows)


def clearly_better(scores: Floats, than: Floats, sample: Sample) -> bool:
    """Whether the held-out log loss is lower by more than one standard error, over groups."""
    weights = sample.data.row_weights()
    gain = weights * (_log_losses(than, sample) - _log_losses(scores, sample))
    mean = gain.sum() / weights.sum()
    _, group = np.unique(np.asarray(sample.data.groups), return_inverse=True)
    by_group = np.bincount(group, gain - weights * mean)
    n = len(by_group)
    error = math.sqrt(n / (n - 1) * float(by_group @ by_group)) / float(weights.sum())
    return float(mean) > error


def _log_losses(scores: Floats, sample: Sample) -> Floats:
    chances = held_out_chances(scores, sample.data, sample.held_out)
    bounded = np.clip(chances, 1e-15, 1 - 1e-15)
    outcomes = sample.data.weak
    return -(outcomes * np.log(bounded) + (1 - outcomes) * np.log(1 - bounded))


def _kind_row(kind: str, candidate: Candidate | str, chosen: Candidate, sample: Sample) -> KindRow:
    if isinstance(candidate, str):
        return KindRow(
            kind=kind, auroc=None, auroc_sd=None, log_loss=None, chosen=False, skipped=candidate
        )
    auroc, spread = auroc_over_folds(candidate.scores, sample.data, sample.held_out)
    weights = sample.data.row_weights()
    return KindRow(
        kind=kind,
        auroc=auroc,
        auroc_sd=spread,
        log_loss=float(weights @ _log_losses(candidate.scores, sample) / weights.sum()),
        chosen=candidate is chosen,
    )


class _Rivals:
    """Makes the candidate of each kind; work that two kinds share is done once."""

    def __init__(self, sample: Sample, search: LinearSearch, grid: Grid, seed: int) -> None:
        self._sample, self._search, self._grid, self._seed = sample, search, grid, seed
        self._setting = search.chosen.probe
        self._points = search.best_points[:_MOST_POINTS]

    def candidate(self, kind: str, best: Candidate | None) -> Candidate | str:
        """The candidate, or why there is none; ``best`` is the best of the simpler kinds."""
        match kind:
            case "linear":
                return self._of_probe(self._setting, self._search.scores)
            case "several" | "mix" if len(self._points) < 2:
                return "there is one read point only"
            case "several":
                return self._several()
            case "mix":
                return self._mix()
            case "mlp":
                return self._mlp()
            case "attention":
                return self._attention()
            case _:
                return self._fusion(best or self._of_probe(self._setting, self._search.scores))

    def _of_probe(self, probe: Probe, scores: Floats) -> Candidate:
        def fit() -> FittedProbe:
            return probe.fit(self._sample.data, seed=self._seed)

        return Candidate(kind=probe.kind, scores=scores, fit=cache(fit))

    @cached_property
    def _columns(self) -> dict[ReadPoint, Floats]:
        """Held-out scores of the chosen setting at each of the best read points."""
        return {
            point: self._search.scores
            if point == self._setting.read_point
            else linear_scores(self._sample, replace(self._setting, read_point=point))
            for point in self._points
        }

    def _auroc(self, scores: Floats) -> float:
        return rank(auroc_over_folds(scores, self._sample.data, self._sample.held_out)[0])

    def _several(self) -> Candidate:
        # Forward selection: each read point is the one that helps those before it most.
        order, total = [self._points[0]], self._columns[self._points[0]]
        candidates: list[Candidate] = []
        while len(order) < min(_MOST_SEVERAL, len(self._points)):
            left = [point for point in self._points if point not in order]
            best = max(left, key=lambda point: self._auroc(total + self._columns[point]))
            order.append(best)
            total = total + self._columns[best]
            candidates.append(self._of_probe(self._averaged(order), total / len(order)))
            if len(self._sample.data) >= _LABELS_TO_CONCATENATE:
                candidates += self._concatenated(order)
        return max(candidates, key=lambda candidate: self._auroc(candidate.scores))

    def _averaged(self, points: Sequence[ReadPoint]) -> SeveralProbe:
        return SeveralProbe(
            read_points=tuple(points),
            components=self._setting.components,
            l2=self._setting.l2,
            shrink=self._setting.shrink,
        )

    def _concatenated(self, points: Sequence[ReadPoint]) -> list[Candidate]:
        """One regression over the components of all ``points``, by every penalty of the grid."""
        from foretell.probes._logistic import Logistic, fit_logistic

        data = self._sample.data
        penalties = sorted(self._grid.l2, reverse=True)
        components = min(self._setting.components, _MOST_CONCATENATED)
        scores = np.empty((len(penalties), len(data)))
        by_point = [self._sample.folds(point, components) for point in sorted(points)]
        for folds in zip(*by_point, strict=True):
            seen = np.concatenate([fold.seen[:, :components] for fold in folds], axis=1)
            unseen = np.concatenate([fold.unseen[:, :components] for fold in folds], axis=1)
            train, test = folds[0].train, folds[0].test
            fitted: Logistic | None = None
            for i, l2 in enumerate(penalties):
                fitted = fit_logistic(
                    seen, data.weak[train], data.row_weights()[train], l2, start=fitted
                )
                scores[i, test] = fitted.score(unseen)
        return [
            self._of_probe(
                SeveralProbe(
                    read_points=tuple(points), components=components, l2=l2, join="concatenate"
                ),
                column,
            )
            for l2, column in zip(penalties, scores, strict=True)
        ]

    def _mix(self) -> Candidate:
        from foretell.probes._mix_fitting import fit_shares

        data = self._sample.data
        points = sorted(self._points)
        probe = MixProbe(
            read_points=tuple(points),
            components=self._setting.components,
            l2=self._setting.l2,
            shrink=self._setting.shrink,
        )
        columns = np.column_stack([self._columns[point] for point in points])
        weights = data.row_weights()
        scores = np.empty(len(data))
        for test in self._sample.held_out:
            train = others(len(data), test)
            shares = fit_shares(columns[train], data.weak[train], weights[train])
            scores[test] = shares.mix(columns[test])
        return Candidate(
            kind="mix", scores=scores, fit=cache(lambda: probe.fit_from(columns, data))
        )

    def _mlp(self) -> Candidate:
        return self._through_protocol(MlpProbe(read_points=self._points[:_MLP_POINTS]))

    def _attention(self) -> Candidate | str:
        layer = self._setting.read_point.layer
        near = sorted(self._sample.data.sequences, key=lambda point: abs(point.layer - layer))
        if not near:
            return "there are no activations of every token"
        # Layers are alike next to one another, so one is enough; the variants are not.
        candidates = [
            self._through_protocol(AttentionProbe(read_point=near[0], variant=variant))
            for variant in get_args(AttentionVariant)
        ]
        return max(candidates, key=lambda candidate: self._auroc(candidate.scores))

    def _through_protocol(self, probe: MlpProbe | AttentionProbe) -> Candidate:
        points = probe.read_points if isinstance(probe, MlpProbe) else (probe.read_point,)
        scores = held_out_scores(
            probe,
            reading_only(self._sample.data, points),
            self._sample.held_out,
            seed=self._seed,
        )
        return self._of_probe(probe, scores)

    def _fusion(self, base: Candidate) -> Candidate:
        from foretell.probes._fusion_fitting import fit_fusion

        data = self._sample.data
        bare = reading_only(data, ())

        def fuse(rows: Rows) -> FittedFusionProbe:
            return fit_fusion(base.fit(), base.scores[rows], bare.take(rows))

        scores = np.empty(len(data))
        for test in self._sample.held_out:
            fused = fuse(others(len(data), test))
            scores[test] = fused.fuse(base.scores[test], bare.take(test))
        return Candidate(
            kind="fusion", scores=scores, fit=cache(lambda: fuse(np.arange(len(data))))
        )
