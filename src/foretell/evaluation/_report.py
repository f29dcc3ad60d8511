"""One HTML file that shows what an evaluation found, whole in itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from markupsafe import Markup

from foretell.evaluation import _plots, _sentences, _words
from foretell.evaluation._curves import Curve
from foretell.evaluation._evaluation import Evaluation, RouterResult
from foretell.evaluation._extras import Extras
from foretell.evaluation._metric_columns import column_groups, metric_columns
from foretell.evaluation._shown import shown_curves
from foretell.evaluation._verdict import verdict
from foretell.probes import Selection
from foretell.routers import FittedProbeRouter

_NO_EXTRAS: Final = Extras()


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportContext:
    """What the evaluation itself does not know.

    ``asked`` describes the queries in a sentence or two, ``strong`` says who answered as the strong
    model, ``command`` is what makes this report again, ``created`` a date and time to show.
    """

    title: str
    asked: str
    command: str
    strong: str
    created: str


def render_report(
    evaluation: Evaluation, context: ReportContext, *, extras: Extras = _NO_EXTRAS
) -> str:
    """The report as one HTML document: no network, no scripts, light and dark.

    What ``extras`` lacks is left out, and said to be. Every text that came from outside (queries,
    ids, names) is shown as text.

    Raises:
        InputError: matplotlib is not installed.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("foretell.evaluation"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Any] = {
        "between": _words.between,
        "clipped": _words.clipped,
        "number": _words.number,
        "percent": _words.percent,
        "percent_between": _words.percent_between,
    }
    environment.filters.update(filters)
    router = evaluation.fitted.get("probe")
    probe = router if isinstance(router, FittedProbeRouter) else None
    selection = probe.selection if probe else None
    columns = metric_columns(evaluation)
    page = environment.get_template("report.html.j2")
    return page.render(
        evaluation=evaluation,
        context=context,
        extras=extras,
        verdict=verdict(evaluation),
        columns=columns,
        column_groups=column_groups(columns),
        selection=selection,
        calibration=probe.probe.calibration.kind if probe else None,
        pictures=_pictures(evaluation, extras, selection),
        not_measured=_not_measured(extras),
        say=_sentences,
        words=_words,
    )


def _pictures(
    evaluation: Evaluation, extras: Extras, selection: Selection | None
) -> dict[str, Markup]:
    """SVG by name; a picture without data is absent."""
    pictures: dict[str, Markup] = {}
    if ranked := _ranked(evaluation):
        best = ranked[0]
        pictures["auroc"] = _plots.forest_plot(
            [(router.name, router.auroc) for router in ranked],
            xlabel="AUROC with 95 % interval",
            finding=f"AUROC of every router with its 95 % interval: {best.name} is highest with "
            f"{_words.number(best.auroc.value, 2)}; the dashed line is chance.",
            centre=0.5,
        )
    shown = _shown(evaluation)
    pictures |= _curve_pictures(evaluation, shown, extras.oracle)
    if shown and len(ranked) > 0:
        failing = 1 - evaluation.base_rate
        risks = {router.name: router.risk_coverage for router in shown}
        pictures["risk"] = _plots.risk_plot(risks, failing)
    if evaluation.reliability:
        pictures["reliability"] = _plots.reliability_plot(evaluation.reliability)
    if any(row.auroc is not None for row in evaluation.sweep):
        chosen = selection.probe.read_points if selection else ()
        pictures["sweep"] = _plots.sweep_plot(evaluation.sweep, chosen)
    if extras.learning_curve:
        pictures["learning"] = _plots.learning_plot(extras.learning_curve.routers)
    if evaluation.slices:
        names = [router.name for router in shown]
        pictures["slices"] = _plots.slices_plot(evaluation.slices, names)
    if extras.robustness:
        worst = max(extras.robustness, key=lambda row: row.flips.flipped.value or 0.0)
        pictures["robustness"] = _plots.forest_plot(
            [(row.kind, row.flips.flipped) for row in extras.robustness],
            xlabel="decisions that changed",
            finding="Share of decisions that changed by kind of change to the query: most under "
            f"{worst.kind} with {_words.percent(worst.flips.flipped.value, 0)}.",
            highlight=None,
            as_percent=True,
        )
    return pictures


def _curve_pictures(
    evaluation: Evaluation, shown: list[RouterResult], oracle: Curve | None
) -> Mapping[str, Markup]:
    curves = {router.name: router.curve for router in shown if router.curve}
    if not curves:
        return {}
    pictures = {"curve": _plots.curve_plot(curves, oracle)}
    costs, rate = evaluation.costs, evaluation.strong_rate
    by_cost = {router.name: router.cost.curve for router in shown if router.cost}
    if by_cost and costs and rate is not None:
        weak, strong = costs.always_weak.value, costs.always_strong.value
        if weak is not None and strong is not None:
            start = float(next(iter(curves.values())).quality_at(0.0))
            pictures["cost"] = _plots.cost_plot(by_cost, (weak, start), (strong, rate))
    return pictures


def _ranked(evaluation: Evaluation) -> list[RouterResult]:
    """Routers with an AUROC, the highest first."""
    known = [router for router in evaluation.routers if router.auroc.value is not None]
    return sorted(known, key=lambda router: -(router.auroc.value or 0.0))


def _shown(evaluation: Evaluation) -> list[RouterResult]:
    """The routers drawn: those of every drawing, the best other on the prefill, the best of all."""
    names = list(shown_curves(evaluation))
    if not names:
        names = [name for name in ("probe", evaluation.best_baseline, "embedding") if name]
    ranked = _ranked(evaluation)
    names += [of.name for of in ranked if of.sees == "prefill" and of.name != "probe"][:1]
    names += [of.name for of in ranked if of.sees != "answer"][:1]
    return [found for name in dict.fromkeys(names) if (found := evaluation.router(name))]


def _not_measured(extras: Extras) -> tuple[str, ...]:
    parts: dict[str, Any] = {
        "the learning curve": extras.learning_curve,
        "guarantees": extras.guarantees,
        "the gate": extras.gate,
        "leaving one domain out": extras.transfer,
        "robustness": extras.robustness,
    }
    return tuple(name for name, part in parts.items() if not part)
