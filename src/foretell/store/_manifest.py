"""The list of all vector files: what was written, and what was removed."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from foretell.store._durable import sync_folder, write_durably

_FILE = "manifest.jsonl"
_LOCK = "manifest.lock"


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardEntry:
    """A vector file as it was written. ``read_points`` are names, ``at`` is seconds since 1970."""

    name: str
    domain: str
    model_key: str
    rows: int
    read_points: tuple[str, ...]
    bytes: int
    sha256: str
    subspace: str
    at: float


class Manifest:
    """A file of one JSON object a line, only ever added to; safe for several processes.

    A shard's line comes after the shard is on the disk, and the line of its removal before that. A
    crash may tear the last line, which then counts as not written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / _FILE

    def add(self, entry: ShardEntry) -> None:
        """Note a shard that was written."""
        self._append([asdict(entry)])

    def remove(self, names: Iterable[str], at: float) -> None:
        """Note that shards are going to be removed."""
        self._append([{"removed": name, "at": at} for name in names])

    def entries(self) -> dict[str, ShardEntry]:
        """Shards that were written and not removed, by name, in the order of writing."""
        if not self._path.exists():
            return {}
        found: dict[str, ShardEntry] = {}
        for line in self._path.read_bytes().splitlines():
            fields = _object(line)
            if "removed" in fields:
                found.pop(str(fields["removed"]), None)
            elif entry := _entry(fields):
                found[entry.name] = entry
        return found

    def rewrite(self) -> None:
        """Leave out the lines of shards that are gone."""
        with self._locked():
            kept = [_line(asdict(entry)) for entry in self.entries().values()]
            write_durably(self._path, b"".join(kept))

    def _append(self, lines: Iterable[Mapping[str, Any]]) -> None:
        content = b"".join(map(_line, lines))
        if not content:
            return
        with self._locked():
            fresh = not self._path.exists()
            with self._path.open("ab+") as file:
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    if file.read(1) != b"\n":  # torn by a crash: nothing may be glued to it
                        content = b"\n" + content
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            if fresh:
                sync_folder(self._folder)

    def _locked(self) -> FileLock:
        return FileLock(self._folder / _LOCK)


def _line(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode() + b"\n"


def _object(line: bytes) -> Mapping[str, Any]:
    try:
        fields: Any = json.loads(line)
    except ValueError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _entry(fields: Mapping[str, Any]) -> ShardEntry | None:
    try:
        known: Any = {**fields, "read_points": tuple(fields["read_points"])}
        return ShardEntry(**known)
    except (KeyError, TypeError):
        return None
