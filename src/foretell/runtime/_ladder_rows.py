"""Labelled queries as if no rule had chosen which of them are seen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from foretell.config import Goal, QualityGoal, RiskGoal
from foretell.probes import HeldOut
from foretell.records import ReadPoint, RoutingData, Split
from foretell.store import Store

Floats = NDArray[np.float64]

_LEAST_CHANCE: Final = 0.01
"""A query seen with a smaller chance counts as if with this one: no row outweighs a hundred."""


def load_ladder_rows(
    store: Store,
    domain: str,
    split: Split,
    *,
    weak_model: str,
    metric: str | None,
    strong_model: str | None = "",
    read_points: Sequence[ReadPoint] | None = (),
) -> RoutingData:
    """The labelled queries of one side, weighted for those that were not seen.

    ``strong_model`` is a key in the store: ``""`` leaves its outcomes out, ``None`` takes the only
    one there is. Raises what ``Store.load_routing_data`` does.
    """
    data = store.load_routing_data(
        domain,
        metric=metric,
        split=split,
        read_points=read_points,
        weak_model=weak_model,
        strong_model=strong_model,
    )
    labelled = np.isfinite(data.weak) if len(data.weak) else np.zeros(len(data), dtype=bool)
    return undo_selection(data.take(labelled))


def undo_selection(data: RoutingData) -> RoutingData:
    """The rows weighted for those that were not seen.

    A query that was certain to be seen (collected, imported) counts once. One that was seen with a
    chance stands for ``1 / chance`` of its kind; the weights of those have a mean of 1, so that a
    row remains a row to what is regularised. Queries whose caller chose the model are left out.
    """
    data = data.take(_chances(data) > 0)
    chances = np.maximum(_chances(data), _LEAST_CHANCE)
    weights = 1 / chances
    by_chance = chances < 1
    if by_chance.any():
        weights[by_chance] /= weights[by_chance].mean()
    return replace(data, weights=weights)


Rows = TypeVar("Rows", RoutingData, HeldOut)


def unselected(data: Rows, goal: Goal, rng: np.random.Generator) -> Rows:
    """A part of the rows that is as if no rule had chosen which queries are seen.

    What tests a bar takes rows that all count the same. So a row stays with the chance that undoes
    its own, the smallest chance of all divided by it (rejection sampling; von Neumann, 1951). Rows
    that were certain to be seen all stay.

    A goal that compares with the strong model takes rows of which both answers are known. Traffic
    has them where one of the two was asked afterwards, in a shadow run; ``pair_chance`` is how
    likely that was.
    """
    compares = isinstance(goal, QualityGoal | RiskGoal)
    chances = _pair_chances(data) if compares else _chances(data)
    stays = (chances > 0).astype(np.float64)
    if compares:
        stays[np.isnan(data.strong) if data.strong.size else slice(None)] = 0.0
    by_chance = (chances < 1) & (stays > 0)
    if by_chance.any():
        seen = np.maximum(chances[by_chance], _LEAST_CHANCE)
        stays[by_chance] = seen.min() / seen
    return data.take(rng.random(len(chances)) < stays)


def _pair_chances(data: RoutingData | HeldOut) -> Floats:
    """Chance that both answers to each row would be seen, 0 where a caller chose."""
    if len(data.pair_chance):
        return np.nan_to_num(data.pair_chance)
    return np.ones(len(data.weak) if isinstance(data, HeldOut) else len(data))


def _chances(data: RoutingData | HeldOut) -> Floats:
    """Chance that each row would be seen, 0 where a caller chose."""
    if len(data.weak_chance):
        return np.nan_to_num(data.weak_chance)
    return np.ones(len(data.weak) if isinstance(data, HeldOut) else len(data))
