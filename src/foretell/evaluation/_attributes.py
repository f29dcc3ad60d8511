"""What queries have in common besides their text: attributes given with them, and the domain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.records import RoutingData


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Attribute:
    """One attribute: the rows that have it, and its value as text on each of those."""

    name: str
    rows: NDArray[np.int64]
    values: tuple[str, ...]

    def by_value(self) -> dict[str, NDArray[np.int64]]:
        """The rows of each value, in order of the values."""
        column = np.asarray(self.values, dtype=np.str_)
        return {str(value): self.rows[column == value] for value in np.unique(column)}


def attributes_of(data: RoutingData) -> tuple[Attribute, ...]:
    """Every attribute with at least two values, by name; ``domain`` is one when there are several.

    A value of ``None`` is as good as none.
    """
    columns: dict[str, dict[int, str]] = {}
    for row, attributes in enumerate(data.attributes):
        for name, value in attributes.items():
            if value is not None:
                columns.setdefault(name, {})[row] = str(value)
    columns["domain"] = dict(enumerate(data.domain))
    return tuple(
        Attribute(
            name=name,
            rows=np.fromiter(column, np.int64, len(column)),
            values=tuple(column.values()),
        )
        for name, column in sorted(columns.items())
        if len(set(column.values())) > 1
    )
