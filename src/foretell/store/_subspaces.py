"""Subspaces that vectors were reduced to: without them, reduced ones say nothing."""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from foretell.errors import InputError, StoreError
from foretell.records import Basis, ReadPoint, Subspace
from foretell.store._durable import write_durably

_NAME = re.compile(r"[0-9a-zA-Z_-]{1,64}")


class Subspaces:
    """One safetensors file for each, in a folder; they are read once and kept."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[str, Subspace] = {}
        self._lock = threading.Lock()

    def put(self, subspace_id: str, bases: Mapping[ReadPoint, Basis]) -> None:
        """Keep one, durably; one that is kept already stays as it is."""
        from safetensors.numpy import save

        if not _NAME.fullmatch(subspace_id) or not bases:
            raise InputError(
                f"a subspace is called {subspace_id!r} and has {len(bases)} bases; wanted a name "
                "of letters and digits, and at least one basis"
            )
        subspace = Subspace(id=subspace_id, bases=dict(bases))
        path = self.path(subspace_id)
        if not path.exists():
            arrays: Any = subspace.tensors()
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                write_durably(path, save(arrays))
            except OSError as error:
                raise StoreError(f"cannot write the subspace {path}: {error}") from error

    def load(self, subspace_id: str) -> Subspace:
        """The one of that name."""
        from safetensors import SafetensorError
        from safetensors.numpy import load

        with self._lock:
            if subspace_id not in self._known:
                path = self.path(subspace_id)
                try:
                    arrays: Any = load(path.read_bytes())
                    self._known[subspace_id] = Subspace.from_tensors(subspace_id, arrays)
                except (OSError, SafetensorError, InputError) as error:
                    raise StoreError(
                        f"cannot read the subspace {path}: {error}; without it the vectors "
                        "reduced to it are lost, so restore the file from a backup"
                    ) from error
            return self._known[subspace_id]

    def path(self, subspace_id: str) -> Path:
        """The file of one."""
        return self._folder / f"{subspace_id}.safetensors"
