"""From stored observations and outcomes to a probe folder."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.probes import (
    DEFAULT_KINDS,
    DepthLimit,
    FittedGate,
    Heads,
    HeadsSelection,
    HeldOut,
    LabelDefinition,
    ProbeCard,
    Provenance,
    Selection,
    describe,
    fit_gate,
    fit_heads,
    save_probe,
    select_probe,
)
from foretell.records import ReadPoint, RoutingData, Split
from foretell.runtime._ladder_rows import undo_selection
from foretell.runtime._registry import (
    domain_folder,
    early_folder,
    fix_serving,
    locked,
    probe_versions,
    promote,
)
from foretell.store import TRUST, Store, model_key

_NEARLY_AS_GOOD: Final = 0.03

Floats = NDArray[np.float64]


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
    max_depth: float | None = None,
    weak_model: str | None = None,
    strong_model: str | None = None,
    pool: Mapping[str, str] | None = None,
    progress: Callable[[int, int], None] | None = None,
    by: str = "",
    serve: bool = True,
    data: RoutingData | None = None,
) -> Trained:
    """Select, fit and calibrate a probe on the domain's training queries; save it.

    The probe becomes the newest version in ``folder/domain``, and routes serve it from now on.
    Queries that traffic brought are weighted for those like them of which no answer was seen.

    Args:
        store: Holds the labelled answers.
        domain: Whose.
        folder: Of all probes.
        now: Goes on the card.
        metric: Which labels count; may be left out when the domain has one kind.
        seed: Decides the folds.
        nested: Measure the selection itself in outer folds.
        kinds: Kinds of probe to choose from; ``attention`` takes activations that were collected
            token by token.
        max_depth: Read only the first layers, up to this share of them, so that an escalated
            query pays at most about that share of a prefill. What it costs in AUROC is on the
            card. Leaves out ``fusion``, which may ask for the first token.
        weak_model: Key of the weak model in the store, needed when several have answered.
        strong_model: Key of the strong model, needed when answers of several are labelled.
        pool: Keys of further models by their names in the configuration; each gets a head.
        progress: See ``select_probe``; with ``max_depth`` told of two searches in turn.
        by: Who or what has it trained; goes on the card.
        serve: Whether the probe serves from now on; else what served still does.
        data: What ``load_training_rows`` gave, by a caller that has looked at it.
    """
    metric = the_metric(store, domain, metric)
    if data is None:
        data = load_training_rows(
            store,
            domain,
            metric=metric,
            tokens="attention" in kinds,
            weak_model=weak_model,
            strong_model=strong_model,
        )
    outcomes = {
        name: _outcomes_of(store, domain, key, data, metric=metric, weak_model=weak_model)
        for name, key in (pool or {}).items()
    }
    allowed, unlimited = data, None
    if max_depth is not None:
        allowed = within_depth(data, max_depth)
        kinds = [kind for kind in kinds if kind != "fusion"]
        # Of the same folds, so that the two can be told apart.
        unlimited = select_probe(
            data, kinds=("linear",), nested=False, seed=seed, progress=progress
        )
    selection = select_probe(allowed, kinds=kinds, nested=nested, seed=seed, progress=progress)
    depth = None
    if max_depth is not None and unlimited is not None:
        depth = DepthLimit(
            share=max_depth,
            auroc=selection.chosen.auroc,
            unlimited_auroc=unlimited.chosen.auroc,
            unlimited_read_point=unlimited.chosen.read_point,
        )
    labels = label_sources(store, domain, data, metric=metric)
    return save_selection(
        selection,
        allowed,
        domain,
        metric,
        folder,
        now=now,
        pool=outcomes,
        depth=depth,
        source=", ".join(sorted(labels, key=lambda source: -labels[source])),
        provenance=Provenance(by=by, labels=labels, seen=_seen(store, domain, data)),
        serve=serve,
    )


def load_training_rows(
    store: Store,
    domain: str,
    *,
    metric: str,
    tokens: bool = False,
    weak_model: str | None = None,
    strong_model: str | None = None,
) -> RoutingData:
    """What a probe is trained on: see ``load_split`` and ``undo_selection``."""
    data = load_split(
        store,
        domain,
        "train",
        metric=metric,
        tokens=tokens,
        weak_model=weak_model,
        strong_model=strong_model,
    )
    return undo_selection(data)


def label_sources(store: Store, domain: str, data: RoutingData, *, metric: str) -> dict[str, int]:
    """How many of the rows have their weak label from each source, in the order of trust."""
    key = "" if data.model is None else model_key(data.model)
    labelled = {data.ids[row] for row in np.flatnonzero(np.isfinite(data.weak))}
    by_model = store.outcomes(domain)
    found: dict[str, str] = {}
    # A label of this very model counts before one of none, then the more trusted.
    for model in dict.fromkeys((key, "")):
        told = [
            outcome
            for outcome in by_model.get(model, ())
            if outcome.role == "weak" and outcome.metric == metric and outcome.value is not None
        ]
        for outcome in sorted(told, key=lambda outcome: TRUST.index(outcome.source)):
            if outcome.query_id in labelled:
                found.setdefault(outcome.query_id, outcome.source)
    counts = Counter(found.values())
    return {source: counts[source] for source in TRUST if source in counts}


def _seen(store: Store, domain: str, data: RoutingData) -> dict[str, int]:
    """How many of the labelled rows came to be stored in each way."""
    labelled = {data.ids[row] for row in np.flatnonzero(np.isfinite(data.weak))}
    origins = {
        one.query.id: one.origin
        for one in store.observations(domain, "weak")
        if one.query.id in labelled
    }
    return dict(sorted(Counter(origins.values()).items()))


def within_depth(data: RoutingData, max_depth: float) -> RoutingData:
    """The same queries without the activations of layers beyond the first ``max_depth`` of all.

    Raises ``TrainingDataError`` when none is left.
    """
    if not 0 < max_depth <= 1:
        raise InputError(f"max_depth is {max_depth}; wanted a share of the layers, as 0.6")
    if data.model is None:
        raise TrainingDataError("the training data names no model, so its depth is not known")
    layers = data.model.n_layers

    def share(point: ReadPoint) -> float:
        return (point.layer + 1) / layers

    # A product such as 0.29 * 100 may fall short of the whole number that is meant.
    most = max_depth + 1e-9
    pooled = {point: rows for point, rows in data.activations.items() if share(point) <= most}
    if not pooled:
        lowest = min(data.activations, default=None)
        raise TrainingDataError(
            f"no read point lies within the first {max_depth:g} of the model's {layers} layers"
            + ("" if lowest is None else f"; the lowest is {lowest}, at {share(lowest):.2f}")
            + "; collect again with lower ones (--read-point), or allow more"
        )
    tokens = {point: rows for point, rows in data.sequences.items() if share(point) <= most}
    return replace(data, activations=pooled, sequences=tokens)


def load_split(
    store: Store,
    domain: str,
    split: Split,
    *,
    metric: str,
    tokens: bool = False,
    weak_model: str | None = None,
    strong_model: str | None = None,
) -> RoutingData:
    """One side of a domain's stored queries; raises ``TrainingDataError`` when it is empty.

    ``tokens`` asks for activations token by token, too. Keys of models are needed where several
    have answered.
    """
    data = store.load_routing_data(
        domain,
        metric=metric,
        split=split,
        read_points=store.read_points(domain, weak_model=weak_model) if tokens else None,
        weak_model=weak_model,
        strong_model=strong_model,
    )
    if not len(data):
        raise TrainingDataError(
            f"the {split} set of domain {domain!r} is empty: all of its stored queries are of the "
            f"other split; collect and label queries whose split is {split!r}"
        )
    return data


def _outcomes_of(
    store: Store, domain: str, key: str, data: RoutingData, *, metric: str, weak_model: str | None
) -> Floats:
    """Success of one more model in the rows of ``data``, NaN where nobody labelled it."""
    found = store.load_routing_data(
        domain,
        metric=metric,
        split="train",
        read_points=(),
        weak_model=weak_model,
        strong_model=key,
    )
    by_id = dict(zip(found.ids, found.strong.tolist(), strict=True))
    return np.array([by_id.get(query_id, np.nan) for query_id in data.ids])


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
    pool: Mapping[str, Floats] | None = None,
    depth: DepthLimit | None = None,
    source: str = "code",
    provenance: Provenance | None = None,
    serve: bool = True,
) -> Trained:
    """Write a selection, with early probes below it, as the domain's next version.

    ``pool`` holds the success of further models in the rows of ``data``, see ``fit_heads``.
    ``source``, who labelled the rows, and ``provenance`` go on the card.
    The version serves from now on, unless ``serve`` is false: then what served still does. The
    early probes are written first, so a version that exists is whole; of several that save at
    once, one waits for the other.
    """
    with locked(folder, domain):
        if not serve:
            fix_serving(folder, domain)
        trained = _save_version(
            selection,
            data,
            domain,
            metric,
            folder,
            now=now,
            pool=pool or {},
            depth=depth,
            source=source,
            provenance=provenance,
        )
        if serve:
            promote(folder, domain, trained.card.version)
        return trained


def _save_version(
    selection: Selection,
    data: RoutingData,
    domain: str,
    metric: str,
    folder: Path,
    *,
    now: datetime,
    pool: Mapping[str, Floats],
    depth: DepthLimit | None,
    source: str,
    provenance: Provenance | None,
) -> Trained:
    version = max(probe_versions(folder, domain), default=0) + 1
    target = domain_folder(folder, domain) / str(version)
    # What a crash left of this version is of another selection; whoever else writes here waits.
    shutil.rmtree(early_folder(target), ignore_errors=True)
    for unfinished in target.parent.glob(".*.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)

    def saved(
        chosen: Selection,
        name: str,
        place: Path,
        heads: HeadsSelection,
        gate: FittedGate | None = None,
        pool: Mapping[str, Floats] | None = None,
        depth: DepthLimit | None = None,
    ) -> ProbeCard:
        beside = heads.heads
        card = describe(
            chosen,
            data,
            id=name,
            version=version,
            domain=domain,
            label=LabelDefinition(metric=metric, source=source),
            now=now,
            gate=gate,
            heads=beside,
            pool=pool,
            depth=depth,
            provenance=provenance,
        )
        held_out = held_out_of(chosen, data, heads, pool)
        return save_probe(
            chosen.probe,
            card,
            place,
            held_out=held_out,
            gate=gate,
            heads=beside,
            subspace=data.subspace,
        )

    early = tuple(
        saved(
            chosen,
            f"{domain}-early-{point.name}",
            early_folder(target) / point.name,
            _strong_alone(fit_heads(data, [point], folds=chosen.folds, seed=chosen.seed)),
        )
        for chosen in select_early_probes(selection, data)
        if (point := chosen.chosen.read_point)
    )
    points = pooled_points(selection)
    heads = fit_heads(data, points, pool=pool, folds=selection.folds, seed=selection.seed)
    gate = fit_gate_of(selection, data)
    card = saved(selection, domain, target, heads, gate, pool, depth)
    return Trained(selection=selection, card=card, early=early, folder=target)


def _strong_alone(heads: HeadsSelection) -> HeadsSelection:
    """What an early look needs where the bar is on the gain of a strong call, and no more."""
    strong = Heads(strong=heads.heads.strong)
    return replace(heads, heads=strong, expected_tokens=None)


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
    selection: Selection,
    data: RoutingData,
    heads: HeadsSelection | None = None,
    pool: Mapping[str, Floats] | None = None,
) -> HeldOut:
    """What thresholds are chosen on, row by row of the selection.

    ``pool`` holds the success of further models in the rows of ``data``.
    """
    row_of = {query_id: row for row, query_id in enumerate(data.ids)}
    rows = np.array([row_of[query_id] for query_id in selection.ids])

    def column(values: Floats | None) -> Floats:
        return values[rows] if values is not None and len(values) else np.empty(0)

    p_pool = {name: chances[rows] for name, chances in heads.p_pool.items()} if heads else {}
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
        weak_chance=column(data.weak_chance) if (data.weak_chance < 1).any() else np.empty(0),
        pair_chance=column(data.pair_chance) if (data.pair_chance < 1).any() else np.empty(0),
        p_pool=p_pool,
        pool={name: (pool or {})[name][rows] for name in p_pool},
    )
