"""Several domains as one set of queries, for joint training and for leaving one out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ProbeMismatchError, TrainingDataError
from foretell.records import OPTIONAL_COLUMNS, RoutingData, TokenActivations


def join_domains(sets: Sequence[RoutingData]) -> RoutingData:
    """The queries of several domains, one set after the other, each row with its own domain.

    Only read points that all sets have are kept; attributes may differ. A column of numbers that
    only some sets have is unknown (NaN) in the others; where only some have weights, the others'
    are 1. Ids are put behind their domain (``geo/17``), since another domain may use the same.
    Groups stay as they are: the same document behind two domains must not straddle a split.

    Raises:
        TrainingDataError: There are no sets, or their read points have nothing in common.
        ProbeMismatchError: They were collected on different models.
    """
    if not sets:
        raise TrainingDataError("there are no domains to join; give at least one")
    models = [data.model for data in sets if data.model is not None]
    for model in models:
        if not model.serves_probes_of(models[0]):
            raise ProbeMismatchError(
                f"some domains were collected on {models[0]} and others on {model}; "
                "collect all of them on one model"
            )
    points = frozenset.intersection(*(frozenset(data.activations) for data in sets))
    sequences = frozenset.intersection(*(frozenset(data.sequences) for data in sets))
    if not points and any(data.activations for data in sets):
        listing = "; ".join(
            f"{', '.join(sorted(set(data.domain)))}: "
            f"{', '.join(point.name for point in sorted(data.activations)) or 'none'}"
            for data in sets
        )
        raise TrainingDataError(
            f"the domains have no read point in common ({listing}); collect them at the same ones"
        )
    reduced = {None if data.subspace is None else data.subspace.id for data in sets}
    if len(reduced) > 1:
        raise TrainingDataError(
            "some domains' vectors are reduced to a subspace, and others are whole or reduced to "
            "another; keep whole ones (store.traffic.vectors: full), or collect again"
        )
    columns = {name: _column(sets, name) for name in OPTIONAL_COLUMNS}
    return RoutingData(
        domain=tuple(name for data in sets for name in data.domain),
        ids=tuple(
            f"{domain}/{query_id}"
            for data in sets
            for domain, query_id in zip(data.domain, data.ids, strict=True)
        ),
        texts=tuple(text for data in sets for text in data.texts),
        groups=tuple(group for data in sets for group in data.groups),
        lengths=np.concatenate([data.lengths for data in sets]),
        attributes=tuple(attributes for data in sets for attributes in data.attributes),
        activations={
            point: np.concatenate([data.activations[point] for data in sets])
            for point in sorted(points)
        },
        sequences={
            point: TokenActivations.stack(
                [
                    data.sequences[point].query(row)
                    for data in sets
                    for row in range(len(data.sequences[point]))
                ]
            )
            for point in sorted(sequences)
        },
        **columns,
        model=models[0] if models else None,
        subspace=sets[0].subspace,
    )


def _column(sets: Sequence[RoutingData], name: str) -> NDArray[np.float64]:
    columns: list[NDArray[np.float64]] = [getattr(data, name) for data in sets]
    if not any(column.size for column in columns):
        return np.empty(0)
    unknown = 1.0 if name in ("weights", "weak_chance", "pair_chance") else np.nan
    return np.concatenate(
        [
            column if column.size else np.full(len(data), unknown)
            for column, data in zip(columns, sets, strict=True)
        ]
    )
