"""A probe as a folder: ``weights.safetensors`` and ``card.json``; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from foretell.errors import InputError, ProbeFileError
from foretell.probes._card import READABLE, SCHEMA_VERSION, ProbeCard
from foretell.probes._gate import FittedGate
from foretell.probes._heads import Heads
from foretell.probes._held_out import HeldOut
from foretell.probes._kinds import from_tensors
from foretell.probes._linear import FittedLinearProbe
from foretell.probes._protocol import FittedProbe
from foretell.records import Subspace

if TYPE_CHECKING:
    from pydantic import TypeAdapter

Tensors = Mapping[str, NDArray[Any]]

_WEIGHTS = "weights.safetensors"
_CARD = "card.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedProbe:
    """A probe as read from its folder, with its card, and what its thresholds are chosen on.

    ``gate`` is ``None`` and ``heads`` are empty where none were saved. ``subspace`` is that of
    the activations all of it was fitted on (``RoutingData.subspace``): whoever applies it projects
    others on it first.
    """

    probe: FittedProbe
    card: ProbeCard
    held_out: HeldOut
    gate: FittedGate | None = None
    heads: Heads = field(default_factory=Heads)
    subspace: Subspace | None = None


def save_probe(
    probe: FittedProbe,
    card: ProbeCard,
    folder: Path,
    *,
    held_out: HeldOut,
    gate: FittedGate | None = None,
    heads: Heads | None = None,
    subspace: Subspace | None = None,
    replace_existing: bool = False,
) -> ProbeCard:
    """Write the probe to ``folder``, whole or not at all, and return its card as written.

    Everything is written and flushed under a temporary name beside ``folder``, then renamed. The
    card gets the SHA-256 of the weights.

    Args:
        probe: What to save.
        card: Its card; must be of this probe, and of the gate and heads.
        held_out: What a threshold for a goal will be chosen on.
        gate: What tells foreign queries, if anything.
        heads: What else is foretold, if anything.
        subspace: That of the activations all of it was fitted on, if they were reduced.
        folder: Does not exist yet, unless ``replace_existing``; parents are made.
        replace_existing: Put the new folder in the old one's place. Between two renames nothing
            is there; a crash in between leaves the old one under a name that says so.

    Raises:
        ProbeFileError: The folder exists or cannot be written.
        InputError: The card is of another probe, gate or heads.
    """
    from safetensors.numpy import save

    parts = SavedProbe(
        probe=probe,
        card=card,
        held_out=held_out,
        gate=gate,
        heads=heads or Heads(),
        subspace=subspace,
    )
    _require_same(parts)
    folder = Path(folder)
    weights = save(_tensors(parts))
    card = replace(
        card,
        weights_sha256=hashlib.sha256(weights).hexdigest(),
        schema_version=SCHEMA_VERSION,
    )
    if folder.exists() and not replace_existing:
        raise ProbeFileError(
            f"{folder} exists already; save under another name, or ask to replace it"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        fresh = Path(tempfile.mkdtemp(prefix=f".{folder.name}.new-", dir=folder.parent))
    except OSError as error:
        raise ProbeFileError(f"cannot write a probe beside {folder}: {error}") from error
    try:
        _write(fresh / _WEIGHTS, weights)
        _write(fresh / _CARD, _card_adapter().dump_json(card, indent=2) + b"\n")
        # mkdtemp hides the folder from everyone else; a gateway may run as another user.
        fresh.chmod(0o755)
        _put_in_place(fresh, folder)
    except OSError as error:
        raise ProbeFileError(f"cannot write the probe {folder}: {error}") from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return card


def load_probe(folder: Path) -> SavedProbe:
    """Read a probe back, checking everything that a file can get wrong.

    Raises:
        ProbeFileError: A file is missing, damaged, not what the card promises, or written by a
            newer version; the message names the file.
    """
    folder = Path(folder)
    card = _read_card(folder / _CARD)
    tensors = _read_tensors(folder / _WEIGHTS, card)
    try:
        return _parts(card, tensors)
    except (InputError, TypeError, ValueError) as error:  # settings may hold any JSON
        raise ProbeFileError(
            f"{folder / _WEIGHTS} and {folder / _CARD} do not make a probe of kind {card.kind!r}: "
            f"{error}"
        ) from error


def _require_same(saved: SavedProbe) -> None:
    card, probe = saved.card, saved.probe
    facts = (
        ("kind", card.kind, probe.kind),
        ("read points", card.read_points, probe.read_points),
        ("settings", card.settings, dict(probe.settings())),
        ("calibration", card.calibration, probe.calibration),
        ("gate", card.gate, None if saved.gate is None else saved.gate.settings),
        ("heads", card.heads, saved.heads.settings()),
        ("queries in training", card.n_train, len(saved.held_out.p_success)),
        *(("width", card.model.width, width) for width in _widths(saved)),
    )
    for name, described, actual in facts:
        if described != actual:
            raise InputError(
                f"card {card.name} says {name} {described} but the parts beside it have {actual}; "
                "describe the very probe, gate and heads that are saved with it"
            )


def _widths(saved: SavedProbe) -> list[int]:
    """Lengths of the activations that the parts read, as far as they say."""
    gate, strong, tokens = saved.gate, saved.heads.strong, saved.heads.tokens
    return [
        *([saved.probe.width] if isinstance(saved.probe, FittedLinearProbe) else []),
        *([] if gate is None else [gate.width]),
        *([] if strong is None else [strong.probe.width]),
        *(head.probe.width for head in saved.heads.pool.values()),
        *([] if tokens is None else [len(tokens.weight)]),
    ]


def _tensors(saved: SavedProbe) -> dict[str, NDArray[Any]]:
    """All arrays by the names they have in the file: ``part.name``."""
    parts: dict[str, Tensors] = {
        "probe": saved.probe.tensors(),
        "held_out": saved.held_out.tensors(),
        "heads": saved.heads.tensors(),
    }
    if saved.gate is not None:
        parts["gate"] = saved.gate.tensors()
    if saved.subspace is not None:
        parts[f"subspace.{saved.subspace.id}"] = saved.subspace.tensors()
    return {f"{part}.{name}": array for part, of in parts.items() for name, array in of.items()}


def _parts(card: ProbeCard, tensors: Tensors) -> SavedProbe:
    """What was saved, made again; raises ``InputError`` where card and arrays do not fit."""

    def part(name: str) -> Tensors:
        prefix = f"{name}."
        return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

    saved = SavedProbe(
        probe=from_tensors(card.kind, card.settings, part("probe"), card.calibration),
        card=card,
        held_out=HeldOut.from_tensors(part("held_out")),
        gate=None if card.gate is None else FittedGate.from_tensors(card.gate, part("gate")),
        heads=Heads.from_tensors(card.heads, part("heads")),
        subspace=_subspace(part("subspace")),
    )
    _require_same(saved)
    return saved


def _subspace(tensors: Tensors) -> Subspace | None:
    """The one whose arrays these are, each by ``id.`` and its name there."""
    for name in tensors:
        subspace_id, _, _ = name.partition(".")
        own = {k.removeprefix(f"{subspace_id}."): v for k, v in tensors.items()}
        return Subspace.from_tensors(subspace_id, own)
    return None


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _put_in_place(fresh: Path, folder: Path) -> None:
    if not folder.exists():
        fresh.rename(folder)
        return
    old = fresh.with_name(fresh.name.replace(".new-", ".old-"))
    folder.rename(old)
    try:
        fresh.rename(folder)
    except OSError:
        old.rename(folder)
        raise
    shutil.rmtree(old)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProbeFileError(
            f"cannot read {path}: {error.strerror}; a probe is a folder with {_WEIGHTS} and {_CARD}"
        ) from error


def _read_card(path: Path) -> ProbeCard:
    from pydantic import ValidationError

    content = _read(path)
    try:
        fields: Any = json.loads(content)
    except ValueError as error:
        raise ProbeFileError(f"{path} is not JSON ({error}); save the probe again") from error
    version = fields.get("schema_version") if isinstance(fields, dict) else None
    if version not in READABLE:
        *earlier, newest = map(str, READABLE)
        readable = f"{', '.join(earlier)} and {newest}"
        raise ProbeFileError(
            f"{path} has schema version {version!r}; this foretell reads {readable}, so "
            "upgrade foretell or save the probe again"
        )
    try:
        return _card_adapter().validate_json(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "card"
        raise ProbeFileError(f"{path}: {where}: {first['msg']}; save the probe again") from error
    except InputError as error:
        raise ProbeFileError(f"{path}: {error}") from error


def _read_tensors(path: Path, card: ProbeCard) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if found != card.weights_sha256:
        raise ProbeFileError(
            f"{path} has SHA-256 {found[:12]} but its card promises {card.weights_sha256[:12]}; "
            "the file is damaged or of another probe, so save or copy it again"
        )
    try:
        return load(content)
    except SafetensorError as error:
        raise ProbeFileError(f"{path} is not a safetensors file ({error})") from error


@cache
def _card_adapter() -> TypeAdapter[ProbeCard]:
    from pydantic import TypeAdapter

    return TypeAdapter(ProbeCard)
