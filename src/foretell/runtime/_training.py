"""From stored observations and outcomes to a probe folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np

from foretell.errors import InputError, ProbeFileError, TrainingDataError
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
from foretell.records import ReadPoint, RoutingData, Split
from foretell.store import Store

_NEARLY_AS_GOOD: Final = 0.03


@dataclass(frozen=True, slots=True, kw_only=True)
class Trained:
    """A probe that was trained and saved, with the evidence for it.

    ``early`` are the cards of the probes below it that may decline a query sooner.
    """

    selection: Selection
    card: ProbeCard
    early: tuple[ProbeCard, ...]
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
    data = load_split(store, domain, "train", metric=metric)
    selection = select_linear_probe(data, nested=nested, seed=seed, progress=progress)
    return save_selection(selection, data, domain, metric, folder, now=now)


def load_split(store: Store, domain: str, split: Split, *, metric: str) -> RoutingData:
    """One side of a domain's stored queries; raises ``TrainingDataError`` when it is empty."""
    data = store.load_routing_data(domain, metric=metric, split=split)
    if not len(data):
        raise TrainingDataError(
            f"the {split} set of domain {domain!r} is empty: all of its stored queries are of the "
            f"other split; collect and label queries whose split is {split!r}"
        )
    return data


def the_metric(store: Store, domain: str, metric: str | None) -> str:
    """The metric asked for, or the only one that the domain is labelled by.

    Raises ``TrainingDataError`` when there is none, or a choice to make.
    """
    known = store.metrics(domain)
    if metric in known:
        return metric
    if metric is None and len(known) == 1:
        return known[0]
    asked = "" if metric is None else f"not by {metric!r} but "
    raise TrainingDataError(
        f"domain {domain!r} is labelled {asked}by {', '.join(known) or 'nothing yet'}; "
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
    target = _domain_folder(folder, domain) / str(version)
    # What a crash left of this version is of another selection.
    shutil.rmtree(_early_folder(target), ignore_errors=True)

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

    early = tuple(
        saved(chosen, f"{domain}-early-{point}", _early_folder(target) / point)
        for chosen in select_early_probes(selection, data)
        if (point := chosen.probe.read_point.name)
    )
    card = saved(selection, domain, target)
    return Trained(selection=selection, card=card, early=early, folder=target)


def select_early_probes(selection: Selection, data: RoutingData) -> list[Selection]:
    """Probes at lower layers that can decline the hopeless before the chosen one is reached.

    The best read point of the model's first half, and the lowest one that ranks nearly as well
    as the chosen one (AUROC within 0.03), as far as these lie below it. Read off the sweep; only
    fitting and held-out chances are new work.
    """
    if data.model is None or selection.chosen.auroc is None:
        return []
    below = [
        (row.auroc, row.read_point)
        for row in selection.sweep
        if row.auroc is not None and row.read_point.layer < selection.chosen.read_point.layer
    ]
    half = [row for row in below if row[1].layer < data.model.n_layers // 2]
    near = [point for auroc, point in below if auroc >= selection.chosen.auroc - _NEARLY_AS_GOOD]
    points = {max(half)[1]} if half else set[ReadPoint]()
    points |= {min(near)} if near else set()
    return [
        select_linear_probe(
            data, read_points=[point], folds=selection.folds, nested=False, seed=selection.seed
        )
        for point in sorted(points)
    ]


def _held_out(selection: Selection, data: RoutingData) -> HeldOut:
    strong = dict(zip(data.ids, data.strong, strict=True)) if data.strong.size else {}
    return HeldOut(
        p_success=selection.p_success,
        weak=selection.outcomes,
        strong=np.array([strong.get(i, np.nan) for i in selection.ids]),
    )


def probe_versions(folder: Path, domain: str) -> list[int]:
    """Saved versions of a domain's probe, oldest first."""
    place = _domain_folder(folder, domain)
    if not place.is_dir():
        return []
    return sorted(int(p.name) for p in place.iterdir() if p.name.isdigit())


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


def _domain_folder(folder: Path, domain: str) -> Path:
    # A domain may come from a request, so it must not lead out of the folder.
    if not domain or domain.startswith(".") or Path(domain).name != domain:
        raise InputError(
            f"domain {domain!r} cannot name a folder of probes; use a name without '/' that does "
            "not begin with a dot"
        )
    return folder / domain


def _early_folder(version: Path) -> Path:
    return version.with_name(f"{version.name}.early")


def trained_domains(folder: Path) -> list[str]:
    """Domains that have a probe in ``folder``."""
    if not folder.is_dir():
        return []
    return sorted(
        p.name
        for p in folder.iterdir()
        if p.is_dir() and not p.name.startswith(".") and probe_versions(folder, p.name)
    )
