"""A new probe from all that is labelled by now, judged on the holdout, not serving yet.

A probe that is no better passes the holdout by chance now and then, so the more candidates are
judged by the same holdout, the more is asked of each: the k-th may be wrong with a probability of
``error / (k (k + 1))``, which adds up to ``error`` however many there will be. A holdout that is
frozen anew, of twice the labels, begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np

from foretell.config import FlywheelConfig
from foretell.errors import RoutingError, TrainingDataError
from foretell.flywheel._advantage import look_level
from foretell.flywheel._comparison import Comparison, compare
from foretell.flywheel._holdout import LEAST_GROUPS, Holdout, current_holdout
from foretell.flywheel._paired import on_holdout
from foretell.probes import DEFAULT_KINDS, ProbeCard, SavedProbe, hash_training_data
from foretell.records import Event, RoutingData
from foretell.runtime import (
    load_training_rows,
    load_version,
    probe_versions,
    refitting,
    serving_probe,
    the_metric,
    train_probe,
)
from foretell.store import Store, model_key

HISTORY: Final = 10_000
"""Events of one kind and domain that are looked through."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refit:
    """A candidate: a probe that was trained and judged, and does not serve.

    ``rival`` is the name of the probe that serves, ``None`` where none fits the weak model.
    ``labels`` counts the training queries by the source of their label. ``look`` says how many
    candidates have been judged by this holdout, this one included. ``reused`` says that the newest
    version was trained on the very same data, so that nothing was trained.
    """

    version: int
    probe: str
    rival: str | None
    weak_model: str
    metric: str
    queries: int
    labels: Mapping[str, int]
    training_data_sha256: str
    holdout: str
    look: int
    comparison: Comparison
    reused: bool

    @property
    def words(self) -> str:
        """What came of it, in a sentence."""
        told = ", ".join(f"{count} by {source}" for source, count in self.labels.items())
        over = "the base rate" if self.rival is None else self.rival
        return (
            f"{self.probe} was trained on {self.queries} labels ({told or 'of unknown source'}); "
            f"its squared error on the holdout is below that of {over} by {self.comparison.gain}, "
            f"and its calibration error above chance {self.comparison.calibration}"
        )


def refit(
    store: Store,
    domain: str,
    folder: Path,
    *,
    config: FlywheelConfig,
    now: datetime,
    by: str,
    weak_model: str | None = None,
    strong_model: str | None = None,
    metric: str | None = None,
    pool: Mapping[str, str] | None = None,
    kinds: Sequence[str] = DEFAULT_KINDS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Refit:
    """Train a candidate on the domain's training queries, and judge it on the holdout.

    What serves goes on serving; ``consider_promotion`` says what becomes of the candidate. When a
    refit dies halfway it leaves nothing that serves, and the next one takes up a probe that was
    saved. Where traffic keeps vectors of a subspace, all rows are brought to it, so the candidate
    can weigh what its predecessor reads, and find nothing new; that takes
    ``store.traffic.vectors: full``, or another collection.

    Args:
        store: Holds the labelled answers.
        domain: Whose.
        folder: Of all probes.
        config: The flywheel's.
        now: Goes on the card, and into the event ``refit``.
        by: Who or what asked for it.
        weak_model: Key of the weak model in the store, needed when several have answered.
        strong_model: Key of the strong model, needed when answers of several are labelled.
        metric: Which labels count; may be left out when the domain has one kind.
        pool: See ``train_probe``.
        kinds: See ``train_probe``.
        seed: Decides the folds.
        progress: See ``select_probe``.

    Raises:
        TrainingDataError: The labels do not suffice to train, or to judge.
        InputError: Another refit of the domain is under way.
    """
    metric = the_metric(store, domain, metric)
    with refitting(folder, domain):
        holdout = current_holdout(
            store,
            domain,
            metric=metric,
            trusted=config.trusted,
            by=by,
            now=now,
            weak_model=weak_model,
        )
        rival = rival_of(folder, domain, holdout.weak_model)
        data = load_training_rows(
            store,
            domain,
            metric=metric,
            tokens="attention" in kinds,
            weak_model=holdout.weak_model,
            strong_model=strong_model,
        )
        card = _trained_already(folder, domain, data, metric=metric, seed=seed)
        reused = card is not None
        if card is None:
            depth = None if rival is None else rival.card.depth
            card = train_probe(
                store,
                domain,
                folder,
                now=now,
                metric=metric,
                seed=seed,
                nested=False,
                kinds=kinds,
                max_depth=None if depth is None else depth.share,
                weak_model=holdout.weak_model,
                strong_model=strong_model,
                pool=pool,
                progress=progress,
                by=by,
                serve=False,
                data=data,
            ).card
        look = _look(store, domain, holdout, card.version)
        comparison = judge(
            store, load_version(folder, domain, card.version), rival, holdout, look, config
        )
        found = Refit(
            version=card.version,
            probe=card.name,
            rival=None if rival is None else rival.card.name,
            weak_model=holdout.weak_model,
            metric=metric,
            queries=card.n_train,
            labels={} if card.provenance is None else dict(card.provenance.labels),
            training_data_sha256=card.training_data_sha256,
            holdout=holdout.sha256,
            look=look,
            comparison=comparison,
            reused=reused,
        )
        if refit_event(store, domain, card.version, holdout=holdout.sha256) is None:
            details: dict[str, Any] = {**asdict(found), "words": found.words}
            store.note("refit", domain, by=by, at=now.timestamp(), details=details)
        return found


def judge(
    store: Store,
    candidate: SavedProbe,
    rival: SavedProbe | None,
    holdout: Holdout,
    look: int,
    config: FlywheelConfig,
) -> Comparison:
    """A candidate against its rival on the holdout, as the ``look``-th that is judged by it.

    Raises ``TrainingDataError`` when too little of the holdout has the vectors that both read.
    """
    rows = on_holdout(store, candidate, rival, holdout)
    level = look_level(1 - config.refit.confidence, look)
    found = compare(rows, level=level, limit=config.drift.ece, rng=np.random.default_rng(0))
    if found is None or found.gain.groups < LEAST_GROUPS:
        raise TrainingDataError(
            f"of the {len(holdout)} queries that {candidate.card.name} is to be judged by, "
            f"{len(rows)} have the vectors that it and its rival read; wanted {LEAST_GROUPS} "
            "groups or more: keep vectors of traffic (store.traffic.vectors), or collect queries "
            "of the test side and label them"
        )
    return found


def rival_of(folder: Path, domain: str, weak_model: str) -> SavedProbe | None:
    """The probe that serves the domain; ``None`` where none does, or it is of another model."""
    try:
        saved = serving_probe(folder, domain)
    except RoutingError:
        return None  # it serves nobody, so there is nothing to be better than
    return saved if model_key(saved.card.model) == weak_model else None


def refit_event(
    store: Store, domain: str, version: int, *, holdout: str | None = None
) -> Event | None:
    """The newest event ``refit`` about a version, by one holdout if it is named."""
    for event in store.events(kind="refit", subject=domain, limit=HISTORY):
        if event.details["version"] == version and holdout in (None, event.details["holdout"]):
            return event
    return None


def _look(store: Store, domain: str, holdout: Holdout, version: int) -> int:
    """How many candidates this holdout has judged once it has judged ``version``."""
    events = store.events(kind="refit", subject=domain, limit=HISTORY)
    judged = {
        event.details["version"]: event.details["look"]
        for event in events
        if event.details["holdout"] == holdout.sha256
    }
    return judged.get(version, max(judged.values(), default=0) + 1)


def _trained_already(
    folder: Path, domain: str, data: RoutingData, *, metric: str, seed: int
) -> ProbeCard | None:
    """The newest version, if the same data would only make the same one again.

    That of a pool also depends on what its other members answered, and is always trained anew.
    """
    versions = probe_versions(folder, domain)
    if not versions:
        return None
    try:
        card = load_version(folder, domain, versions[-1]).card
    except RoutingError:
        return None  # damaged: the new one is the cure
    readable = all(point in data.activations for point in card.read_points)
    if not readable or card.heads.pool or (card.label.metric, card.seed) != (metric, seed):
        return None
    if card.model != data.model:
        return None
    same = hash_training_data(data, card.read_points) == card.training_data_sha256
    return card if same else None
