"""A probe's card: what it was fitted on, how good it is, where it may be used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, ClassVar, Final, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedCalibration
from foretell.errors import InputError, ProbeMismatchError
from foretell.probes._gate import FittedGate, GateSettings
from foretell.probes._heads import Heads, HeadsSettings
from foretell.probes._honest import STRICT_JSON, Metric
from foretell.probes._linear_search import SweepRow
from foretell.probes._rivals import KindRow
from foretell.probes._saveable import saveable
from foretell.probes._selection import Selection
from foretell.records import ModelIdentity, ReadPoint, RoutingData

SCHEMA_VERSION = 4

READABLE: Final = (2, 3, SCHEMA_VERSION)
"""Version 2 knew neither heads of a pool nor a limit of the depth, version 3 no provenance; all
else is the same."""

_HASHED: Final = ("weak", "strong", "first_entropy", "first_margin", "weak_tokens")
"""Columns, besides the activations, that a probe or a head is fitted on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDefinition:
    """What "succeeded" means: the metric, and who measured it.

    ``source`` is ``code``, ``judge`` and so on; several are separated by commas, the most frequent
    first.
    """

    metric: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Who had a probe trained, and on whose word.

    ``by`` is a person or a program. ``labels`` counts the training queries by the source of their
    label, and ``seen`` by how they came to be stored (``collected``, ``imported``, ``traffic``).
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    by: str
    labels: Mapping[str, int]
    seen: Mapping[str, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class DepthLimit:
    """How deep a probe was allowed to read, and what that costs it.

    It reads no layer beyond the first ``share`` of them, so that an escalated query pays at most
    about that share of a prefill. ``auroc`` and ``unlimited_auroc`` are of the best linear probe
    within the limit and of the best anywhere, which reads ``unlimited_read_point``: means over the
    same held-out folds, ``None`` where undefined.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    share: float
    auroc: float | None
    unlimited_auroc: float | None
    unlimited_read_point: ReadPoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCard:
    """Identity and provenance of one saved probe.

    ``kind`` and ``settings`` are the probe's, ``read_points`` where it reads, layers rising.
    ``target`` is ``rate`` when some training outcome lies between 0 and 1. ``n_positive`` is the
    sum of the training outcomes, so a success rate counts in part; ``base_rate`` is their mean,
    weighted as in training. ``metrics`` were measured on held-out queries, in outer folds when
    ``nested_metrics``. ``chosen`` is the best setting of a linear probe among those in ``sweep``,
    and ``kinds_tried`` how the kinds compared in the same folds. ``gate`` and ``heads`` are what is
    saved beside the probe. ``depth`` is ``None`` where every layer could be read, ``provenance``
    where nobody noted it. ``created`` is ISO 8601 in UTC. ``weights_sha256`` is set when the probe
    is saved.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    id: str
    version: int
    model: ModelIdentity
    domain: str
    kind: str
    read_points: tuple[ReadPoint, ...]
    settings: Mapping[str, Any]
    label: LabelDefinition
    target: Literal["binary", "rate"]
    n_train: int
    n_positive: float
    base_rate: float
    metrics: Mapping[str, Metric]
    nested_metrics: bool
    calibration: FittedCalibration
    training_data_sha256: str
    seed: int
    chosen: SweepRow
    sweep: tuple[SweepRow, ...]
    kinds_tried: tuple[KindRow, ...]
    library_versions: Mapping[str, str]
    created: str
    gate: GateSettings | None = None
    heads: HeadsSettings = field(default_factory=HeadsSettings)
    depth: DepthLimit | None = None
    provenance: Provenance | None = None
    weights_sha256: str = ""
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def name(self) -> str:
        """``geo@3``: the name in headers, metrics and messages."""
        return f"{self.id}@{self.version}"

    @property
    def read_point(self) -> ReadPoint:
        """The last read point to be reached."""
        return self.read_points[-1]

    def check_serves(self, identity: ModelIdentity, domain: str | None = None) -> None:
        """Refuses a model, or a domain when given, that the probe was not fitted on.

        Raises:
            ProbeMismatchError: Other weights, another chat template, or another domain.
        """
        if not identity.serves_probes_of(self.model):
            raise ProbeMismatchError(
                f"probe {self.name} was fitted on {self.model} but {identity} is being served; "
                "refit the probe, or serve the model it was fitted on"
            )
        if domain is not None and domain != self.domain:
            raise ProbeMismatchError(
                f"probe {self.name} was fitted on domain {self.domain!r} but domain {domain!r} was "
                f"asked for; train a probe for {domain!r}, or route these queries as "
                f"{self.domain!r}"
            )


def describe(
    selection: Selection,
    data: RoutingData,
    *,
    id: str,  # noqa: A002 - the card's own word
    version: int,
    domain: str,
    label: LabelDefinition,
    now: datetime,
    gate: FittedGate | None = None,
    heads: Heads | None = None,
    pool: Mapping[str, NDArray[np.float64]] | None = None,
    depth: DepthLimit | None = None,
    provenance: Provenance | None = None,
) -> ProbeCard:
    """The card of a selection from ``data``, and of the gate and heads saved beside the probe.

    ``pool`` holds the outcomes that the pool's heads were fitted on, row by row of ``data``.

    Raises:
        InputError: ``data`` names no model, or ``now`` has no time zone.
    """
    if data.model is None:
        raise InputError("the training data names no model; a probe is bound to the one it read")
    if now.tzinfo is None:
        raise InputError(f"the time {now} has no time zone; pass one in UTC")
    probe, outcomes, weights = selection.probe, selection.outcomes, selection.weights
    return ProbeCard(
        id=id,
        version=version,
        model=data.model,
        domain=domain,
        kind=probe.kind,
        read_points=probe.read_points,
        settings=dict(probe.settings()),
        label=label,
        target="rate" if ((outcomes > 0) & (outcomes < 1)).any() else "binary",
        n_train=len(outcomes),
        n_positive=float(outcomes.sum()),
        base_rate=float(weights @ outcomes / weights.sum()),
        metrics=selection.metrics,
        nested_metrics=selection.nested,
        calibration=saveable(probe.calibration),
        training_data_sha256=hash_training_data(data, probe.read_points, pool),
        seed=selection.seed,
        chosen=selection.chosen,
        sweep=selection.sweep,
        kinds_tried=selection.kinds_tried,
        library_versions=_library_versions(),
        created=now.astimezone(UTC).isoformat(timespec="seconds"),
        gate=None if gate is None else gate.settings,
        heads=HeadsSettings() if heads is None else heads.settings(),
        depth=depth,
        provenance=provenance,
    )


def hash_training_data(
    data: RoutingData,
    read_points: Sequence[ReadPoint],
    pool: Mapping[str, NDArray[np.float64]] | None = None,
) -> str:
    """SHA-256 over every labelled query, by id: names, what fits look at, and activations.

    ``pool`` holds the outcomes of further models, row by row of ``data``. The order of rows does
    not matter; that of the read points does.
    """
    digest = hashlib.sha256()
    columns = [data.lengths, data.row_weights()]
    columns += [column for name in _HASHED if len(column := getattr(data, name))]
    columns += [outcomes for _, outcomes in sorted((pool or {}).items())]
    numbers = np.stack(columns, axis=1).astype("<f8")
    labelled = np.flatnonzero(~np.isnan(data.weak))
    for i in sorted(labelled, key=lambda i: data.ids[i]):
        for text in (data.ids[i], data.groups[i], data.domain[i]):
            content = text.encode()
            # The length in front keeps ("ab", "c") and ("a", "bc") apart.
            digest.update(len(content).to_bytes(8, "little") + content)
        digest.update(numbers[i].tobytes())
        for point in read_points:
            digest.update(
                np.ascontiguousarray(_read_at(data, point, int(i)), dtype="<f4").tobytes()
            )
    return digest.hexdigest()


def _read_at(data: RoutingData, point: ReadPoint, row: int) -> NDArray[np.float32]:
    if point.pooling == "tokens":
        return data.sequences[point].query(row)
    return data.activations[point][row]


def _library_versions() -> dict[str, str]:
    # Slow to import, and only a fit needs it.
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    versions: dict[str, str] = {}
    for library in ("foretell", "numpy", "scikit-learn", "scipy", "torch"):
        try:
            versions[library] = installed_version(library)
        except PackageNotFoundError:
            versions[library] = "absent"
    return versions
