"""Keys of callers, of which only the hash is kept."""

from __future__ import annotations

import hashlib
import math
import secrets
from dataclasses import asdict
from typing import Any

from sqlalchemy import select, update

from foretell.errors import InputError
from foretell.records import ApiKey, KeyLimits
from foretell.store._database import Database
from foretell.store._tables import api_keys

_PREFIX = "fk-"
_SECRET_BYTES = 32
_ID_BYTES = 6


def key_sha256(key: str) -> str:
    """The hash, in hexadecimal, by which a key is known.

    Plain SHA-256, without salt or stretching: a key is 32 random bytes, which nobody can guess.
    """
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def create(database: Database, name: str, limits: KeyLimits, *, at: float) -> tuple[ApiKey, str]:
    """Make and store a new key; also return the key itself, which is nowhere kept."""
    _check(name, limits)
    key = _PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
    made = ApiKey(
        id=f"key-{secrets.token_hex(_ID_BYTES)}",
        name=name,
        sha256=key_sha256(key),
        limits=limits,
        created_at=at,
    )
    row: dict[str, Any] = asdict(made)
    row |= row.pop("limits")
    with database.transaction(write=True) as connection:
        connection.execute(database.insert(api_keys), row)
    return made, key


def all_keys(database: Database) -> list[ApiKey]:
    """All keys, revoked ones too, oldest first."""
    statement = select(api_keys).order_by(api_keys.c.created_at, api_keys.c.id)
    with database.transaction() as connection:
        return [_api_key(row) for row in connection.execute(statement)]


def revoke(database: Database, key_id: str, *, at: float) -> ApiKey:
    """Make a key useless from now on; one that already is stays as it was."""
    mine = api_keys.c.id == key_id
    with database.transaction(write=True) as connection:
        connection.execute(
            update(api_keys).where(mine, api_keys.c.revoked_at.is_(None)).values(revoked_at=at)
        )
        row = connection.execute(select(api_keys).where(mine)).first()
    if row is None:
        raise InputError(f"no API key has the id {key_id!r}; 'foretell keys ls' shows them")
    return _api_key(row)


def by_sha256(database: Database, sha256: str) -> ApiKey | None:
    """The key with this hash; ``None`` when there is none, or it was revoked."""
    statement = select(api_keys).where(api_keys.c.sha256 == sha256, api_keys.c.revoked_at.is_(None))
    with database.transaction() as connection:
        row = connection.execute(statement).first()
    return None if row is None else _api_key(row)


def _check(name: str, limits: KeyLimits) -> None:
    # printable: names are shown in terminals and logs, where control characters could pretend
    if not name.strip() or not name.isprintable():
        raise InputError(f"the key's name is {name!r}; wanted printable text, such as 'billing'")
    if limits.routes is not None and not (limits.routes and all(limits.routes)):
        raise InputError("routes must name at least one route or model; leave it out for all")
    least = {
        "requests_per_minute": 0.001,
        "concurrent": 1,
        "usd_per_day": 0,
        "escalations_per_day": 0,
    }
    for limit, smallest in least.items():
        value = getattr(limits, limit)
        if value is not None and not smallest <= value < math.inf:
            raise InputError(
                f"{limit} is {value}; wanted at least {smallest}, or none for no limit"
            )


def _api_key(row: Any) -> ApiKey:
    return ApiKey(
        id=row.id,
        name=row.name,
        sha256=row.sha256,
        limits=KeyLimits(
            routes=None if row.routes is None else tuple(row.routes),
            requests_per_minute=row.requests_per_minute,
            concurrent=row.concurrent,
            usd_per_day=row.usd_per_day,
            escalations_per_day=row.escalations_per_day,
        ),
        created_at=row.created_at,
        revoked_at=row.revoked_at,
    )
