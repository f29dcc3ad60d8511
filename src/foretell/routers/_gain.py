"""The gain router: escalate where the strong model does better, not wherever the weak one fails.

A query that both models fail is not worth escalating. The score foretells the weak model's
success less the strong one's, from one and the same prefill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.probes import DEFAULT_KINDS, FittedProbe, Selection, select_probe
from foretell.records import ReadPoint, RoutingData
from foretell.routers._protocol import Sees
from foretell.routers._training import labelled_rows

Floats = NDArray[np.float64]
GainBy = Literal["weak", "difference", "direct"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedGainRouter:
    """Scores by what clearly won on held-out queries, see ``by``; the chance is that of ``weak``.

    ``difference`` is the chance by ``weak`` less the chance by ``strong``, ``direct`` a probe of
    the difference itself, ``weak`` the weak model's chance alone. ``held_out_area`` is what each
    of them won back on held-out queries, see ``recovered_gain``.
    """

    by: GainBy
    weak: FittedProbe
    strong: FittedProbe
    direct: FittedProbe
    held_out_area: dict[GainBy, float]
    name: str = "gain"

    def score(self, data: RoutingData) -> Floats:
        """Higher means that less is to be gained by escalating; any range.

        Raises:
            InputError: ``data`` does not hold what the probes read.
        """
        if self.by == "direct":
            return self.direct.scores(data)
        chances = self.weak.chances(data)
        return chances if self.by == "weak" else chances - self.strong.chances(data)

    def p_success(self, data: RoutingData) -> Floats:
        """The weak model's calibrated chance, one per query."""
        return self.weak.chances(data)

    def p_strong(self, data: RoutingData) -> Floats:
        """The strong model's calibrated chance, one per query."""
        return self.strong.chances(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class GainRouter:
    """Probes of both models' success, and of the difference; the best of the three orders wins.

    ``read_points`` and ``kinds`` are what the weak model's probe is chosen from, as in
    ``ProbeRouter``; the linear probes of the strong model and of the difference read where it
    reads. ``progress`` is told (done, total) of the three selections, one after the other.
    """

    read_points: tuple[ReadPoint, ...] | None = None
    kinds: Sequence[str] = DEFAULT_KINDS
    progress: Callable[[int, int], None] | None = None
    name: str = "gain"
    sees: Sees = field(default="prefill", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedGainRouter:
        """Fits on the rows whose ``weak`` is known, the gain on those whose ``strong`` is too.

        Raises:
            TrainingDataError: Too few outcomes of either model, or one class only.
        """
        labelled = labelled_rows(data)
        both = np.isfinite(labelled.strong)
        if not both.any():
            raise TrainingDataError(
                f"none of {len(labelled)} labelled queries has an outcome of the strong model; "
                "collect and label its answers too, or use the router 'probe'"
            )
        seed = int(rng.integers(2**31))
        weak = select_probe(
            labelled,
            kinds=self.kinds,
            read_points=self.read_points,
            nested=False,
            seed=seed,
            progress=self.progress,
        )
        paired = labelled.take(both)
        pooled = [point for point in weak.probe.read_points if point in data.activations]
        strong, direct = (
            select_probe(
                replace(paired, weak=outcomes),
                kinds=("linear",),
                read_points=pooled or self.read_points,
                nested=False,
                seed=seed,
                progress=self.progress,
            )
            # A difference from -1 to 1 as a rate: the weak model's share of the two's success.
            for outcomes in (paired.strong, (1 + paired.weak - paired.strong) / 2)
        )
        orders = _held_out_orders(weak, strong, direct)
        gains, weights = paired.strong - paired.weak, paired.row_weights()
        return FittedGainRouter(
            by=_clearly_best(orders, gains, weights),
            weak=weak.probe,
            strong=strong.probe,
            direct=direct.probe,
            held_out_area={
                by: recovered_gain(scores, gains, weights) for by, scores in orders.items()
            },
            name=self.name,
        )


def recovered_gain(scores: Floats, gains: Floats, weights: Floats) -> float:
    """Gain per query won back by escalating in order of rising score, averaged over the share.

    The area between the cost-quality curve and always-weak, in units of success: APGR before it is
    divided by the gap. ``gains`` are strong less weak; equal scores are escalated together.
    """
    return float(weights * gains @ _share_after(scores, weights) / weights.sum())


def _share_after(scores: Floats, weights: Floats) -> Floats:
    """Of each query, the strong-call shares at which it is escalated: 1 less those before it."""
    levels, level = np.unique(scores, return_inverse=True)
    mass = np.bincount(level, weights, minlength=len(levels))
    return (1 - (np.cumsum(mass) - mass / 2) / mass.sum())[level]


def _clearly_best(orders: Mapping[GainBy, Floats], gains: Floats, weights: Floats) -> GainBy:
    """The order that wins back most, but ``weak`` unless that is by more than a standard error.

    The error is that of the mean of what each query wins under one order less under the other.
    With some hundred outcomes of the strong model a gain is mostly noise, and ``weak`` has more to
    go by.
    """
    best = max(orders, key=lambda by: recovered_gain(orders[by], gains, weights))
    ahead = gains * (_share_after(orders[best], weights) - _share_after(orders["weak"], weights))
    mean = float(np.average(ahead, weights=weights))
    variance = float(np.average((ahead - mean) ** 2, weights=weights))
    return best if mean > np.sqrt(variance / len(ahead)) else "weak"


def _held_out_orders(weak: Selection, strong: Selection, direct: Selection) -> dict[GainBy, Floats]:
    """The scores of each order, each query's by probes that have not seen its group."""
    row_of = {id_: row for row, id_ in enumerate(weak.ids)}
    p_weak = weak.p_success[[row_of[id_] for id_ in strong.ids]]
    return {
        "weak": p_weak,
        "difference": p_weak - strong.p_success,
        "direct": direct.scores,
    }
