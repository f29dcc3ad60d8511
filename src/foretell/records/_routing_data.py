"""Columns over queries: what every router trains on and predicts from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.records._models import ModelIdentity
from foretell.records._read_points import ReadPoint
from foretell.records._subspaces import Subspace


def _nothing() -> NDArray[np.float64]:
    return np.empty(0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenActivations:
    """Activations of every own token of many queries, one query after the other.

    ``values`` is (tokens of all queries, width) float32; query i has the rows from ``starts[i]``
    up to ``starts[i + 1]``, so ``starts`` is (queries + 1,).
    """

    values: NDArray[np.float32]
    starts: NDArray[np.int64]

    def __post_init__(self) -> None:
        starts = self.starts
        if (
            self.values.ndim != 2
            or starts.ndim != 1
            or not len(starts)
            or starts[0] != 0
            or starts[-1] != len(self.values)
            or (np.diff(starts) < 1).any()
        ):
            raise TrainingDataError(
                f"token activations of shape {self.values.shape} do not fit their "
                f"{len(starts)} starts; wanted (tokens, width), and starts that rise from 0 to the "
                "number of tokens with at least one token a query"
            )

    @classmethod
    def stack(cls, queries: Sequence[NDArray[np.float32]]) -> TokenActivations:
        """Of queries, each (its tokens, width); at least one."""
        starts = np.cumsum([0, *map(len, queries)], dtype=np.int64)
        return cls(values=np.concatenate(queries).astype(np.float32, copy=False), starts=starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def query(self, row: int) -> NDArray[np.float32]:
        """The activations of one query, (its tokens, width)."""
        return self.values[self.starts[row] : self.starts[row + 1]]

    def take(self, rows: NDArray[np.int64]) -> TokenActivations:
        """The queries at the integer positions ``rows``, in that order; at least one."""
        return TokenActivations.stack([self.query(int(row)) for row in rows])


OPTIONAL_COLUMNS: Final = (
    "first_entropy",
    "first_margin",
    "answer_logprob",
    "prompt_tokens",
    "weak_tokens",
    "strong_prompt_tokens",
    "strong_tokens",
    "weak",
    "strong",
    "weights",
    "weak_chance",
    "pair_chance",
)
"""Columns of numbers that may be left empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingData:
    """Queries as columns; row i of every column is the same query.

    ``texts`` is the query's own text, ``lengths`` its own tokens in the prompt. ``activations``
    maps a read point to (queries, width) float32, ``sequences`` one of pooling ``tokens`` to the
    activations of all own tokens.

    The columns named in ``OPTIONAL_COLUMNS`` may be empty (size 0), and hold NaN where a value is
    unknown (inside columns only; results say ``None``). ``first_entropy`` (nats) and
    ``first_margin`` are about the first token to come, ``answer_logprob`` about the weak model's
    answer. ``prompt_tokens`` and ``weak_tokens`` are what the weak model read and wrote,
    ``strong_prompt_tokens`` and ``strong_tokens`` the strong one. ``weak`` and ``strong`` are
    success in [0, 1]; a router trains on ``weak`` and may look at ``strong``; when predicting
    both are ignored. ``weights`` count as repetitions of a row, 1 where empty.

    ``weak_chance`` is how likely it was that this row would be seen (see ``RequestRecord``): 1 for
    what was collected, NaN where a caller chose; ``pair_chance`` the same of both models' answers,
    on a scale on which rows are alike once they are thinned to the smallest.
    ``subspace`` is what all of the pooled activations were reduced to and restored from, ``None``
    where they are whole: a probe that is fitted on them reads others through it.
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
    sequences: Mapping[ReadPoint, TokenActivations] = field(
        default_factory=dict[ReadPoint, TokenActivations]
    )
    first_entropy: NDArray[np.float64] = field(default_factory=_nothing)
    first_margin: NDArray[np.float64] = field(default_factory=_nothing)
    answer_logprob: NDArray[np.float64] = field(default_factory=_nothing)
    prompt_tokens: NDArray[np.float64] = field(default_factory=_nothing)
    weak_tokens: NDArray[np.float64] = field(default_factory=_nothing)
    strong_prompt_tokens: NDArray[np.float64] = field(default_factory=_nothing)
    strong_tokens: NDArray[np.float64] = field(default_factory=_nothing)
    weak: NDArray[np.float64] = field(default_factory=_nothing)
    strong: NDArray[np.float64] = field(default_factory=_nothing)
    weights: NDArray[np.float64] = field(default_factory=_nothing)
    weak_chance: NDArray[np.float64] = field(default_factory=_nothing)
    pair_chance: NDArray[np.float64] = field(default_factory=_nothing)
    subspace: Subspace | None = None
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
            **{point.name: len(rows) for point, rows in self.sequences.items()},
        }
        optional = {name: size for name in OPTIONAL_COLUMNS if (size := len(getattr(self, name)))}
        for name, size in {**columns, **optional}.items():
            if size != n:
                raise TrainingDataError(f"column {name!r} has {size} rows where ids has {n}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any]) -> RoutingData:
        """The queries at ``rows`` (integer positions or a boolean mask), in that order."""
        index = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, dtype=np.int64)

        return replace(
            self,
            domain=tuple(self.domain[i] for i in index),
            ids=tuple(self.ids[i] for i in index),
            texts=tuple(self.texts[i] for i in index),
            groups=tuple(self.groups[i] for i in index),
            attributes=tuple(self.attributes[i] for i in index),
            lengths=self.lengths[index],
            activations={point: rows[index] for point, rows in self.activations.items()},
            # No queries have no tokens either: such a column cannot be, and nobody needs it.
            sequences={point: rows.take(index) for point, rows in self.sequences.items()}
            if len(index)
            else {},
            **{
                name: column[index]
                for name in OPTIONAL_COLUMNS
                if len(column := getattr(self, name))
            },
        )

    def read_at(self, *points: ReadPoint) -> RoutingData:
        """The same queries with the pooled activations at ``points`` alone, which are not copied.

        Subsets copy what they hold, so whoever takes many lets go first of what nobody will read.
        """
        return replace(
            self, activations={point: self.activations[point] for point in points}, sequences={}
        )

    def row_weights(self) -> NDArray[np.float64]:
        """``weights``, or ones."""
        return self.weights if len(self.weights) else np.ones(len(self))
