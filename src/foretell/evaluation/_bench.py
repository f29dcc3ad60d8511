"""The test queries with their resamples, and what routers are measured to be on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Binning, brier_decomposition, expected_calibration_error
from foretell.evaluation._answered import PROBE, Answered, Judged
from foretell.evaluation._attributes import Attribute, attributes_of
from foretell.evaluation._cost_statistics import aiq_of, audc_of, qnc_of
from foretell.evaluation._costs import Prices
from foretell.evaluation._curves import risk_coverage_curve
from foretell.evaluation._evaluation import (
    Difference,
    ReliabilityBin,
    RouterResult,
    Slice,
    WrongCase,
)
from foretell.evaluation._intervals import Floats, Interval, Resamples, Statistic, interval
from foretell.evaluation._statistics import (
    auprc_of,
    aurc_of,
    auroc_of,
    cpt_of,
    less,
    log_losses,
    mean_of,
    pgr_of,
    regret_area_of,
    regret_of,
    squared_errors,
)
from foretell.evaluation._strata import auroc_within_of
from foretell.records import RoutingData

Rows = NDArray[np.int64]

EMBEDDING: Final = "embedding"
PGR_SHARES: Final = (0.1, 0.2, 0.3, 0.5, 0.7)
"""Strong-call shares at which the gap recovered is reported."""

_THIRDS = ("lower third", "middle third", "upper third")
_SMALLEST_SLICE = 30
_RELIABILITY_BINS = 10
_MOST_WRONG = 10


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Bench:
    """The labelled test queries, those of them that both models answered, the shared resamples."""

    test: RoutingData
    weights: Floats
    every: Rows
    answered: Answered
    resamples: Resamples
    attributes: tuple[Attribute, ...]

    @classmethod
    def of(cls, test: RoutingData, resamples: Resamples, prices: Prices) -> Bench:
        """All of ``test`` has a weak outcome, and weight."""
        return cls(
            test=test,
            weights=test.row_weights(),
            every=np.arange(len(test)),
            answered=Answered.among(test, resamples, prices),
            resamples=resamples,
            attributes=attributes_of(test),
        )

    @property
    def base_rate(self) -> float:
        """Mean success of the weak model."""
        return float(np.average(self.test.weak, weights=self.weights))

    def result(self, judged: Judged) -> RouterResult:
        scores, chances, weak = judged.scores, judged.chances, self.test.weak
        answered = self.answered
        columns, routed = answered.columns(judged), answered.routed(judged)
        qnc, curve = answered.measure(qnc_of(routed)), answered.curve(judged)
        return RouterResult(
            name=judged.name,
            sees=judged.sees,
            auroc=self._measure(auroc_of(scores, weak)),
            auroc_within={a.name: self._auroc_within(scores, a) for a in self.attributes},
            auprc=self._measure(auprc_of(scores, weak)),
            aurc=self._measure(aurc_of(scores, weak)),
            brier=self._measure(mean_of(squared_errors(chances, weak))),
            brier_parts=brier_decomposition(chances, weak, self.weights),
            log_loss=self._measure(mean_of(log_losses(chances, weak))),
            ece=self._calibration_error(chances, "mass"),
            ece_width=self._calibration_error(chances, "width"),
            apgr=answered.measure(answered.apgr(judged)),
            cpt50=answered.measure(cpt_of(*columns, 0.5)),
            cpt80=answered.measure(cpt_of(*columns, 0.8)),
            cpt95=answered.measure(cpt_of(*columns, 0.95)),
            pgr={share: answered.measure(pgr_of(*columns, share)) for share in PGR_SHARES},
            regret=answered.measure(regret_of(*columns)),
            regret_area=answered.measure(regret_area_of(*columns)),
            aiq=answered.measure(aiq_of(routed)),
            audc=answered.measure(audc_of(routed)),
            qnc=qnc,
            saving=_one_less(qnc),
            cost=answered.cost(judged, curve),
            curve=curve,
            risk_coverage=risk_coverage_curve(scores, weak, self.weights),
        )

    def differences(self, judged: Sequence[Judged]) -> tuple[Difference, ...]:
        """The probe against each other router; empty without it."""
        probe = next((one for one in judged if one.name == PROBE), None)
        if probe is None:
            return ()
        weak = self.test.weak

        def against(other: Judged) -> Difference:
            ours, theirs = (probe.scores, weak), (other.scores, weak)
            answered = self.answered
            return Difference(
                against=other.name,
                auroc=self._measure(less(auroc_of(*ours), auroc_of(*theirs))),
                auprc=self._measure(less(auprc_of(*ours), auprc_of(*theirs))),
                aurc=self._measure(less(aurc_of(*ours), aurc_of(*theirs))),
                apgr=answered.measure(less(answered.apgr(probe), answered.apgr(other))),
                saving=answered.measure(less(answered.saving(probe), answered.saving(other))),
            )

        return tuple(against(other) for other in judged if other is not probe)

    def slices(self, judged: Sequence[Judged]) -> tuple[Slice, ...]:
        """Thirds by the embedding router's score; empty without it."""
        by = next((one for one in judged if one.name == EMBEDDING), None)
        if by is None:
            return ()
        thirds = np.array_split(self._rising(by.scores), 3)
        return tuple(
            self._slice(name, rows, judged)
            for name, rows in zip(_THIRDS, thirds, strict=True)
            if len(rows)
        )

    def attribute_slices(self, judged: Sequence[Judged]) -> tuple[Slice, ...]:
        """The values of attributes on enough queries, of either outcome."""
        return tuple(
            self._slice(f"{attribute.name}={value}", rows, judged)
            for attribute in self.attributes
            for value, rows in attribute.by_value().items()
            if len(rows) >= _SMALLEST_SLICE and 0 < self.test.weak[rows].mean() < 1
        )

    def reliability(self, judged: Judged | None) -> tuple[ReliabilityBin, ...]:
        """Bins of about equal size by a router's chance; empty without the router."""
        if judged is None:
            return ()
        bins = np.array_split(self._rising(judged.chances), _RELIABILITY_BINS)
        return tuple(
            ReliabilityBin(
                p_success=float(np.average(judged.chances[rows], weights=self.weights[rows])),
                success=interval(mean_of(self.test.weak[rows]), self.resamples, rows),
            )
            for rows in bins
            if len(rows)
        )

    def most_wrong(self, judged: Judged | None) -> tuple[WrongCase, ...]:
        """Where a router's chance and the outcome are furthest apart; empty without the router."""
        if judged is None:
            return ()
        worst = self._rising(-np.abs(judged.chances - self.test.weak))[:_MOST_WRONG]
        answered = set(self.answered.rows.tolist())
        return tuple(
            WrongCase(
                id=self.test.ids[row],
                text=self.test.texts[row],
                p_success=float(judged.chances[row]),
                weak=float(self.test.weak[row]),
                strong=float(self.test.strong[row]) if row in answered else None,
            )
            for row in worst.tolist()
        )

    def _slice(self, name: str, rows: Rows, judged: Sequence[Judged]) -> Slice:
        weak = self.test.weak[rows]
        return Slice(
            name=name,
            n=len(rows),
            base_rate=float(np.average(weak, weights=self.weights[rows])),
            auroc={
                one.name: interval(auroc_of(one.scores[rows], weak), self.resamples, rows)
                for one in judged
            },
        )

    def _rising(self, values: Floats) -> Rows:
        """Rows by rising value; ids settle ties, so that the order of rows does not."""
        rows = range(len(values))
        return np.array(sorted(rows, key=lambda row: (float(values[row]), self.test.ids[row])))

    def _measure(self, statistic: Statistic) -> Interval:
        return interval(statistic, self.resamples, self.every)

    def _auroc_within(self, scores: Floats, attribute: Attribute) -> Interval:
        rows = attribute.rows
        statistic = auroc_within_of(scores[rows], self.test.weak[rows], attribute.values)
        return interval(statistic, self.resamples, rows)

    def _calibration_error(self, chances: Floats, binning: Binning) -> Interval:
        error = expected_calibration_error(chances, self.test.weak, self.weights, binning=binning)
        return Interval(value=error, n=len(self.every))


def _one_less(of: Interval) -> Interval:
    """The interval of 1 less the value, whose ends change places."""
    value, low, high = (None if at is None else 1 - at for at in (of.value, of.high, of.low))
    return Interval(value=value, low=low, high=high, n=of.n)
