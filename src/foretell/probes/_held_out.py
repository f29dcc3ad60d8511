"""What thresholds are chosen on: training queries, each foretold without its own group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.probes._tensors import tensor_named

Floats = NDArray[np.float64]

_ALWAYS: Final = ("p_success", "weak", "strong")
_KNOWN: Final = ("p_success", "weak")
"""Columns without gaps."""

_SHARES: Final = ("p_success", "weak", "strong", "p_strong")
"""Columns of chances and successes."""


def _nothing() -> Floats:
    return np.empty(0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """What thresholds are chosen on: training queries, each foretold without its own group.

    Columns are (n,) float64. ``p_success`` is the chance foretold and ``weak`` the weak model's
    success, both always known; ``strong`` is the strong model's success, NaN where nobody labelled
    it. The others may be empty, and are NaN where a value is unknown: ``p_strong`` and
    ``expected_tokens`` as the heads foretell them, then what the answers cost in tokens:
    ``prompt_tokens`` and ``weak_tokens`` that the weak model read and wrote,
    ``strong_prompt_tokens`` and ``strong_tokens`` the strong one. ``weights`` count as repetitions
    of a row. Rows of equal ``groups`` (numbers that stand for names) are not independent.
    """

    p_success: Floats
    weak: Floats
    strong: Floats
    p_strong: Floats = field(default_factory=_nothing)
    expected_tokens: Floats = field(default_factory=_nothing)
    prompt_tokens: Floats = field(default_factory=_nothing)
    weak_tokens: Floats = field(default_factory=_nothing)
    strong_prompt_tokens: Floats = field(default_factory=_nothing)
    strong_tokens: Floats = field(default_factory=_nothing)
    weights: Floats = field(default_factory=_nothing)
    groups: Floats = field(default_factory=_nothing)

    def __post_init__(self) -> None:
        n = len(self.p_success)
        for column in fields(self):
            values: Floats = getattr(self, column.name)
            may_be_empty = column.name not in _ALWAYS
            if values.shape != (n,) and not (may_be_empty and values.shape == (0,)):
                raise InputError(
                    f"the held-out column {column.name} has shape {values.shape} where p_success "
                    f"has {self.p_success.shape}; wanted one row for each query"
                )
            gaps = np.isnan(values) & (column.name not in _KNOWN)
            if column.name in _SHARES and not (((values >= 0) & (values <= 1)) | gaps).all():
                raise InputError(
                    f"the held-out column {column.name} has numbers outside 0 to 1; wanted a "
                    "chance or a success in each row"
                )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its columns by name, without the empty ones, as they are saved."""
        columns = {column.name: getattr(self, column.name) for column in fields(self)}
        return {name: v for name, v in columns.items() if len(v) or name in _ALWAYS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The columns whose ``tensors()`` these are.

        Raises:
            InputError: One that is always there is missing, or they do not fit together.
        """
        there = [c.name for c in fields(cls) if c.name in _ALWAYS or c.name in tensors]
        return cls(**{name: tensor_named(tensors, name).astype(np.float64) for name in there})
