"""The cost-quality curve in letters, for the terminal."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from foretell.errors import InputError
from foretell.evaluation._evaluation import Evaluation
from foretell.evaluation._intervals import Floats
from foretell.evaluation._shown import shown_curves

_HEIGHT = 18
_MARKS = (("braille", "blue+"), ("+", "orange"), ("x", "magenta"))
_CHANCE = (".", "gray")
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)


def draw_curve(evaluation: Evaluation, width: int) -> str:
    """The probe's curve, the best baseline's, and the straight line of random routing.

    Each has a mark of its own, so nothing is lost without colour: there is none when ``NO_COLOR``
    is set. At most ``width`` columns, and no more than the terminal has. Not for several threads
    at once: plotext draws on one figure.

    Returns:
        Lines without a trailing line break; one sentence when no curve is defined.

    Raises:
        InputError: plotext is not installed.
    """
    try:
        import plotext
    except ImportError as error:
        raise InputError(
            "drawing in the terminal needs plotext, which is not installed; "
            "pip install 'foretell[report]'"
        ) from error

    curves = shown_curves(evaluation)
    if not curves:
        return "no cost-quality curve: no test query has an outcome of the strong model"
    figure = plotext.figure
    figure.clear()
    figure.theme("colorless")
    figure.plot_size(width, _HEIGHT)
    weak, strong = next(iter(curves.values())).quality_at([0.0, 1.0])
    share = np.linspace(0, 1, 201)
    lines: list[tuple[str, Floats, tuple[str, str]]] = [
        ("at random", weak + share * (strong - weak), _CHANCE)
    ]
    for (name, curve), mark in zip(curves.items(), _MARKS, strict=False):
        lines.append((name, curve.quality_at(share), mark))
    # What is drawn last lies on top: the probe.
    for name, quality, (mark, colour) in (lines[0], *reversed(lines[1:])):
        signal = figure.signal(
            share.tolist(), quality.tolist(), marker=plotext.marker(mark, colour)
        )
        signal.lines()
        signal.label(name)
        figure.draw(signal)
    figure.title("quality by share of queries sent to the strong model")
    figure.ruler("x").ticks(list(_SHARES), [f"{share:.0%}" for share in _SHARES])
    bottom = min(float(quality.min()) for _, quality, _ in lines)
    figure.legend(x=1.0, y=bottom, ha="right", va="bottom", relative=True)
    drawn: Any = figure.build().string(colorless=bool(os.environ.get("NO_COLOR")))
    figure.clear()
    return str(drawn).rstrip("\n")
