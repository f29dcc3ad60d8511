"""One HTML file that shows what an evaluation found, whole in itself."""

from __future__ import annotations

from dataclasses import dataclass

from foretell.evaluation._evaluation import Evaluation
from foretell.evaluation._intervals import Interval
from foretell.evaluation._plots import curve_plot, forest_plot, reliability_plot, sweep_plot
from foretell.evaluation._shown import shown_curves


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


def render_report(evaluation: Evaluation, context: ReportContext) -> str:
    """The report as one HTML document: no network, no scripts, light and dark.

    Every text that came from outside (queries, ids, names) is shown as text.

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
    environment.filters |= {"number": _number, "percent": _percent, "interval": _interval}
    environment.filters |= {"signed": _signed, "clipped": _clipped}
    page = environment.get_template("report.html.j2")
    return page.render(
        evaluation=evaluation,
        context=context,
        probe=evaluation.router("probe"),
        baseline=next(
            (row for row in evaluation.differences if row.against == evaluation.best_baseline), None
        ),
        pictures=_pictures(evaluation),
        sees={
            "nothing": "nothing",
            "query": "the query",
            "prefill": "the weak model's prefill",
            "answer": "the weak model's answer (a reference, not a router)",
        },
    )


def _pictures(evaluation: Evaluation) -> dict[str, str]:
    """SVG by name; a picture without data is absent."""
    pictures: dict[str, str] = {}
    ranked = sorted(
        (
            (result.name, result.auroc.value, result.auroc.low, result.auroc.high)
            for result in evaluation.routers
            if result.auroc.value is not None
            and result.auroc.low is not None
            and result.auroc.high is not None
        ),
        key=lambda row: -row[1],
    )
    if ranked:
        pictures["auroc"] = forest_plot(ranked, centre=0.5)
    if curves := shown_curves(evaluation):
        weak, strong = next(iter(curves.values())).quality_at([0.0, 1.0])
        pictures["curve"] = curve_plot(curves, float(weak), float(strong))
    if evaluation.reliability:
        pictures["reliability"] = reliability_plot(evaluation.reliability)
    if evaluation.sweep:
        pictures["sweep"] = sweep_plot(evaluation.sweep)
    return pictures


_UNDEFINED, _MINUS = "\N{EN DASH}", "\N{MINUS SIGN}"


def _number(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.3f}".replace("-", _MINUS)


def _percent(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:.1%}"


def _signed(value: float | None) -> str:
    return _UNDEFINED if value is None else f"{value:+.3f}".replace("-", _MINUS)


def _interval(interval: Interval) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"{_number(interval.low)} to {_number(interval.high)}"


def _clipped(text: str, most: int = 400) -> str:
    return text if len(text) <= most else text[:most] + "\N{HORIZONTAL ELLIPSIS}"
