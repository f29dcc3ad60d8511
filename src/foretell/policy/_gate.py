"""Asked in the middle of a prefill: whether it is worth going on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from foretell.records import ReadPoint

Probed = Callable[[NDArray[np.float32]], tuple[float, float]]
"""Score and ``p_success`` of one vector, axis width."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStage:
    """One look of a gate: at ``read_point``, stopping when the chance is below ``stop_below``."""

    read_point: ReadPoint
    probed: Probed
    stop_below: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReading:
    """What a gate saw last: the probe's score and chance, and the time of all its looks so far."""

    read_point: ReadPoint
    score: float
    p_success: float
    seconds: float
    passed: bool


@dataclass(slots=True)
class EarlyExitGate:
    """A gate for one prefill; ``reading`` is ``None`` until its first read point was reached."""

    _stages: Mapping[ReadPoint, GateStage]
    _clock: Callable[[], float]
    reading: GateReading | None = field(default=None, init=False)

    def __call__(self, read_point: ReadPoint, vector: NDArray[np.float32]) -> bool:
        """Whether the prefill should go on; other read points than its own always should."""
        stage = self._stages.get(read_point)
        if stage is None:
            return True
        started = self._clock()
        score, p_success = stage.probed(vector)
        seconds = self._clock() - started
        self.reading = GateReading(
            read_point=read_point,
            score=score,
            p_success=p_success,
            seconds=seconds + (self.reading.seconds if self.reading else 0.0),
            passed=p_success >= stage.stop_below,
        )
        return self.reading.passed


def early_exit_gate(
    stages: Iterable[GateStage], *, clock: Callable[[], float] = perf_counter
) -> EarlyExitGate:
    """A gate that looks once at each stage and ends the prefill at the first that says no.

    The last stage decides with the same rule as ``decide`` when its bar is the route's
    ``keep_at``; earlier ones, with lower bars, only decline sooner what is hopeless. A query that
    is to be served by the weak model in any case (pinned, explored) must get bars of 0. One gate
    is for one prefill; ``clock`` counts seconds.
    """
    return EarlyExitGate({stage.read_point: stage for stage in stages}, clock)
