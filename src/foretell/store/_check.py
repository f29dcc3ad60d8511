"""Whether the database, the folder of vectors and its manifest agree."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from foretell.errors import StoreError
from foretell.store._database import Database
from foretell.store._erasure import named, orphans
from foretell.store._manifest import ShardEntry
from foretell.store._vectors import Shards

_GRACE_S: Final = 3600.0
"""A younger file that no row names may be one whose rows are about to be committed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCheck:
    """What was found; names of files, sorted.

    ``missing`` are named by rows and not there, ``damaged`` are not what the manifest says; both
    want a backup. ``orphaned`` are there and named by no row, ``unfinished`` half-written: what a
    crash leaves, and what others are just writing. ``unlisted`` are not in the manifest.
    ``removed`` were orphaned or unfinished, and are gone now.
    """

    shards: int
    missing: tuple[str, ...]
    damaged: tuple[str, ...]
    orphaned: tuple[str, ...]
    unfinished: tuple[str, ...]
    unlisted: tuple[str, ...]
    removed: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether all that the database names is there and as it was written."""
        return not (self.missing or self.damaged)


def check(database: Database, shards: Shards, *, now: float, repair: bool) -> StoreCheck:
    """Compare the three; see ``Store.check``."""
    removed: set[str] = set()
    # On SQLite nobody else writes meanwhile, and what no row names is of a crash for certain.
    with database.transaction(write=repair) as connection:
        known = named(connection)
        orphaned = orphans(connection, shards)
        unfinished = shards.unfinished()
        if repair:
            removed = {
                name
                for name in orphaned | unfinished
                if database.is_sqlite or _age(shards, name, now) > _GRACE_S
            }
            shards.remove(removed)
    there = known & shards.names()
    entries = shards.manifest.entries()
    if repair:
        for name in sorted(there - entries.keys()):
            shards.manifest.add(shards.entry(name))
        entries = shards.manifest.entries()
    return StoreCheck(
        shards=len(known),
        missing=tuple(sorted(known - there)),
        damaged=tuple(sorted(name for name in there if _is_damaged(shards, name, entries))),
        orphaned=tuple(sorted(orphaned - removed)),
        unfinished=tuple(sorted(unfinished - removed)),
        unlisted=tuple(sorted(there - entries.keys())),
        removed=tuple(sorted(removed)),
    )


def _age(shards: Shards, name: str, now: float) -> float:
    written_at = shards.written_at(name)
    return 0.0 if written_at is None else now - written_at


def _is_damaged(shards: Shards, name: str, entries: dict[str, ShardEntry]) -> bool:
    try:
        if name in entries:
            return shards.checksum(name) != entries[name].sha256
        shards.facts(name)
    except StoreError:
        return True
    return False
