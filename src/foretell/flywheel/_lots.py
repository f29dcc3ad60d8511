"""Lots that nobody who makes requests can aim at, and that fall the same way every time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable


def lot(query_id: str, salt: bytes) -> float:
    """A number in [0, 1) that follows from an id, and looks random to who lacks the salt."""
    raw = query_id.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(raw, key=salt[:64], digest_size=8, person=b"lot").digest()
    return (int.from_bytes(digest, "big") >> 11) / 2**53


def by_lot(ids: Iterable[str], salt: bytes) -> list[str]:
    """Ids in the order of their lots."""
    return sorted(ids, key=lambda one: (lot(one, salt), one))
