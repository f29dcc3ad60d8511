"""Columns over queries: what every router trains on and predicts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.records._models import ModelIdentity
from foretell.records._read_points import ReadPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingData:
    """Queries as columns; row i of every column is the same query.

    ``texts`` is the query's own text, ``lengths`` its own tokens in the prompt. ``activations``
    maps a read point to (queries, width) float32. ``first_entropy`` and ``answer_logprob`` are
    NaN where unknown (inside columns only; results say ``None``). ``weak`` and ``strong`` are
    success in [0, 1], NaN where unlabelled; a router trains on ``weak`` and may look at
    ``strong``; when predicting both are ignored and may be empty (size 0).
    """

    domain: tuple[str, ...]
    ids: tuple[str, ...]
    texts: tuple[str, ...]
    groups: tuple[str, ...]
    lengths: NDArray[np.int64]
    attributes: tuple[Mapping[str, Any], ...]
    activations: Mapping[ReadPoint, NDArray[np.float32]] = field(
        default_factory=dict[ReadPoint, NDArray[np.float32]]
    )
    first_entropy: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    answer_logprob: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    weak: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    strong: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))
    model: ModelIdentity | None = None

    def __post_init__(self) -> None:
        n = len(self.ids)
        columns: dict[str, int] = {
            "domain": len(self.domain),
            "texts": len(self.texts),
            "groups": len(self.groups),
            "lengths": len(self.lengths),
            "attributes": len(self.attributes),
            **{point.name: len(rows) for point, rows in self.activations.items()},
        }
        optional = {
            name: size
            for name in ("first_entropy", "answer_logprob", "weak", "strong")
            if (size := len(getattr(self, name)))
        }
        for name, size in {**columns, **optional}.items():
            if size != n:
                raise TrainingDataError(f"column {name!r} has {size} rows where ids has {n}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any]) -> RoutingData:
        """The queries at ``rows`` (integer positions or a boolean mask), in that order."""
        index = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, dtype=np.int64)

        def pick(column: NDArray[Any]) -> NDArray[Any]:
            return column[index] if len(column) else column

        return replace(
            self,
            domain=tuple(self.domain[i] for i in index),
            ids=tuple(self.ids[i] for i in index),
            texts=tuple(self.texts[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
            attributes=tuple(self.attributes[i] for i in index),
            lengths=self.lengths[index],
            activations={point: rows[index] for point, rows in self.activations.items()},
            first_entropy=pick(self.first_entropy),
            answer_logprob=pick(self.answer_logprob),
            weak=pick(self.weak),
            strong=pick(self.strong),
        )
