"""The columns of the report's table of routers: what each number is, and which way is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from foretell.evaluation._evaluation import Evaluation, RouterResult
from foretell.evaluation._intervals import Interval
from foretell.evaluation._words import Formatter, compact, dollars, number, percent

Better = Literal["higher", "lower"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A number as shown, its interval, and whether no other router's is better."""

    shown: str
    interval: str
    best: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One metric over all routers; ``cells`` are in their order.

    ``reason`` says why the number is undefined where it is.
    """

    label: str
    meaning: str
    better: Better
    group: str
    cells: tuple[Cell, ...]
    reason: str | None


def metric_columns(evaluation: Evaluation) -> tuple[Column, ...]:
    """All metrics, those of ranking first; a number within an attribute where there is one."""
    return tuple(_column(evaluation, metric) for metric in (*_ranking(evaluation), *_REST))


def column_groups(columns: Iterable[Column]) -> list[tuple[str, int]]:
    """Neighbouring columns of one group: its name and how many."""
    groups: list[tuple[str, int]] = []
    for column in columns:
        if groups and groups[-1][0] == column.group:
            groups[-1] = (column.group, groups[-1][1] + 1)
        else:
            groups.append((column.group, 1))
    return groups


def why_undefined(evaluation: Evaluation, *, gap: bool = False) -> str:
    """The reason behind an undefined metric: of ranking, or of the ``gap`` between the models."""
    if not gap:
        return "all test queries came out the same, so there is nothing to rank"
    if evaluation.strong_rate is None:
        return "no test query has an outcome of the strong model"
    if evaluation.strong_rate <= evaluation.base_rate:
        return "the strong model is no better than the weak one on the queries that both answered"
    return "these queries do not support it"


_Of = Callable[[RouterResult], Interval]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Metric:
    label: str
    meaning: str
    of: _Of
    better: Better = "higher"
    group: str
    shown: Formatter = number
    needs_gap: bool = False


def _column(evaluation: Evaluation, metric: _Metric) -> Column:
    found = [metric.of(router) for router in evaluation.routers]
    rivals = [
        interval.value
        for router, interval in zip(evaluation.routers, found, strict=True)
        # A reference, which cannot route, is no rival.
        if router.sees != "answer" and interval.value is not None
    ]
    best = None
    if len(set(rivals)) > 1:
        # What reads the same is equally good.
        best = metric.shown((max if metric.better == "higher" else min)(rivals))
    return Column(
        label=metric.label,
        meaning=metric.meaning,
        better=metric.better,
        group=metric.group,
        cells=tuple(
            Cell(
                shown=(shown := metric.shown(interval.value)),
                interval=compact(interval, metric.shown),
                best=shown == best and router.sees != "answer",
            )
            for router, interval in zip(evaluation.routers, found, strict=True)
        ),
        reason=None
        if all(interval.value is not None for interval in found)
        else _reason(evaluation, metric),
    )


def _reason(evaluation: Evaluation, metric: _Metric) -> str:
    if metric.label == _COST and evaluation.costs is None:
        return "the tokens of these queries were not counted"
    return why_undefined(evaluation, gap=metric.needs_gap)


def _ranking(evaluation: Evaluation) -> list[_Metric]:
    names = sorted({name for router in evaluation.routers for name in router.auroc_within})
    nothing = Interval(value=None, n=0)

    def within(name: str) -> _Of:
        return lambda router: router.auroc_within.get(name, nothing)

    return [
        _Metric(
            label="AUROC",
            meaning="Chance that a query the weak model gets right scores above one that it gets "
            "wrong: 0.5 is chance, 1 is perfect.",
            of=lambda router: router.auroc,
            group=_RANKING,
        ),
        _Metric(
            label="AUPRC",
            meaning="Average precision of foretelling success; a router that knows nothing has "
            "the weak model's success rate.",
            of=lambda router: router.auprc,
            group=_RANKING,
        ),
        *(
            _Metric(
                label=f"AUROC within {name}",
                meaning=f"AUROC among queries of the same {name}: what a router owes to knowing "
                f"the {name} alone is gone.",
                of=within(name),
                group=_RANKING,
            )
            for name in names
        ),
        _Metric(
            label="AURC",
            meaning="Share of failures among the queries kept, averaged over how many are kept "
            "(area under the risk-coverage curve).",
            of=lambda router: router.aurc,
            better="lower",
            group=_RANKING,
        ),
    ]


_RANKING = "Telling right from wrong"
_GAP = "Winning back the gap"
_COSTS = "Quality for money"
_CHANCES = "Honest chances"
_COST = "USD per 1,000"


def _cpt(share: int, of: _Of) -> _Metric:
    return _Metric(
        label=f"CPT {share} %",
        meaning=f"Smallest share of queries to send to the strong model to win back {share} % of "
        "the gap.",
        of=of,
        better="lower",
        group=_GAP,
        shown=percent,
        needs_gap=True,
    )


_REST = (
    _Metric(
        label="APGR",
        meaning="Share of the quality gap between the two models that is won back, averaged over "
        "all shares of strong calls; routing at random has 0.5.",
        of=lambda router: router.apgr,
        group=_GAP,
        needs_gap=True,
    ),
    _cpt(50, lambda router: router.cpt50),
    _cpt(80, lambda router: router.cpt80),
    _cpt(95, lambda router: router.cpt95),
    _Metric(
        label="Regret",
        meaning="Success lost against an oracle that escalates exactly what the strong model "
        "answers better, at the oracle's own share of strong calls.",
        of=lambda router: router.regret,
        better="lower",
        group=_GAP,
        needs_gap=True,
    ),
    _Metric(
        label="AIQ",
        meaning="Mean success over costs, along the best mixtures of this router and the two "
        "models alone.",
        of=lambda router: router.aiq,
        group=_COSTS,
        needs_gap=True,
    ),
    _Metric(
        label="AUDC",
        meaning="Mean success over costs, along the router's own curve.",
        of=lambda router: router.audc,
        group=_COSTS,
        needs_gap=True,
    ),
    _Metric(
        label="QNC",
        meaning="Least cost, in shares of always asking the strong model, with the success of "
        "always asking it.",
        of=lambda router: router.qnc,
        better="lower",
        group=_COSTS,
        shown=percent,
        needs_gap=True,
    ),
    _Metric(
        label=_COST,
        meaning="The same in US dollars per 1,000 queries.",
        of=lambda router: router.cost.equal_quality if router.cost else Interval(value=None, n=0),
        better="lower",
        group=_COSTS,
        shown=dollars,
        needs_gap=True,
    ),
    _Metric(
        label="Brier",
        meaning="Mean squared distance of the chance foretold and what came: 0 is perfect.",
        of=lambda router: router.brier,
        better="lower",
        group=_CHANCES,
    ),
    _Metric(
        label="ECE",
        meaning="Mean distance of chance and success rate, over bins of equal size: how far the "
        "chances are from meaning what they say. Noise alone makes it more than 0, and a router "
        "that gives every query the same chance has little of it while it tells nothing apart.",
        of=lambda router: router.ece,
        better="lower",
        group=_CHANCES,
    ),
    _Metric(
        label="Log loss",
        meaning="Mean surprise at what came, in nats; being sure and wrong costs most.",
        of=lambda router: router.log_loss,
        better="lower",
        group=_CHANCES,
    ),
)
