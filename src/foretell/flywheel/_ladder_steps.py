"""What a step of the ladder needs to be tried, and how it foretells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.flywheel._advantage import Foretelling
from foretell.probes import select_probe
from foretell.records import ReadPoint, RoutingData
from foretell.routers import make_router
from foretell.runtime import LEAST_LABELS, Step, readable_by

Floats = NDArray[np.float64]

_LEAST_OF_A_KIND: Final = 10
"""Successes, and failures: with fewer there is nothing to tell apart."""

_MOST_POINTS: Final = 3
"""Read points among which the candidate probe of a comparison chooses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Why a step cannot be tried; ``labels`` is how many more would do, where it is only that."""

    reason: str
    labels: int | None = None


def lack_of(step: Step, rows: RoutingData) -> Lack | None:
    """What the labelled queries lack for the step; ``None`` when it can be tried.

    Queries of unequal weight count for as many as they are worth, ``(sum w)^2 / sum w^2`` (Kish,
    1965): a handful that stands for all that was not seen says little.
    """
    least = LEAST_LABELS[step]
    if not least:
        return None
    worth = _worth(rows)
    if worth < least:
        as_much_as = "" if worth > len(rows) - 1 else f", which tell as much as {worth:.0f}"
        return Lack(
            reason=f"it takes {least} labelled training queries, and there are {len(rows)}"
            f"{as_much_as}",
            labels=math.ceil((least - worth) * len(rows) / worth) if worth else least,
        )
    usable = rows.take(readable_by(step, rows))
    if _worth(usable) < least:
        return Lack(
            reason=f"it reads texts, and only {len(usable)} of {len(rows)} labelled training "
            f"queries have theirs; it takes {least}: set store.traffic.text, or collect"
        )
    succeeded = float(usable.weak.sum())
    if min(succeeded, len(usable) - succeeded) < _LEAST_OF_A_KIND:
        return Lack(
            reason=f"the weak model succeeds at {succeeded:g} of {len(usable)} labelled training "
            f"queries; it takes {_LEAST_OF_A_KIND} successes and as many failures"
        )
    return None


def _worth(rows: RoutingData) -> float:
    weights = rows.row_weights()
    return float(weights.sum() ** 2 / (weights @ weights)) if len(rows) else 0.0


def foretelling(step: Step) -> Foretelling:
    """How a step foretells the queries that it was not fitted on."""
    match step:
        case "start":
            return _base_rate
        case "probe":
            return _candidate_probe
        case _:
            return partial(_by_router, step)


def spread_points(points: Sequence[ReadPoint]) -> list[ReadPoint]:
    """Some read points of all, evenly spread over the layers of the upper two thirds.

    That is where probes are good, and the choice costs a fit for each.
    """
    rising = sorted(points)
    at = np.linspace(len(rising) // 3, len(rising) - 1, min(_MOST_POINTS, len(rising)))
    return [rising[i] for i in sorted({round(float(position)) for position in at})]


def _base_rate(train: RoutingData, held: RoutingData, rng: np.random.Generator) -> Floats:  # noqa: ARG001 - one signature
    """The start tells no query from another; this is the best that can be said of all alike."""
    return np.full(len(held), np.average(train.weak, weights=train.row_weights()))


def _by_router(
    step: Step, train: RoutingData, held: RoutingData, rng: np.random.Generator
) -> Floats:
    return make_router(step).fit(train, rng).p_success(held)


def _candidate_probe(train: RoutingData, held: RoutingData, rng: np.random.Generator) -> Floats:
    """A linear probe, chosen from fewer settings than one that is going to serve."""
    selection = select_probe(
        train,
        kinds=("linear",),
        components=(16, 64),
        l2=(10.0, 100.0, 1000.0),
        folds=3,
        shortlist=1,
        nested=False,
        seed=int(rng.integers(2**31)),
    )
    return selection.probe.chances(held)
