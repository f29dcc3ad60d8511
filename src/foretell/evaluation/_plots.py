"""The report's pictures. Each says its finding in words, for readers who cannot see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from foretell.evaluation._costs import CostCurve
from foretell.evaluation._curves import Curve, RiskCoverageCurve
from foretell.evaluation._evaluation import ReliabilityBin, Slice
from foretell.evaluation._intervals import Interval
from foretell.evaluation._learning_curve import RouterLearning
from foretell.evaluation._svg import DASHES, INK, PALETTE, WIDTH, spread, svg
from foretell.evaluation._words import clipped, dollars, number, percent
from foretell.probes import SweepRow
from foretell.records import Pooling, ReadPoint

_CHANCE: Final[dict[str, Any]] = {"ls": "--", "color": INK, "alpha": 0.6, "lw": 1.4}
_LONGEST_NAME: Final = 22
_MOST_WRITTEN: Final = 26
"""Layers of a heat map up to which every cell fits its number."""


def curve_plot(curves: Mapping[str, Curve], oracle: Curve | None) -> Markup:
    """Quality by strong-call share; the dashed line is routing at random."""
    weak, strong = (float(q) for q in next(iter(curves.values())).quality_at([0.0, 1.0]))

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for (name, curve), style in zip(curves.items(), _styles(), strict=False):
            axes.plot(curve.share, curve.quality, label=_short(name), **style)
        axes.plot([0, 1], [weak, strong], label="at random", **_CHANCE)
        if oracle is not None:
            axes.plot(oracle.share, oracle.quality, ":", color=INK, lw=1.6, label="oracle")
        _ends(axes, (0.0, weak), (1.0, strong))
        axes.set(xlabel="share of queries sent to the strong model", ylabel="mean success")
        _percents(axes.xaxis)
        _percents(axes.yaxis)
        axes.margins(y=0.16)
        axes.legend(loc="best", fontsize=10)

    found = _listed(
        f"{name} {percent(float(curve.quality_at(0.3)), 0)}" for name, curve in curves.items()
    )
    label = (
        f"Mean success by share of queries sent to the strong model, from {percent(weak, 0)} "
        f"(weak model alone) to {percent(strong, 0)} (strong model alone). "
        f"With 30 % sent: {found}, "
        f"at random {percent(weak + 0.3 * (strong - weak), 0)}"
    )
    if oracle is not None:
        label += f", oracle {percent(float(oracle.quality_at(0.3)), 0)}"
    return svg(draw, f"{label}.")


def cost_plot(
    curves: Mapping[str, CostCurve], weak: tuple[float, float], strong: tuple[float, float]
) -> Markup:
    """Quality by what 1,000 queries cost; ``weak`` and ``strong`` alone are (USD, success)."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for (name, curve), style in zip(curves.items(), _styles(), strict=False):
            axes.plot(curve.usd_per_1k, curve.quality, label=_short(name), **style)
        axes.plot(*zip(weak, strong, strict=True), label="at random", **_CHANCE)
        _ends(axes, weak, strong)
        axes.set(xlabel="US dollars per 1,000 queries", ylabel="mean success")
        _percents(axes.yaxis)
        axes.margins(y=0.16)
        axes.legend(loc="best", fontsize=10)

    return svg(
        draw,
        f"Mean success by cost of 1,000 queries, from {dollars(weak[0])} dollars (weak model "
        f"alone) to {dollars(strong[0])} dollars (strong model alone), for {_listed(curves)}.",
    )


def risk_plot(curves: Mapping[str, RiskCoverageCurve], failing: float) -> Markup:
    """Failures among the kept queries by how many are kept; ``failing`` is that of all."""
    coverage = np.linspace(0.02, 1, 99)

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for (name, curve), style in zip(curves.items(), _styles(), strict=False):
            axes.plot(coverage, curve.risk_at(coverage), label=_short(name), **style)
        axes.axhline(failing, label="at random", **_CHANCE)
        axes.set(xlabel="share of queries kept", ylabel="failures among those kept", ylim=(0, None))
        _percents(axes.xaxis)
        _percents(axes.yaxis)
        axes.legend(loc="best", fontsize=10)

    found = _listed(
        f"{name} {percent(float(curve.risk_at(0.3)), 0)}" for name, curve in curves.items()
    )
    return svg(
        draw,
        "Failures of the weak model among the queries kept, by the share kept. Keeping the surest "
        f"30 %: {found}; keeping at random {percent(failing, 0)}.",
    )


def reliability_plot(bins: Sequence[ReliabilityBin]) -> Markup:
    """Share of successes by foretold chance, with intervals and, below, counts."""

    def draw(figure: Any) -> None:
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=[5, 1])
        axes.plot([0, 1], [0, 1], **_CHANCE)
        for row in bins:
            if row.success.low is not None and row.success.high is not None:
                ends = [row.success.low, row.success.high]
                axes.plot([row.p_success] * 2, ends, color=PALETTE[0], alpha=0.45, lw=3)
        foretold = [row.p_success for row in bins]
        axes.plot(foretold, [row.success.value for row in bins], "o-", color=PALETTE[0])
        axes.set(ylabel="share that succeeded", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
        below.vlines(foretold, 0, [row.success.n for row in bins], color=PALETTE[0], lw=5)
        below.set(xlabel="foretold chance of success", ylabel="queries", ylim=(0, None))
        for axis in (axes.yaxis, below.xaxis):
            _percents(axis)

    apart = max(bins, key=lambda row: abs((row.success.value or 0.0) - row.p_success))
    return svg(
        draw,
        f"Share of successes by foretold chance in {len(bins)} bins. Furthest apart: where "
        f"{percent(apart.p_success, 0)} was foretold, {percent(apart.success.value, 0)} of "
        f"{apart.success.n} queries succeeded.",
    )


def sweep_plot(sweep: Sequence[SweepRow], chosen: Sequence[ReadPoint]) -> Markup:
    """Heat map of AUROC by layer and pooling: the best setting tried there, ``chosen`` framed."""
    best: dict[ReadPoint, float] = {}
    for row in sweep:
        if row.auroc is not None:
            best[row.read_point] = max(row.auroc, best.get(row.read_point, 0.0))
    layers = sorted({point.layer for point in best})
    poolings: list[Pooling] = sorted({point.pooling for point in best})
    grid = np.array([[best.get(ReadPoint(x, y), np.nan) for x in layers] for y in poolings])
    writes = len(layers) <= _MOST_WRITTEN

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        low, high = float(np.nanmin(grid)), float(np.nanmax(grid))
        mesh = axes.pcolormesh(grid, cmap="cividis", vmin=low, vmax=max(high, low + 1e-3))
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        for (y, x), value in np.ndenumerate(grid):
            point = ReadPoint(layers[x], poolings[y])
            if np.isfinite(value) and (writes or point in chosen):
                # Cividis is dark in its lower half, whatever the page is.
                ink = "#ffffff" if mesh.norm(value) < 0.55 else "#000000"
                text = f"{value:.2f}".removeprefix("0")
                axes.text(x + 0.5, y + 0.5, text, color=ink, ha="center", va="center", fontsize=10)
            if point in chosen:
                axes.plot(
                    [x, x + 1, x + 1, x, x], [y, y, y + 1, y + 1, y], color=PALETTE[1], lw=4,
                    clip_on=False, solid_joinstyle="miter",
                )  # fmt: skip
        step = 1 if writes else 1 + len(layers) // _MOST_WRITTEN
        axes.set_xticks(np.arange(0, len(layers), step) + 0.5, layers[::step])
        axes.set_yticks(np.arange(len(poolings)) + 0.5, poolings)
        axes.tick_params(length=0)
        axes.set(xlabel="layer (decoder blocks count from 0)")
        bar = figure.colorbar(mesh, ax=axes, label="AUROC", pad=0.02, fraction=0.03)
        bar.outline.set_visible(False)
        # An image inside, as it is by default, would be one more thing to load.
        bar.solids.set_rasterized(False)

    top = max(best, key=lambda point: best[point])
    label = (
        f"AUROC on folds of the training set by layer and pooling: from "
        f"{number(min(best.values()), 2)} to {number(best[top], 2)}, highest at {top}"
    )
    if chosen:
        label += f"; chosen: {'; '.join(map(str, chosen))}"
    return svg(draw, f"{label}.", (max(WIDTH, 1.8 + 0.45 * len(layers)), 1.0 + 0.5 * len(poolings)))


def learning_plot(routers: Sequence[RouterLearning]) -> Markup:
    """AUROC by number of labels, each with its interval."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        ends: list[tuple[float, float, str, str]] = []
        for found, style in zip(routers, _styles(), strict=False):
            known = [p for p in found.points if p.auroc.value is not None]
            if not known:
                continue
            labels = [point.labels for point in known]
            values = [float(point.auroc.value or 0) for point in known]
            lows = [_or(point.auroc.low, point.auroc.value) for point in known]
            highs = [_or(point.auroc.high, point.auroc.value) for point in known]
            axes.fill_between(labels, lows, highs, color=style["color"], alpha=0.16, lw=0)
            axes.plot(labels, values, marker="o", ms=5, **style)
            ends.append((labels[-1], values[-1], found.router, style["color"]))
        axes.set_xscale("log")
        ticks = sorted({point.labels for found in routers for point in found.points})
        axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks], fontsize=10)
        axes.minorticks_off()
        axes.set(xlabel="labelled training queries", ylabel="AUROC on the test queries")
        _name_ends(axes, ends)

    said = _listed(
        f"{found.router} from {number(found.points[0].auroc.value, 2)} with "
        f"{found.points[0].labels} labels to {number(found.points[-1].auroc.value, 2)} with "
        f"{found.points[-1].labels:,}"
        for found in routers
    )
    return svg(draw, f"AUROC by number of labels: {said}.")


def slices_plot(slices: Sequence[Slice], names: Sequence[str]) -> Markup:
    """AUROC of some routers on each slice, with intervals; chance is dashed."""

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        ends: list[tuple[float, float, str, str]] = []
        for place, (name, style) in enumerate(zip(names, _styles(), strict=False)):
            found = [
                (x, of) for x, s in enumerate(slices) if (of := s.auroc[name]).value is not None
            ]
            # Beside one another, so that intervals do not hide each other.
            xs = [x + 0.05 * (place - (len(names) - 1) / 2) for x, _ in found]
            for x, (_, of) in zip(xs, found, strict=True):
                if of.low is not None and of.high is not None:
                    axes.plot([x, x], [of.low, of.high], color=style["color"], lw=3, alpha=0.4)
            axes.plot(xs, [of.value for _, of in found], marker="o", **style)
            if found:
                ends.append((xs[-1], float(found[-1][1].value or 0), name, style["color"]))
        axes.axhline(0.5, **_CHANCE)
        axes.set_xticks(range(len(slices)), [_short(s.name) for s in slices])
        axes.set(ylabel="AUROC")
        axes.grid(visible=False, axis="x")
        _name_ends(axes, ends)

    middle = slices[len(slices) // 2]
    said = _listed(f"{name} {number(middle.auroc[name].value, 2)}" for name in names)
    return svg(draw, f"AUROC by third of the embedding score. In the {middle.name}: {said}.")


def forest_plot(
    rows: Sequence[tuple[str, Interval]],
    *,
    xlabel: str,
    finding: str,
    centre: float | None = None,
    highlight: str | None = "probe",
    as_percent: bool = False,
) -> Markup:
    """One interval a line, first on top; ``centre`` is a dashed line, such as chance."""
    shown: Callable[[float], str] = (
        (lambda value: percent(value, 0)) if as_percent else lambda value: number(value, 2)
    )

    def draw(figure: Any) -> None:
        axes = figure.add_subplot()
        for place, (name, found) in enumerate(reversed(rows)):
            if found.value is None:
                continue
            colour = PALETTE[0] if name == highlight or highlight is None else INK
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [place] * 2, color=colour, lw=3, alpha=0.4)
            axes.plot([found.value], [place], "o", color=colour)
            edge = found.value if found.high is None else max(found.high, found.value)
            axes.annotate(
                shown(found.value), (edge, place), xytext=(6, 0), textcoords="offset points",
                va="center", fontsize=9.5,
            )  # fmt: skip
        if centre is not None:
            axes.axvline(centre, **_CHANCE)
        axes.set_yticks(np.arange(len(rows)), [_short(row[0]) for row in reversed(rows)])
        axes.set(xlabel=xlabel, ylim=(-0.6, len(rows) - 0.4))
        axes.margins(x=0.12)
        axes.grid(visible=False, axis="y")
        if as_percent:
            _percents(axes.xaxis)
            axes.set_xlim(left=0)

    return svg(draw, finding, (WIDTH, max(2.0, 0.9 + 0.29 * len(rows))))


def _styles() -> Any:
    return (
        {"color": colour, "ls": dash} for colour, dash in cycle(zip(PALETTE, DASHES, strict=True))
    )


def _percents(axis: Any) -> None:
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0, decimals=0, symbol="\N{NARROW NO-BREAK SPACE}%"))


def _ends(axes: Any, weak: tuple[float, float], strong: tuple[float, float]) -> None:
    """Both ends of every curve, by name."""
    y_weak, y_strong = weak[1], strong[1]
    for (x, y), text, place in (
        (weak, f"weak {percent(y_weak, 0)}", (6, -10)),
        # Beside the picture: the curves and the oracle's come from all other sides.
        (strong, f"strong\n{percent(y_strong, 0)}", (22, 0)),
    ):
        axes.plot([x], [y], "s", color=INK, ms=6, zorder=5, clip_on=False)
        axes.annotate(
            text, (x, y), xytext=place, textcoords="offset points", va="center", fontsize=10,
            annotation_clip=False,
        )  # fmt: skip


def _name_ends(axes: Any, ends: Sequence[tuple[float, float, str, str]]) -> None:
    """Names at the right of lines that end at (x, y), moved apart where they would touch."""
    if not ends:
        return
    low, high = axes.get_ylim()
    places = spread([y for _, y, _, _ in ends], (high - low) * 0.065)
    right = max(x for x, _, _, _ in ends)
    for (_, _, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            _short(name), (right, place), xytext=(10, 0), textcoords="offset points", color=colour,
            va="center", fontsize=10, fontweight="bold", annotation_clip=False,
        )  # fmt: skip


def _short(name: str) -> str:
    """As much of a name as leaves room for what is drawn beside it."""
    return clipped(name, _LONGEST_NAME)


def _or(value: float | None, other: float | None) -> float:
    return float(value if value is not None else other if other is not None else np.nan)


def _listed(parts: Any) -> str:
    return ", ".join(parts)
