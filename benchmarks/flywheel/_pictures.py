"""The day in pictures; readable in black and white."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks.flywheel._day import NOON_H, QUALITY, SWAP_H

_STEPS: Final = ("start", "keyword", "embedding", "probe")
_HEIGHTS: Final = {"start": 0, "keyword": 1, "length": 1, "embedding": 2, "probe": 3}
_GREY: Final = "0.55"


def draw(result: Mapping[str, Any], folder: Path) -> list[Path]:
    """Two pictures of one day: what was served, and what the flywheel did."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams.update({"svg.hashsalt": "day", "font.size": 9, "svg.fonttype": "path"})
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / "flywheel-day-served.svg", folder / "flywheel-day-events.svg"]
    for path, figure in zip(paths, (_served(result), _events(result)), strict=True):
        figure.savefig(path, format="svg", metadata={"Date": None})
    return paths


def _figure(heights: Sequence[float], size: tuple[float, float]) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(
        len(heights), 1, sharex=True, gridspec_kw={"height_ratios": heights}, squeeze=False
    )[:, 0]
    for one in axes:
        one.set_xlim(0, 24)
        one.set_xticks(range(0, 25, 2))
        one.grid(color="0.9", lw=0.6)
        one.set_axisbelow(True)
        one.spines[["top", "right"]].set_visible(False)
        for hour in (NOON_H, SWAP_H):
            one.axvline(hour, color="black", lw=0.9, ls=(0, (1, 2)))
    axes[-1].set_xlabel("hour of the day")
    top = axes[0].get_xaxis_transform()
    axes[0].text(NOON_H, 1.02, "another domain", transform=top, ha="center", fontsize=8)
    axes[0].text(SWAP_H, 1.02, "another quantisation", transform=top, ha="center", fontsize=8)
    return figure, axes


def _served(result: Mapping[str, Any]) -> Any:
    figure, (quality, share, cost) = _figure([3, 2.2, 2.2], (9, 8))
    windows = result["windows"]
    mine = windows["flywheel"]
    hours = [one["hour"] for one in mine]
    low, high = ([one[key] for one in mine] for key in ("low", "high"))
    quality.fill_between(hours, low, high, color="0.85", lw=0, label="flywheel, 90 % interval")
    quality.axhline(QUALITY, color="black", lw=1, ls="--", label=f"goal {QUALITY:g}")
    for axes, key in ((quality, "quality"), (share, "strong_share"), (cost, "usd_per_1k")):
        for name, style in _STYLES.items():
            line = windows.get(name)
            if line:
                axes.plot([w["hour"] for w in line], [w[key] for w in line], label=name, **style)
    quality.set_ylabel("quality\n(always strong = 1)")
    share.set_ylabel("share served by\nthe strong model")
    share.set_ylim(-0.02, 1.05)
    cost.set_ylabel("USD per 1,000 requests\n(shadow runs included)")
    cost.set_ylim(bottom=0)
    handles, labels = quality.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    return figure


_STYLES: Final[Mapping[str, Mapping[str, Any]]] = {
    "oracle": {"color": _GREY, "lw": 1.1, "ls": "-."},
    "always strong": {"color": _GREY, "lw": 1.1, "ls": "-"},
    "static, nothing checked": {"color": "black", "lw": 1.2, "ls": ":"},
    "static, swap noticed": {"color": "black", "lw": 1.1, "ls": (0, (7, 2, 1, 2, 1, 2))},
    "flywheel": {"color": "black", "lw": 1.9},
}


def _events(result: Mapping[str, Any]) -> Any:
    figure, (steps, probes, alarms) = _figure([2, 2, 2], (9, 5.6))
    events = result["events"]
    _steps(steps, events)
    _probes(probes, events)
    _alarms(alarms, events)
    return figure


def _steps(axes: Any, events: Sequence[Mapping[str, Any]]) -> None:
    """The step in force; at the swap another weak model begins at the start."""
    at, height = [0.0], [0]
    moves = [one for one in events if one["kind"] == "ladder" and one.get("came_from")]
    swap = {"hour": SWAP_H, "step": "start"}
    for one in sorted([*moves, swap], key=lambda one: one["hour"]):
        at.append(one["hour"])
        height.append(_HEIGHTS[one["step"]])
    axes.step([*at, 24], [*height, height[-1]], where="post", color="black", lw=1.8)
    axes.set_yticks(range(len(_STEPS)), _STEPS)
    axes.set_ylim(-0.4, 3.4)
    axes.set_ylabel("step of the ladder")


_MARKS: Final[Mapping[str, Mapping[str, Any]]] = {
    "refit": {"marker": "|", "color": "black", "s": 60},
    "refused": {"marker": "x", "color": "black", "s": 30},
    "promoted": {"marker": "^", "color": "black", "s": 46},
}


def _probes(axes: Any, events: Sequence[Mapping[str, Any]]) -> None:
    for height, (kind, style) in enumerate(_MARKS.items()):
        for one in events:
            if one["kind"] == kind:
                axes.scatter(one["hour"], height, zorder=3, **style)
    axes.set_yticks(range(len(_MARKS)), ["trained", "refused", "promoted"])
    axes.set_ylim(-0.6, len(_MARKS) - 0.4)
    axes.set_ylabel("probes")


def _alarms(axes: Any, events: Sequence[Mapping[str, Any]]) -> None:
    names = ["stale", "vectors", "calibration", "scores", "escalation"]
    begun: dict[str, float] = {}
    for one in [*events, *({"kind": "drift", "hour": 24.0, "name": n} for n in names)]:
        if one["kind"] not in ("drift", "stale"):
            continue
        name = one["name"]
        if one.get("alarm"):
            begun.setdefault(name, one["hour"])
        elif name in begun:
            start = begun.pop(name)
            width = one["hour"] - start
            axes.barh(names.index(name), width, left=start, height=0.55, color="0.3")
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_ylabel("alarms raised")
