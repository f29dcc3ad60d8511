"""From stored observations and outcomes to a probe folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from foretell.errors import InputError, ProbeFileError
from foretell.probes import (
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
    seed: int = 0,
    nested: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Trained:
    """Select, fit and calibrate a probe on the domain's training queries; save it.

    It becomes the newest version in ``folder/domain``, which is what routes serve.
    """
    data = store.load_routing_data(domain, split="train")
    metric = label_metric(store, domain)
    selection = select_linear_probe(data, nested=nested, seed=seed, progress=progress)
    return save_selection(selection, data, domain, metric, folder, now=now)


def save_selection(
    selection: Selection,
    data: RoutingData,
    domain: str,
    metric: str,
    folder: Path,
    *,
    now: datetime,
) -> Trained:
    """Write a selection as the domain's next version."""
    version = max(probe_versions(folder, domain), default=0) + 1
    card = describe(
        selection,
        data,
        id=domain,
        version=version,
        domain=domain,
        label=LabelDefinition(metric=metric, source="code"),
        now=now,
    )
    target = folder / domain / str(version)
    return Trained(
        selection=selection, card=save_probe(selection.probe, card, target), folder=target
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


def trained_domains(folder: Path) -> list[str]:
    """Domains that have a probe in ``folder``."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and probe_versions(folder, p.name))
