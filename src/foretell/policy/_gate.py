"""Asked in the middle of a prefill: whether it is worth going on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from time import perf_counter

import numpy as np
from numpy.typing import NDArray

from foretell.records import Estimate, ReadPoint

Vectors = Mapping[ReadPoint, NDArray[np.float32]]
"""What was read so far: (width,) by read point, (tokens, width) at one of pooling ``tokens``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateStage:
    """One look of a gate, once the vector of ``read_point`` is complete.

    ``foretell`` makes an estimate of all vectors read so far, ``goes_on`` says whether the prefill
    is worth finishing after that. An estimate that ends it is the last word; ``settles`` says
    whether one is that though the prefill goes on, as when chance has the weak model serve what is
    hopeless.
    """

    read_point: ReadPoint
    foretell: Callable[[Vectors], Estimate]
    goes_on: Callable[[Estimate], bool]
    settles: Callable[[Estimate], bool] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReading:
    """What a gate saw last, and the time of all its looks so far.

    ``settled`` says that it is the last word on the query, so that later stages are not asked.
    """

    read_point: ReadPoint
    estimate: Estimate
    seconds: float
    settled: bool


@dataclass(slots=True)
class EarlyExitGate:
    """A gate for one prefill; ``reading`` is ``None`` until its first stage was reached."""

    _stages: Mapping[ReadPoint, GateStage]
    _clock: Callable[[], float]
    _vectors: dict[ReadPoint, NDArray[np.float32]] = field(
        default_factory=dict[ReadPoint, NDArray[np.float32]], init=False
    )
    reading: GateReading | None = field(default=None, init=False)

    def __call__(self, read_point: ReadPoint, vector: NDArray[np.float32]) -> bool:
        """Whether the prefill should go on; read points without a stage are only remembered."""
        self._vectors[read_point] = vector
        stage = self._stages.get(read_point)
        if stage is None or (self.reading is not None and self.reading.settled):
            return True
        started = self._clock()
        estimate = stage.foretell(self._vectors)
        seconds = self._clock() - started
        goes_on = stage.goes_on(estimate)
        self.reading = GateReading(
            read_point=read_point,
            estimate=estimate,
            seconds=seconds + (self.reading.seconds if self.reading else 0.0),
            settled=not goes_on or (stage.settles is not None and stage.settles(estimate)),
        )
        return goes_on


def early_exit_gate(
    stages: Iterable[GateStage], *, clock: Callable[[], float] = perf_counter
) -> EarlyExitGate:
    """A gate that looks once at each stage and ends the prefill at the first that says no.

    A last stage that goes on exactly when ``decide`` would have the weak model serve makes the
    gate and the decision one; earlier ones only decline sooner what is hopeless. One gate is for
    one prefill; ``clock`` counts seconds.
    """
    return EarlyExitGate({stage.read_point: stage for stage in stages}, clock)
