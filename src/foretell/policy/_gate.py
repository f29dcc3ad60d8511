"""Asked in the middle of a prefill: whether it is worth going on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from foretell.records import ReadPoint

Probed = Callable[[NDArray[np.float32]], tuple[float, float]]
"""Score and ``p_success`` of one vector, axis width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReading:
    """What a gate saw: the probe's score and chance, and how long the probe took."""

    read_point: ReadPoint
    score: float
    p_success: float
    seconds: float
    passed: bool


@dataclass(slots=True)
class EarlyExitGate:
    """A gate for one prefill; ``reading`` is ``None`` until its read point was reached."""

    _probed: Probed
    _keep_at: float
    _read_point: ReadPoint
    _clock: Callable[[], float]
    reading: GateReading | None = field(default=None, init=False)

    def __call__(self, read_point: ReadPoint, vector: NDArray[np.float32]) -> bool:
        """Whether the prefill should go on; other read points than its own always should."""
        if read_point != self._read_point:
            return True
        started = self._clock()
        score, p_success = self._probed(vector)
        seconds = self._clock() - started
        self.reading = GateReading(
            read_point=read_point,
            score=score,
            p_success=p_success,
            seconds=seconds,
            passed=p_success >= self._keep_at,
        )
        return self.reading.passed


def early_exit_gate(
    probed: Probed,
    *,
    keep_at: float,
    read_point: ReadPoint,
    clock: Callable[[], float] = perf_counter,
) -> EarlyExitGate:
    """A gate that ends the prefill at ``read_point`` when ``p_success`` is below ``keep_at``.

    The same rule as ``decide``, so a query that it stops is one that escalates. A query that is
    to be served by the weak model in any case (pinned, explored) must get no gate. One gate is
    for one prefill; ``clock`` counts seconds.
    """
    return EarlyExitGate(probed, keep_at, read_point, clock)
