"""A probe's card: what it was fitted on, how good it is, where it may be used."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import ClassVar, Literal

import numpy as np

from foretell.calibration import FittedPlatt
from foretell.errors import InputError, ProbeMismatchError
from foretell.probes._honest import STRICT_JSON, Metric
from foretell.probes._selection import Selection, SweepRow
from foretell.records import ModelIdentity, ReadPoint, RoutingData

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelDefinition:
    """What "succeeded" means: the metric, and who measured it (``code``, ``judge``, ...)."""

    metric: str
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeCard:
    """Identity and provenance of one saved probe.

    ``n_positive`` is the sum of the training outcomes, so a success rate counts in part;
    ``base_rate`` is its share of ``n_train``. ``metrics`` were measured on held-out queries, in
    outer folds when ``nested_metrics``. ``created`` is ISO 8601 in UTC. ``weights_sha256`` is set
    when the probe is saved.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    id: str
    version: int
    model: ModelIdentity
    domain: str
    read_point: ReadPoint
    label: LabelDefinition
    n_train: int
    n_positive: float
    base_rate: float
    metrics: Mapping[str, Metric]
    nested_metrics: bool
    calibration: FittedPlatt
    training_data_sha256: str
    components: int
    l2: float
    seed: int
    sweep: tuple[SweepRow, ...]
    library_versions: Mapping[str, str]
    created: str
    weights_sha256: str = ""
    kind: Literal["linear"] = "linear"
    schema_version: int = field(default=SCHEMA_VERSION)

    @property
    def name(self) -> str:
        """``geo@3``: the name in headers, metrics and messages."""
        return f"{self.id}@{self.version}"

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
) -> ProbeCard:
    """The card of a selection from ``data``.

    Raises:
        InputError: ``data`` names no model, or ``now`` has no time zone.
    """
    if data.model is None:
        raise InputError("the training data names no model; a probe is bound to the one it read")
    if now.tzinfo is None:
        raise InputError(f"the time {now} has no time zone; pass one in UTC")
    n_positive = float(selection.outcomes.sum())
    return ProbeCard(
        id=id,
        version=version,
        model=data.model,
        domain=domain,
        read_point=selection.probe.read_point,
        label=label,
        n_train=len(selection.outcomes),
        n_positive=n_positive,
        base_rate=n_positive / len(selection.outcomes),
        metrics=selection.metrics,
        nested_metrics=selection.nested,
        calibration=selection.probe.calibration,
        training_data_sha256=hash_training_data(data, selection.probe.read_point),
        components=selection.probe.components,
        l2=selection.chosen.l2,
        seed=selection.seed,
        sweep=selection.sweep,
        library_versions=_library_versions(),
        created=now.astimezone(UTC).isoformat(timespec="seconds"),
    )


def hash_training_data(data: RoutingData, read_point: ReadPoint) -> str:
    """SHA-256 over id, group, outcome and activation of every labelled query, by id.

    The order of rows does not matter.
    """
    digest = hashlib.sha256()
    labelled = np.flatnonzero(~np.isnan(data.weak))
    activations = np.ascontiguousarray(data.activations[read_point], dtype="<f4")
    for i in sorted(labelled, key=lambda i: data.ids[i]):
        for text in (data.ids[i], data.groups[i]):
            content = text.encode()
            # The length in front keeps ("ab", "c") and ("a", "bc") apart.
            digest.update(len(content).to_bytes(8, "little") + content)
        digest.update(np.array(data.weak[i], dtype="<f8").tobytes())
        digest.update(activations[i].tobytes())
    return digest.hexdigest()


def _library_versions() -> dict[str, str]:
    # Slow to import, and only a fit needs it.
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed_version

    versions: dict[str, str] = {}
    for library in ("foretell", "numpy", "scikit-learn", "scipy"):
        try:
            versions[library] = installed_version(library)
        except PackageNotFoundError:
            versions[library] = "absent"
    return versions
