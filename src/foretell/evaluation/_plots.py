"""The report's pictures, as SVG to put inline: text stays text, and takes the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from markupsafe import Markup, escape

from foretell.errors import InputError
from foretell.evaluation._curves import Curve
from foretell.evaluation._evaluation import ReliabilityBin
from foretell.probes import SweepRow

PALETTE = ("#3b82f6", "#f97316", "#a855f7", "#10b981", "#ef4444")
"""Line colours that read on white and on near-black."""

_INK = "#0b0c0d"
"""Stands for the page's text colour while drawing; replaced by ``currentColor``."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 11,
    "text.color": _INK,
    "axes.edgecolor": _INK,
    "axes.labelcolor": _INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": _INK,
    "grid.alpha": 0.12,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 2.2,
}

_Draw = Callable[[Any], None]


def curve_plot(curves: dict[str, Curve], weak: float, strong: float) -> Markup:
    """Quality by strong-call share; the dashed line is routing at random."""

    def draw(axes: Any) -> None:
        from matplotlib.ticker import PercentFormatter

        for (name, curve), colour in zip(curves.items(), PALETTE, strict=False):
            axes.plot(curve.share, curve.quality, color=colour, label=name)
        axes.plot([0, 1], [weak, strong], "--", color=_INK, alpha=0.6, lw=1.4, label="at random")
        axes.set(xlabel="share of queries sent to the strong model", ylabel="mean success")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
        axes.legend(loc="lower right")

    return _svg(draw, "Cost-quality curve: mean success by share sent to the strong model")


def reliability_plot(bins: Sequence[ReliabilityBin]) -> Markup:
    """Share of successes by foretold chance, with intervals; on the diagonal is honest."""

    def draw(axes: Any) -> None:
        foretold = [row.p_success for row in bins]
        came = [row.success.value for row in bins]
        axes.plot([0, 1], [0, 1], "--", color=_INK, alpha=0.6, lw=1.4)
        for row in bins:
            if row.success.low is not None and row.success.high is not None:
                ends = [row.success.low, row.success.high]
                axes.plot([row.p_success] * 2, ends, color=PALETTE[0], alpha=0.45, lw=3)
        axes.plot(foretold, came, "o-", color=PALETTE[0])
        axes.set(xlabel="foretold chance of success", ylabel="share that succeeded")
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))

    return _svg(draw, "Reliability: share of successes by foretold chance")


def sweep_plot(sweep: Iterable[SweepRow]) -> Markup:
    """AUROC by layer, one line for each pooling: the best setting tried there."""
    best: dict[str, dict[int, float]] = {}
    for row in sweep:
        if row.auroc is not None:
            by_layer = best.setdefault(row.read_point.pooling, {})
            layer = row.read_point.layer
            by_layer[layer] = max(row.auroc, by_layer.get(layer, 0.0))

    def draw(axes: Any) -> None:
        for (pooling, by_layer), colour in zip(sorted(best.items()), PALETTE, strict=False):
            layers = sorted(by_layer)
            axes.plot(
                layers, [by_layer[layer] for layer in layers], "o-", color=colour, label=pooling
            )
        axes.set(xlabel="decoder block", ylabel="AUROC on folds of the training set")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.legend(loc="lower right")

    return _svg(draw, "AUROC by layer and pooling on folds of the training set")


def forest_plot(rows: Sequence[tuple[str, float, float, float]], centre: float) -> Markup:
    """One interval a line, best on top: (name, value, low, high); ``centre`` is chance."""

    def draw(axes: Any) -> None:
        for place, (name, value, low, high) in enumerate(reversed(rows)):
            colour = PALETTE[0] if name == "probe" else _INK
            axes.plot([low, high], [place, place], color=colour, lw=3, alpha=0.4)
            axes.plot([value], [place], "o", color=colour)
        axes.axvline(centre, ls="--", color=_INK, alpha=0.6, lw=1.4)
        axes.set_yticks(np.arange(len(rows)), [row[0] for row in reversed(rows)])
        axes.set(xlabel="AUROC with 95 % interval")

    return _svg(draw, "AUROC of every router with its 95 % interval")


def _svg(draw: _Draw, label: str) -> Markup:
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError(
            "the report's plots need matplotlib, which is not installed; "
            "pip install 'foretell[report]'"
        ) from error

    buffer = io.StringIO()
    # A figure of its own, never pyplot's: nothing stays open, and no display is looked for.
    with rc_context({**_STYLE, "svg.hashsalt": label}):
        figure = Figure(figsize=(5.6, 4.0), layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    # Several pictures share a page: ids that nothing refers to would only collide.
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', svg))
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in referred else "", svg)
    return Markup(svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1))  # noqa: S704 - matplotlib escapes the names that it draws
