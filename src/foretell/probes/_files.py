"""A probe as a folder: ``weights.safetensors`` and ``card.json``; nothing is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, ProbeFileError
from foretell.probes._card import SCHEMA_VERSION, ProbeCard
from foretell.probes._linear import FittedLinearProbe

if TYPE_CHECKING:
    from pydantic import TypeAdapter

_WEIGHTS = "weights.safetensors"
_CARD = "card.json"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeldOut:
    """What thresholds are chosen on: training queries, each foretold without its own group.

    All three are (n,): the chance foretold, the weak model's success, and the strong one's (NaN
    where nobody labelled it).
    """

    p_success: NDArray[np.float64]
    weak: NDArray[np.float64]
    strong: NDArray[np.float64]

    def __post_init__(self) -> None:
        if not (self.p_success.shape == self.weak.shape == self.strong.shape):
            raise InputError(
                f"held-out columns have shapes {self.p_success.shape}, {self.weak.shape} and "
                f"{self.strong.shape}; wanted one row for each query"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class SavedProbe:
    """A probe as read from its folder, with its card, and what its thresholds are chosen on."""

    probe: FittedLinearProbe
    card: ProbeCard
    held_out: HeldOut


def save_probe(
    probe: FittedLinearProbe,
    card: ProbeCard,
    folder: Path,
    *,
    held_out: HeldOut,
    replace_existing: bool = False,
) -> ProbeCard:
    """Write the probe to ``folder``, whole or not at all, and return its card as written.

    Everything is written and flushed under a temporary name beside ``folder``, then renamed. The
    card gets the SHA-256 of the weights.

    Args:
        probe: What to save.
        card: Its card; must be of this probe.
        held_out: What a threshold for a goal will be chosen on.
        folder: Does not exist yet, unless ``replace_existing``; parents are made.
        replace_existing: Put the new folder in the old one's place. Between two renames nothing
            is there; a crash in between leaves the old one under a name that says so.

    Raises:
        ProbeFileError: The folder exists or cannot be written.
        InputError: The card is of another probe.
    """
    from safetensors.numpy import save

    _require_same(probe, card)
    folder = Path(folder)
    weights = save(
        {
            "weight": probe.weight,
            "bias": np.array([probe.bias]),
            "projection": probe.projection,
            "offset": probe.offset,
            "held_out_p_success": held_out.p_success,
            "held_out_weak": held_out.weak,
            "held_out_strong": held_out.strong,
        }
    )
    card = replace(card, weights_sha256=hashlib.sha256(weights).hexdigest())
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
    probe, held_out = _read_weights(folder / _WEIGHTS, card)
    return SavedProbe(probe=probe, card=card, held_out=held_out)


def _require_same(probe: FittedLinearProbe, card: ProbeCard) -> None:
    facts = (
        ("read point", card.read_point, probe.read_point),
        ("components", card.components, probe.components),
        ("width", card.model.width, probe.width),
        ("calibration", card.calibration, probe.calibration),
    )
    for name, described, actual in facts:
        if described != actual:
            raise InputError(
                f"card {card.name} says {name} {described} but the probe has {actual}; describe "
                "the probe that is being saved"
            )


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
    if version != SCHEMA_VERSION:
        raise ProbeFileError(
            f"{path} has schema version {version!r}; this foretell reads {SCHEMA_VERSION}, so "
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


def _read_weights(path: Path, card: ProbeCard) -> tuple[FittedLinearProbe, HeldOut]:
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
        tensors = load(content)
    except SafetensorError as error:
        raise ProbeFileError(f"{path} is not a safetensors file ({error})") from error
    wanted = {
        "weight": ((card.model.width,), "float32"),
        "bias": ((1,), "float64"),
        "projection": ((card.model.width, card.components), "float32"),
        "offset": ((card.components,), "float32"),
        "held_out_p_success": ((card.n_train,), "float64"),
        "held_out_weak": ((card.n_train,), "float64"),
        "held_out_strong": ((card.n_train,), "float64"),
    }
    for name, (shape, dtype) in wanted.items():
        if name not in tensors:
            raise ProbeFileError(f"{path} holds no tensor {name!r}; save the probe again")
        tensor = tensors[name]
        if tensor.shape != shape or tensor.dtype != dtype:
            raise ProbeFileError(
                f"{path}: {name} is {tensor.dtype} {tensor.shape}; its card promises {dtype} "
                f"{shape}"
            )
    try:
        probe = FittedLinearProbe(
            read_point=card.read_point,
            weight=tensors["weight"],
            bias=float(tensors["bias"][0]),
            projection=tensors["projection"],
            offset=tensors["offset"],
            calibration=card.calibration,
        )
    except InputError as error:
        raise ProbeFileError(f"{path}: {error}") from error
    held_out = HeldOut(
        p_success=tensors["held_out_p_success"],
        weak=tensors["held_out_weak"],
        strong=tensors["held_out_strong"],
    )
    return probe, held_out


@cache
def _card_adapter() -> TypeAdapter[ProbeCard]:
    from pydantic import TypeAdapter

    return TypeAdapter(ProbeCard)
