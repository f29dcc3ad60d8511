"""From stored observations and outcomes to a probe folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np

from foretell.errors import ProbeFileError, TrainingDataError
from foretell.probes import (
    HeldOut,
    LabelDefinition,
    ProbeCard,
    SavedProbe,
    Selection,
    describe,
    load_probe,
    save_probe,
    select_linear_probe,
)
from foretell.records import RoutingData
from foretell.store import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A probe that was trained and saved, with the evidence for it."""

    selection: Selection
    card: ProbeCard
    folder: Path


def train_probe(
    store: Store,
    domain: str,
    folder: Path,
    *,
    now: datetime,
    metric: str | None = None,
    seed: int = 0,
    nested: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Select, fit and calibrate a probe on the domain's training queries; save it.

    ``metric`` says which labels count; it may be left out when the domain has one kind.
    The probe becomes the newest version in ``folder/domain``, which is what routes serve.
    """
    metric = the_metric(store, domain, metric)
    data = store.load_routing_data(domain, metric=metric, split="train")
    selection = select_linear_probe(data, nested=nested, seed=seed, progress=progress)
    return save_selection(selection, data, domain, metric, folder, now=now)


def the_metric(store: Store, domain: str, metric: str | None) -> str:
    """The metric asked for, or the only one that the domain is labelled by.

    Raises ``TrainingDataError`` when there is none, or a choice to make.
    """
    known = store.metrics(domain)
    if metric in known:
        return metric
    if metric is None and len(known) == 1:
        return known[0]
    raise TrainingDataError(
        f"domain {domain!r} is labelled by {', '.join(known) or 'nothing yet'}; "
        + ("name one of them as the metric" if known else "run foretell label first")
    )


def save_selection(
    selection: Selection,
    data: RoutingData,
    domain: str,
    metric: str,
    folder: Path,
    *,
    now: datetime,
) -> Trained:
    """Write a selection, with early probes below it, as the domain's next version.

    The early ones are written first, so a version that exists is whole.
    """
    version = max(probe_versions(folder, domain), default=0) + 1
    target = folder / domain / str(version)

    def saved(chosen: Selection, name: str, place: Path) -> ProbeCard:
        card = describe(
            chosen,
            data,
            id=name,
            version=version,
            domain=domain,
            label=LabelDefinition(metric=metric, source="code"),
            now=now,
        )
        return save_probe(chosen.probe, card, place, held_out=_held_out(chosen, data))

    for early in select_early_probes(selection, data):
        point = early.probe.read_point.name
        saved(early, f"{domain}-early-{point}", _early_folder(target) / point)
    return Trained(selection=selection, card=saved(selection, domain, target), folder=target)


def select_early_probes(selection: Selection, data: RoutingData) -> list[Selection]:
    """Probes at lower layers that can decline the hopeless before the chosen one is reached.

    The best read point of the first half of the model, and the best of the part from there to
    three quarters, as far as these lie below the chosen one. Read off the sweep; only fitting
    and held-out chances are new work.
    """
    if data.model is None:
        return []
    deepest = selection.probe.read_point.layer
    half, three_quarters = data.model.n_layers // 2, data.model.n_layers * 3 // 4
    found: list[Selection] = []
    for first, end in ((0, half), (half, three_quarters)):
        rows = [
            row
            for row in selection.sweep
            if not row.fine
            and row.auroc is not None
            and first <= row.read_point.layer < min(end, deepest)
        ]
        if rows:
            best = max(rows, key=lambda row: row.auroc or 0.0)
            found.append(
                select_linear_probe(
                    data,
                    read_points=[best.read_point],
                    folds=selection.folds,
                    nested=False,
                    seed=selection.seed,
                )
            )
    return found


def _held_out(selection: Selection, data: RoutingData) -> HeldOut:
    strong = dict(zip(data.ids, data.strong, strict=True)) if data.strong.size else {}
    return HeldOut(
        p_success=selection.p_success,
        weak=selection.outcomes,
        strong=np.array([strong.get(i, np.nan) for i in selection.ids]),
    )


def probe_versions(folder: Path, domain: str) -> list[int]:
    """Saved versions of a domain's probe, oldest first."""
    if not (folder / domain).is_dir():
        return []
    return sorted(int(p.name) for p in (folder / domain).iterdir() if p.name.isdigit())


def newest_probe(folder: Path, domain: str) -> SavedProbe:
    """The probe that routes of a domain serve."""
    versions = probe_versions(folder, domain)
    if not versions:
        raise ProbeFileError(
            f"there is no probe for domain {domain!r} in {folder}; train one: "
            f"foretell train --domain {domain}"
        )
    return load_probe(folder / domain / str(versions[-1]))


def early_probes(folder: Path, saved: SavedProbe) -> list[SavedProbe]:
    """The early probes that were saved with a probe, lowest layer first."""
    place = _early_folder(folder / saved.card.domain / str(saved.card.version))
    found = [load_probe(path) for path in place.iterdir()] if place.is_dir() else []
    return sorted(found, key=lambda early: early.card.read_point)


def _early_folder(version: Path) -> Path:
    return version.with_name(f"{version.name}.early")


def trained_domains(folder: Path) -> list[str]:
    """Domains that have a probe in ``folder``."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and probe_versions(folder, p.name))
