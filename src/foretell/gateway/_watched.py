"""What a prefill is read for beside its decision: a probe on trial, and what is kept of traffic."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foretell.config import TrafficConfig
from foretell.errors import RoutingError
from foretell.prefill import Prefill
from foretell.probes import SavedProbe, subspace_of
from foretell.records import ReadPoint, Subspace
from foretell.runtime import (
    ProbeEstimator,
    Route,
    default_read_points,
    early_probes,
    shadow_probe,
)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Watched:
    """Where to read, and what for.

    ``kept`` are the read points whose vectors go into the store: reduced to ``subspace`` where
    there is one, else whole. ``trial`` is the probe that foretells in the shadow of the one that
    serves.
    """

    kept: tuple[ReadPoint, ...] = ()
    subspace: Subspace | None = None
    trial: ProbeEstimator | None = None

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """All of them, layers rising."""
        tried = () if self.trial is None else self.trial.own_points
        return tuple(sorted({*self.kept, *tried}))

    def vectors(
        self, read: Mapping[ReadPoint, NDArray[np.float32]]
    ) -> tuple[Mapping[ReadPoint, NDArray[np.float32]], str]:
        """What is kept of a prefill's activations, and the name of the subspace they lie in."""
        kept = {point: read[point] for point in self.kept if point in read}
        if self.subspace is None or not kept:
            return kept, ""
        return self.subspace.reduce(kept), self.subspace.id

    def tried(self, prefill: Prefill | None) -> tuple[str, float] | None:
        """Name and ``p_success`` of the probe on trial; ``None`` where it cannot be asked."""
        trial = self.trial
        if trial is None or prefill is None:
            return None
        read, first_token = prefill.activations, prefill.first_token
        if any(point not in read for point in trial.own_points):
            return None
        if trial.needs_whole_prefill and first_token is None:
            return None
        own_tokens = prefill.prompt.own_tokens
        estimate = trial.estimate(read, own_tokens=own_tokens, first_token=first_token)
        return trial.name, estimate.p_success


def watched_of(route: Route, domain: str | None, traffic: TrafficConfig, folder: Path) -> Watched:
    """What a route's prefills are read for; ``folder`` is that of all probes."""
    trial = None if domain is None else _trial(route, domain, folder)
    if traffic.vectors == "none":
        return Watched(trial=trial)
    if traffic.vectors == "full":
        mine = () if route.saved is None else ProbeEstimator.of(route.saved).own_points
        wanted = {*default_read_points(route.weak_identity), *mine}
        kept = tuple(sorted(point for point in wanted if point.pooling != "tokens"))
        return Watched(kept=kept, trial=trial)
    saved = route.saved
    subspace = None if saved is None else _subspace(saved, folder)
    if subspace is None:
        return Watched(trial=trial)
    return Watched(kept=tuple(sorted(subspace.bases)), subspace=subspace, trial=trial)


def _subspace(saved: SavedProbe, folder: Path) -> Subspace | None:
    try:
        return subspace_of(saved, early_probes(folder, saved))
    except RoutingError as error:
        _logger.warning("no vectors of domain %r are kept: %s", saved.card.domain, error)
        return None


def _trial(route: Route, domain: str, folder: Path) -> ProbeEstimator | None:
    try:
        saved = shadow_probe(folder, domain)
        if saved is None:
            return None
        saved.card.check_serves(route.weak_identity, domain)
    except RoutingError as error:
        _logger.warning("the probe on trial for domain %r cannot be asked: %s", domain, error)
        return None
    return ProbeEstimator.of(saved)
