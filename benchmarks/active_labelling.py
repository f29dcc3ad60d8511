"""Labels that a probe needs when they are chosen, against labels at random.

    python benchmarks/active_labelling.py [--collections .cache/quality] [--seeds 20] [--json]

Every seed splits a collected domain anew into queries to label from (70 %, by group) and queries to
judge by. Both ways label batch after batch; after each the same linear probe is fitted on what is
labelled. The goals are fixed shares of what all labels gain over an AUROC of one half; labels
needed are read off the mean curve. The settings of the choice were settled on the sets marked as
development, and are reported on the others.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from _machine import Ratio, show
from foretell.calibration import auroc
from foretell.errors import TrainingDataError
from foretell.flywheel import DesignSpace
from foretell.probes import LinearProbe
from foretell.records import ReadPoint, RoutingData
from foretell.store import Store

GOALS = (0.90, 0.95, 0.98)
DEVELOPMENT = (("qwen-0.5b", "geo"), ("qwen-0.5b", "snips_field"))
REPORTED = (
    ("qwen-0.5b", "snips_intent"),
    ("qwen-0.5b", "svamp"),
    ("smollm2-135m", "geo"),
    ("smollm2-135m", "snips_field"),
)
READ_AT = {"qwen-0.5b": ReadPoint(15), "smollm2-135m": ReadPoint(19)}
"""Two thirds of the layers, last token: what ``choose_queries`` takes."""

_SIZES = (50, 75, 100, 125, 150, 200, 250, 300, 350, 400, 450, 500, 600, 700, 800, 900, 1000, 1200)
_RANDOM_SHARE = 0.25
_TEST_SHARE = 0.3
_RESAMPLES = 1_000

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curves:
    """AUROC by seed and number of labels, of both ways: (seeds, sizes) each; the last is all."""

    sizes: tuple[int, ...]
    random: Floats
    chosen: Floats

    def labels(self, share: float, seeds: Rows) -> tuple[float, float]:
        """Labels at random, and chosen, that reach a share of the full gain; NaN where none do."""
        goal = 0.5 + share * (self.random[seeds, -1].mean() - 0.5)
        return (
            first_at(self.sizes, self.random[seeds].mean(axis=0), goal),
            first_at(self.sizes, self.chosen[seeds].mean(axis=0), goal),
        )


def first_at(sizes: Sequence[int], curve: Floats, goal: float) -> float:
    """Where a curve first reaches a goal, between its points on a straight line."""
    reached = np.flatnonzero(curve >= goal)
    if not len(reached):
        return float("nan")
    at = int(reached[0])
    if at == 0:
        return float(sizes[0])
    below, above = curve[at - 1], curve[at]
    return float(sizes[at - 1] + (sizes[at] - sizes[at - 1]) * (goal - below) / (above - below))


def load(collections: Path, weak: str, domain: str) -> RoutingData:
    """All labelled queries of one collected domain, at the one read point."""
    folder = collections / f"weak-{weak}"
    with Store.open(f"sqlite:///{folder / 'store.db'}", folder / "vectors") as store:
        data = store.load_routing_data(domain, read_points=[READ_AT[weak]])
    return data.take(np.isfinite(data.weak))


def curves(data: RoutingData, point: ReadPoint, seeds: int) -> Curves:
    """Both ways of labelling, split after split."""
    found: list[tuple[tuple[int, ...], list[float], list[float]]] = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        groups = np.unique(data.groups)
        judging = set(rng.choice(groups, int(_TEST_SHARE * len(groups)), replace=False).tolist())
        outside = np.array([group in judging for group in data.groups])
        # Groups differ in size; the sizes of the curve must not.
        pool = data.take(rng.permutation(np.flatnonzero(~outside))[: int(0.65 * len(data))])
        found.append(_one_split(pool, data.take(outside), point, rng))
    return Curves(
        sizes=found[0][0],
        random=np.array([one[1] for one in found]),
        chosen=np.array([one[2] for one in found]),
    )


def _one_split(
    pool: RoutingData, test: RoutingData, point: ReadPoint, rng: np.random.Generator
) -> tuple[tuple[int, ...], list[float], list[float]]:
    probe = LinearProbe(read_point=point, components=64, l2=100.0)
    space = DesignSpace(pool.activations[point])
    order = rng.permutation(len(pool))
    sizes = (*(size for size in _SIZES if size < 0.9 * len(pool)), len(pool))
    labels = np.full(len(pool), np.nan)

    def quality(rows: Rows) -> float:
        try:
            fitted = probe.fit(pool.take(rows), seed=0)
        except TrainingDataError:  # too few of one class: no probe yet
            return 0.5
        return auroc(fitted.scores(test), test.weak) or 0.5

    random, chosen = list[float](), list[float]()
    for size in sizes:
        random.append(quality(order[:size]))
        left = order[np.isnan(labels[order])]
        count = size - (len(pool) - len(left))
        drawn = left[: round(_RANDOM_SHARE * count)]
        labels[drawn] = pool.weak[drawn]
        candidates = np.flatnonzero(np.isnan(labels))
        picked = space.helpful(labels, candidates, count - len(drawn))
        labels[picked] = pool.weak[picked]
        chosen.append(quality(np.flatnonzero(np.isfinite(labels))))
    return sizes, random, chosen


def ratio(found: Sequence[Curves], share: float, rng: np.random.Generator) -> Ratio | None:
    """Labels chosen ÷ labels at random, the geometric mean over sets; 95 % bootstrap over seeds."""

    def mean_ratio(seeds: Rows) -> float:
        pairs = np.array([one.labels(share, seeds) for one in found])
        return float(np.exp(np.log(pairs[:, 1] / pairs[:, 0]).mean()))

    seeds = len(found[0].random)
    value = mean_ratio(np.arange(seeds))
    draws = np.array([mean_ratio(rng.integers(0, seeds, seeds)) for _ in range(_RESAMPLES)])
    if not np.isfinite(value) or not np.isfinite(draws).any():
        return None
    low, high = np.nanquantile(draws, [0.025, 0.975])
    return Ratio(value=value, low=float(low), high=float(high), n=seeds)


def measure(collections: Path, seeds: int) -> dict[str, Any]:
    """Everything the page shows, by set and over the reported ones."""
    rng = np.random.default_rng(0)
    result: dict[str, Any] = {}
    by_set: dict[tuple[str, str], Curves] = {}
    for weak, domain in (*DEVELOPMENT, *REPORTED):
        found = curves(load(collections, weak, domain), READ_AT[weak], seeds)
        by_set[weak, domain] = found
        note = " (development)" if (weak, domain) in DEVELOPMENT else ""
        rows: dict[str, Any] = {
            "labels in all": found.sizes[-1],
            "AUROC of all": float(found.random[:, -1].mean()),
        }
        for share in GOALS:
            random, chosen = found.labels(share, np.arange(seeds))
            rows[f"{share:.0%} of the gain"] = (
                f"{random:.0f} at random, {chosen:.0f} chosen: {ratio([found], share, rng)}"
            )
        for size in (100, 200, 400):
            if size in found.sizes:
                at = found.sizes.index(size)
                gain = (found.chosen - found.random)[:, at]
                rows[f"AUROC with {size}"] = (
                    f"{found.random[:, at].mean():.3f} at random, "
                    f"{gain.mean():+.3f} ± {1.96 * gain.std(ddof=1) / np.sqrt(seeds):.3f} chosen"
                )
        result[f"{weak}/{domain}{note}"] = rows
    reported = [by_set[name] for name in REPORTED]
    result["reported sets together"] = {
        f"{share:.0%} of the gain": str(ratio(reported, share, rng)) for share in GOALS
    }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collections", type=Path, default=Path(".cache/quality"))
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    started = time.perf_counter()
    result = measure(arguments.collections, arguments.seeds)
    result["run"] = {"seconds": round(time.perf_counter() - started), "seeds": arguments.seeds}
    show(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
