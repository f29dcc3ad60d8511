"""What the flywheel reads of the traffic, and what it notes down."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.records._models import Role

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TrafficLog:
    """Routed requests of a domain as columns, oldest first; row i of every column is the same one.

    ``at`` is in seconds since 1970 (UTC). Of the numbers, NaN is what is not known (inside columns
    only; results say ``None``): ``p_success``, ``p_strong`` and ``keep_at`` of the decision,
    ``weak_chance``, ``pair_chance`` and ``shadow_p_success`` as in ``RequestRecord``, ``cost_usd``
    and ``always_strong_usd``. ``weak`` and ``strong`` are the outcomes of the two models' answers,
    as far as they were seen and labelled. ``served_weak`` says who answered. ``probes`` and
    ``shadow_probes`` are ``id@version`` or ``""``, ``weak_models`` keys of the store or ``""``.
    """

    ids: tuple[str, ...]
    key_ids: tuple[str, ...]
    actions: tuple[str, ...]
    causes: tuple[str, ...]
    probes: tuple[str, ...]
    shadow_probes: tuple[str, ...]
    weak_models: tuple[str, ...]
    at: Floats
    p_success: Floats
    p_strong: Floats
    keep_at: Floats
    weak_chance: Floats
    pair_chance: Floats
    shadow_p_success: Floats
    cost_usd: Floats
    always_strong_usd: Floats
    weak: Floats
    strong: Floats
    served_weak: NDArray[np.bool_]

    def __post_init__(self) -> None:
        n = len(self.ids)
        for name in self.__slots__:
            if (size := len(getattr(self, name))) != n:
                raise TrainingDataError(f"column {name!r} has {size} rows where ids has {n}")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, rows: NDArray[Any]) -> TrafficLog:
        """The requests at ``rows`` (integer positions or a boolean mask), in that order."""
        index = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows, dtype=np.int64)

        def taken(column: Any) -> Any:
            if isinstance(column, tuple):
                return tuple(column[i] for i in index)  # pyright: ignore[reportUnknownVariableType]
            return column[index]

        return TrafficLog(**{name: taken(getattr(self, name)) for name in self.__slots__})


@dataclass(frozen=True, slots=True, kw_only=True)
class Vote:
    """Feedback on a request, with who gave it and whose answer it is about.

    ``key_id`` is the key that the feedback came with (``""`` where the gateway asks for none),
    ``author`` whatever it said of itself. ``role`` is who answered; ``at`` when it was said, in
    seconds since 1970 (UTC).
    """

    request_id: str
    domain: str
    role: Role
    key_id: str
    metric: str
    value: float
    source: Literal["human", "code", "judge", "client"]
    author: str = ""
    note: str = ""
    at: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that was decided or noticed, for the record; never changed afterwards.

    ``kind`` is one word (``promoted``, ``rolled_back``, ``ladder``, ``drift``, ``holdout``),
    ``subject`` what it is about (a domain, ``route/domain``), ``by`` who or what did it, and
    ``details`` the numbers behind it: plain JSON.
    """

    kind: str
    subject: str
    at: float
    by: str
    details: Mapping[str, Any] = field(default_factory=dict[str, Any])


JobState = Literal["waiting", "running", "done", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Long work that was asked for. Times are seconds since 1970 (UTC).

    ``progress`` is from 0 to 1, ``None`` while it cannot be told; ``message`` says in words how it
    stands, or why it failed. A running job whose ``beat_at`` is old belongs to a worker that died,
    and is taken up again; ``attempts`` counts how often it was begun.
    """

    id: int
    kind: str
    args: Mapping[str, Any]
    state: JobState
    by: str
    created_at: float
    started_at: float | None = None
    beat_at: float | None = None
    finished_at: float | None = None
    attempts: int = 0
    progress: float | None = None
    message: str = ""
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
