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

_POOLED: Final = ("p_pool", "pool")
"""Columns by the name of a pool's member; ``p_pool.mid`` is how a file calls one."""

_SHARES: Final = ("p_success", "weak", "strong", "p_strong", *_POOLED)
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
    ``weak_chance`` is how likely each row was to be seen, and ``pair_chance`` both models' answers,
    as in ``RoutingData``; empty where all were certain to be.

    ``p_pool`` and ``pool`` are, by name, the chance and the success of each other model that has a
    head, as ``p_strong`` and ``strong`` are of the strong one.
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
    weak_chance: Floats = field(default_factory=_nothing)
    pair_chance: Floats = field(default_factory=_nothing)
    p_pool: Mapping[str, Floats] = field(default_factory=dict[str, Floats])
    pool: Mapping[str, Floats] = field(default_factory=dict[str, Floats])

    def __post_init__(self) -> None:
        n = len(self.p_success)
        for name, values in self._columns().items():
            kind = name.split(".", 1)[0]
            may_be_empty = kind not in (*_ALWAYS, *_POOLED)
            if values.shape != (n,) and not (may_be_empty and values.shape == (0,)):
                raise InputError(
                    f"the held-out column {name} has shape {values.shape} where p_success "
                    f"has {self.p_success.shape}; wanted one row for each query"
                )
            gaps = np.isnan(values) & (kind not in _KNOWN)
            if kind in _SHARES and not (((values >= 0) & (values <= 1)) | gaps).all():
                raise InputError(
                    f"the held-out column {name} has numbers outside 0 to 1; wanted a "
                    "chance or a success in each row"
                )

    def take(self, rows: NDArray[Any]) -> HeldOut:
        """The queries at ``rows`` (integer positions or a boolean mask), in that order."""
        single = {c.name: getattr(self, c.name) for c in fields(self) if c.name not in _POOLED}
        return HeldOut(
            **{name: column[rows] if len(column) else column for name, column in single.items()},
            p_pool={name: chances[rows] for name, chances in self.p_pool.items()},
            pool={name: outcomes[rows] for name, outcomes in self.pool.items()},
        )

    def _columns(self) -> dict[str, Floats]:
        """All columns by the names that a file gives them."""
        single = {c.name: getattr(self, c.name) for c in fields(self) if c.name not in _POOLED}
        pooled = {
            f"{kind}.{member}": values
            for kind in _POOLED
            for member, values in getattr(self, kind).items()
        }
        return {**single, **pooled}

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its columns by name, without the empty ones, as they are saved."""
        return {name: v for name, v in self._columns().items() if len(v) or name in _ALWAYS}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The columns whose ``tensors()`` these are.

        Raises:
            InputError: One that is always there is missing, or they do not fit together.
        """
        there = [c.name for c in fields(cls) if c.name in _ALWAYS or c.name in tensors]
        single: dict[str, Any] = {
            name: tensor_named(tensors, name).astype(np.float64) for name in there
        }

        def members(kind: str) -> dict[str, Floats]:
            return {
                name.removeprefix(f"{kind}."): values.astype(np.float64)
                for name, values in tensors.items()
                if name.startswith(f"{kind}.")
            }

        return cls(**single, p_pool=members("p_pool"), pool=members("pool"))
