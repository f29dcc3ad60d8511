"""Drawing with matplotlib into SVG to put inline: text stays text, and takes the page's colours."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any, Final

from markupsafe import Markup, escape

from foretell.errors import InputError

PALETTE: Final = ("#2f7be0", "#e0660b", "#a855f7", "#0f9488", "#d6407f")
"""Line colours that read on white and on near-black, and stay apart for colour-blind readers."""

DASHES: Final[tuple[Any, ...]] = (
    "-",
    (0, (5, 1.5)),
    (0, (5, 1.5, 1, 1.5)),
    (0, (1, 1)),
    (0, (8, 2)),
)
"""As many kinds of line, for whoever sees no colours at all."""

INK: Final = "#0b0c0d"
"""Stands for the page's text colour while drawing; replaced by ``currentColor``."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.family": "sans-serif",
    "font.size": 12,
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "xtick.color": INK,
    "ytick.color": INK,
    "figure.facecolor": "none",
    "legend.frameon": False,
    "lines.linewidth": 2.2,
}

Size = tuple[float, float]

WIDTH: Final = 5.2
"""Inches of a picture that a phone shows whole; a wider one scrolls in its own container."""

_PIXELS: Final = 100
"""A picture's greatest width on the page, for each of its inches: letters like the text's."""

_FEWEST_PIXELS: Final = 62
"""The same for the least width of a picture that scrolls."""


def svg(draw: Callable[[Any], None], label: str, size: Size = (WIDTH, 3.8)) -> Markup:
    """What ``draw`` puts on a figure of ``size`` inches; ``label`` says it in words.

    Labels tell pictures of a page apart, so each needs its own.

    Raises:
        InputError: matplotlib is not installed.
    """
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
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    # Several pictures share a page: ids that nothing refers to would only collide.
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', text))
    text = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in referred else "", text)
    least = size[0] * _FEWEST_PIXELS if size[0] > WIDTH else 0
    opening = (
        f'<svg role="img" aria-label="{escape(label)}" '
        f'style="max-width:{size[0] * _PIXELS:.0f}px;min-width:{least:.0f}px" '
    )
    return Markup(text.replace("<svg ", opening, 1))  # noqa: S704 - matplotlib escapes the names that it draws


def spread(places: list[float], gap: float) -> list[float]:
    """The places moved apart so that neighbours are ``gap`` from each other, as little as need be.

    Blocks of labels that touch move as one around their mean, in the order of ``places``.
    """
    order = sorted(range(len(places)), key=lambda i: places[i])
    blocks: list[list[int]] = []
    centre: list[float] = []
    for i in order:
        blocks.append([i])
        centre.append(places[i])
        while (
            len(blocks) > 1
            and centre[-1] - centre[-2] < gap * (len(blocks[-1]) + len(blocks[-2])) / 2
        ):
            last = blocks.pop()
            centre.pop()
            blocks[-1] += last
            centre[-1] = sum(places[k] for k in blocks[-1]) / len(blocks[-1])
    moved = list(places)
    for block, middle in zip(blocks, centre, strict=True):
        for rank, i in enumerate(block):
            moved[i] = middle + gap * (rank - (len(block) - 1) / 2)
    return moved
