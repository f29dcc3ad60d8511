"""Verdicts that were paid for, kept in a file."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Mapping
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import Any

from foretell.errors import StoreError

_TABLE = """
CREATE TABLE IF NOT EXISTS replies (key TEXT PRIMARY KEY, reply TEXT NOT NULL, usd REAL NOT NULL)
"""


class JudgeCache:
    """Replies by a hash of all that was asked, in a small SQLite file; safe from several threads.

    Several processes may share the file. It may be deleted at any time; a reply can quote what was
    judged, so whoever erases queries deletes it.
    """

    def __init__(self, path: Path) -> None:
        """Raises ``StoreError`` for a file that cannot be used."""
        self._path = path
        self._lock = threading.Lock()
        try:
            self._database = sqlite3.connect(path, timeout=30, check_same_thread=False)
            with self._database:
                self._database.execute(_TABLE)
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def reply(self, key: str) -> str | None:
        """The reply of a key; ``None`` when there is none."""
        with self._lock:
            try:
                found = self._database.execute("SELECT reply FROM replies WHERE key = ?", (key,))
                row: tuple[str] | None = found.fetchone()
            except sqlite3.Error as error:
                raise self._failed(error) from error
        return None if row is None else row[0]

    def keep(self, key: str, reply: str, usd: float) -> None:
        """Keep a reply, durably, in the place of an earlier one."""
        # A lone surrogate, which JSON can spell, is no text for a database.
        text = reply.encode(errors="replace").decode()
        with self._lock:
            try:
                with self._database:
                    self._database.execute(
                        "INSERT OR REPLACE INTO replies VALUES (?, ?, ?)", (key, text, usd)
                    )
            except sqlite3.Error as error:
                raise self._failed(error) from error

    def close(self) -> None:
        """Close the file; safe to call twice."""
        self._database.close()

    def _failed(self, error: Exception) -> StoreError:
        return StoreError(
            f"the judge's cache {self._path} cannot be used: {error}; delete it, or name another "
            "with the option cache"
        )


def cache_key(asked: Mapping[str, Any]) -> str:
    """A hash of what was asked, the same whatever the order of its fields."""
    return sha256(dumps(asked, sort_keys=True).encode()).hexdigest()
