"""Where fetched and derived files are kept, and what is remembered about files."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path


def cache_folder() -> Path:
    """``$FORETELL_CACHE``, else ``foretell`` in the platform's folder for caches."""
    if chosen := os.environ.get("FORETELL_CACHE"):
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or "~/AppData/Local"
    elif sys.platform == "darwin":
        base = "~/Library/Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "foretell"


@contextmanager
def appears_whole(target: Path) -> Generator[Path]:
    """A path to write to; what was written becomes ``target`` when the block ends well.

    Two that write the same target at once each write a file of their own, and the last one
    stays: readers see nothing, or a whole file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
        partial = Path(folder) / target.name
        yield partial
        partial.replace(target)


def file_sha256(path: Path, cache: Path) -> str:
    """SHA-256 of a file, computed once for each (path, size, time of change).

    It is remembered in ``cache``, so that gigabytes are not read again at each start; a cache
    that cannot be written to costs only the time.
    """
    path = path.resolve()
    status = path.stat()
    state = {"path": str(path), "size": status.st_size, "mtime_ns": status.st_mtime_ns}
    note = cache / "digests" / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with suppress(OSError, ValueError, TypeError, KeyError):
        known = json.loads(note.read_text())
        if {key: known[key] for key in state} == state:
            return str(known["sha256"])
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError), appears_whole(note) as partial:
        partial.write_text(json.dumps({**state, "sha256": digest}))
    return digest
