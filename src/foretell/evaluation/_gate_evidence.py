"""How many queries a gate declines: of its own domain, wrongly, and of others, rightly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from foretell.errors import InputError
from foretell.evaluation._intervals import Interval, Resamples, interval
from foretell.evaluation._statistics import mean_of
from foretell.probes import FittedGate
from foretell.records import ReadPoint, RoutingData


@dataclass(frozen=True, slots=True, kw_only=True)
class GateEvidence:
    """Shares of queries that a gate calls outside of what the probe knows.

    ``asked`` is the share of queries like those in training that it may decline, ``own`` what it
    declines of the test queries (false alarms), ``others`` of queries of other domains, by domain
    (more is better). ``read_point`` is where it looks.
    """

    read_point: ReadPoint
    asked: float
    own: Interval
    others: Mapping[str, Interval]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return {**asdict(self), "read_point": self.read_point.name}


def gate_evidence(
    gate: FittedGate,
    test: RoutingData,
    rng: np.random.Generator,
    *,
    others: RoutingData | None = None,
    resamples: int = 1_000,
) -> GateEvidence:
    """What ``gate`` declines of the ``test`` queries, and of each domain in ``others``.

    No outcomes are needed. Queries of ``others`` that are of a domain of ``test`` are left out.

    Args:
        gate: Fitted on training queries.
        test: Other queries of the same domain.
        rng: Decides the resamples.
        others: Queries of other domains, read at the same model.
        resamples: Bootstrap draws behind each interval, over groups.

    Raises:
        InputError: The activations at the gate's read point are missing, or of another width.
    """
    for_test, for_others = rng.spawn(2)
    foreign = dict[str, Interval]()
    if others is not None:
        domains = sorted(set(others.domain) - set(test.domain))
        for domain, generator in zip(domains, for_others.spawn(len(domains)), strict=True):
            of_domain = others.take(np.array([one == domain for one in others.domain]))
            foreign[domain] = _declined(gate, of_domain, generator, resamples)
    return GateEvidence(
        read_point=gate.read_point,
        asked=gate.settings.false_alarm,
        own=_declined(gate, test, for_test, resamples),
        others=foreign,
    )


def _declined(
    gate: FittedGate, data: RoutingData, rng: np.random.Generator, resamples: int
) -> Interval:
    activations = data.activations.get(gate.read_point)
    if activations is None:
        raise InputError(
            f"the gate looks at {gate.read_point}, which was not collected for these "
            f"{len(data)} queries; collect them with that read point"
        )
    if not len(data):
        return Interval(value=None, n=0)
    draws = Resamples.draw(data.groups, rng, resamples, repetitions=data.row_weights())
    outside = np.asarray(gate.outside(activations), dtype=np.float64)
    return interval(mean_of(outside), draws, np.arange(len(data)))
