"""From stored observations and outcomes to a probe folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, ProbeFileError, TrainingDataError
from foretell.probes import (
    DEFAULT_KINDS,
    FittedGate,
    HeadsSelection,
    HeldOut,
    LabelDefinition,
    ProbeCard,
    SavedProbe,
    Selection,
    describe,
    fit_gate,
    fit_heads,
    load_probe,
    save_probe,
    select_probe,
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
    kinds: Sequence[str] = DEFAULT_KINDS,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Select, fit and calibrate a probe on the domain's training queries; save it.

    ``metric`` says which labels count; it may be left out when the domain has one kind. ``kinds``
    are the kinds of probe to choose from; ``attention`` takes activations that were collected token
    by token. The probe becomes the newest version in ``folder/domain``, which is what routes serve.
    """
    metric = the_metric(store, domain, metric)
    data = load_split(store, domain, "train", metric=metric, tokens="attention" in kinds)
    selection = select_probe(data, kinds=kinds, nested=nested, seed=seed, progress=progress)
    return save_selection(selection, data, domain, metric, folder, now=now)


def load_split(
    store: Store, domain: str, split: Split, *, metric: str, tokens: bool = False
) -> RoutingData:
    """One side of a domain's stored queries; raises ``TrainingDataError`` when it is empty.

    ``tokens`` asks for activations token by token, too.
    """
    points = store.read_points(domain) if tokens else None
    data = store.load_routing_data(domain, metric=metric, split=split, read_points=points)
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

    def saved(
        chosen: Selection,
        name: str,
        place: Path,
        heads: HeadsSelection | None = None,
        gate: FittedGate | None = None,
    ) -> ProbeCard:
        beside = None if heads is None else heads.heads
        card = describe(
            chosen,
            data,
            id=name,
            version=version,
            domain=domain,
            label=LabelDefinition(metric=metric, source="code"),
            now=now,
            gate=gate,
            heads=beside,
        )
        held_out = held_out_of(chosen, data, heads)
        return save_probe(chosen.probe, card, place, held_out=held_out, gate=gate, heads=beside)

    early = tuple(
        saved(chosen, f"{domain}-early-{point}", _early_folder(target) / point)
        for chosen in select_early_probes(selection, data)
        if (point := chosen.chosen.read_point.name)
    )
    points = pooled_points(selection)
    heads = fit_heads(data, points, folds=selection.folds, seed=selection.seed)
    card = saved(selection, domain, target, heads, fit_gate_of(selection, data))
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
        select_probe(
            data,
            kinds=("linear",),
            read_points=[point],
            folds=selection.folds,
            nested=False,
            seed=selection.seed,
        )
        for point in sorted(points)
    ]


def pooled_points(selection: Selection) -> list[ReadPoint]:
    """Where heads and gate can read what the probe reads anyway: its pooled read points.

    An attention probe has none; the best linear one's stands in.
    """
    pooled = [point for point in selection.probe.read_points if point.pooling != "tokens"]
    return pooled or [selection.chosen.read_point]


def fit_gate_of(selection: Selection, data: RoutingData) -> FittedGate | None:
    """The gate at the probe's last pooled read point; ``None`` for too few queries."""
    point = pooled_points(selection)[-1]
    try:
        return fit_gate(
            data.activations[point],
            point,
            seed=selection.seed,
            groups=np.asarray(data.groups),
        )
    except TrainingDataError:
        return None


def held_out_of(
    selection: Selection, data: RoutingData, heads: HeadsSelection | None = None
) -> HeldOut:
    """What thresholds are chosen on, row by row of the selection."""
    row_of = {query_id: row for row, query_id in enumerate(data.ids)}
    rows = np.array([row_of[query_id] for query_id in selection.ids])

    def column(values: NDArray[np.float64] | None) -> NDArray[np.float64]:
        return values[rows] if values is not None and len(values) else np.empty(0)

    _, groups = np.unique([data.groups[row] for row in rows], return_inverse=True)
    return HeldOut(
        p_success=selection.p_success,
        weak=selection.outcomes,
        strong=column(data.strong) if data.strong.size else np.full(len(rows), np.nan),
        p_strong=column(heads and heads.p_strong),
        expected_tokens=column(heads and heads.expected_tokens),
        prompt_tokens=column(data.prompt_tokens),
        weak_tokens=column(data.weak_tokens),
        strong_prompt_tokens=column(data.strong_prompt_tokens),
        strong_tokens=column(data.strong_tokens),
        weights=selection.weights,
        groups=groups.astype(np.float64),
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
