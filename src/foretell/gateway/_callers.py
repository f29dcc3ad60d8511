"""Who a request comes from, told by its API key."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import re
from collections import OrderedDict
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from foretell.config import ServerConfig, secret
from foretell.errors import ConfigError, StoreError
from foretell.gateway._errors import ApiError
from foretell.records import ApiKey, KeyLimits

Clock = Callable[[], float]
"""Seconds since 1970 (UTC)."""

StoredKeys = Callable[[str], ApiKey | None]
"""The key of this SHA-256 (hexadecimal), revoked or not; may block, and raise ``StoreError``."""

_LONGEST_KEY: Final = 512
_MOST_LOOKUPS: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who a request comes from; ``key_id`` is ``""`` where the gateway asks for no key."""

    key_id: str
    limits: KeyLimits = field(default_factory=KeyLimits)


ANYBODY: Final = Caller(key_id="")


class KeySource:
    """The keys that callers may use: those of an environment variable, and those of the store.

    What the store says is believed for ``ttl_s``, so a revoked key works at most that much longer.
    Where the store cannot be read, or not within ``patience_s``, what it said less than ``stale_s``
    ago still holds: its absence takes no access away. Keys it does not have are remembered as well,
    the last ``remembered`` of all together.

    Belongs to one event loop; the store is asked from threads.
    """

    def __init__(
        self,
        *,
        configured: Iterable[str] = (),
        stored: StoredKeys | None = None,
        clock: Clock,
        ttl_s: float = 5.0,
        stale_s: float = 300.0,
        patience_s: float = 2.0,
        remembered: int = 10_000,
    ) -> None:
        """Raises ``ConfigError`` for a configured key that an HTTP header cannot carry."""
        self._configured = {key.sha256: key for key in map(_configured_key, configured)}
        self._stored = stored
        self._clock = clock
        self._ttl_s = ttl_s
        self._stale_s = stale_s
        self._patience_s = patience_s
        self._remembered = remembered
        self._told: OrderedDict[str, _Told] = OrderedDict()
        self._lookups: dict[str, asyncio.Future[ApiKey | None]] = {}
        # Threads of its own: a flood of unknown keys must not hold up the work of known callers.
        self._threads = ThreadPoolExecutor(max_workers=2, thread_name_prefix="foretell-keys")

    @classmethod
    def from_config(cls, server: ServerConfig, *, stored: StoredKeys, clock: Clock) -> KeySource:
        """As the configuration says; raises ``ConfigError`` where its variable holds no keys."""
        return cls(
            configured=() if server.api_keys_env is None else _listed(server.api_keys_env),
            stored=stored if server.stored_keys else None,
            clock=clock,
        )

    @property
    def asks(self) -> bool:
        """Whether callers need a key."""
        return bool(self._configured) or self._stored is not None

    def require_keys_off_loopback(self, host: str) -> None:
        """Raises ``ConfigError`` where anybody at all could use a gateway that listens there."""
        if not self.asks and not _is_loopback(host):
            raise ConfigError(
                f"server.host is {host!r}, which others can reach, and no API keys are asked for; "
                "name the variable that holds them in server.api_keys_env, set "
                "server.stored_keys, or listen on 127.0.0.1"
            )

    def require_own_machine(self, host: str | None, origin: str | None) -> None:
        """Raises ``ApiError`` 403 where no keys are asked for and a page from elsewhere may ask.

        A browser lets any page send requests to this machine, and even read the answers once the
        page's host name leads here. ``host`` and ``origin`` are the headers that tell.
        """
        if self.asks:
            return
        for name, url in (("Host", host and f"//{host}"), ("Origin", origin)):
            if url is not None and not _is_loopback(_hostname(url)):
                raise ApiError(
                    403,
                    f"the header {name} names another machine, which takes an API key; ask for "
                    "127.0.0.1 or localhost, or set server.api_keys_env",
                    code="host_not_allowed",
                    param=name.lower(),
                )

    async def authenticate(self, authorization: str | None, x_api_key: str | None) -> Caller:
        """Whoever sent these headers; ``ANYBODY`` where no keys are asked for.

        ``authorization`` goes before ``x_api_key``, which Anthropic's clients send. Raises
        ``ApiError`` 401 for a missing or an unknown key, 503 when the store cannot tell.
        """
        if not self.asks:
            return ANYBODY
        key = await self._find(_sent_key(authorization, x_api_key))
        if key is None:
            raise _unauthorised("this API key is not valid")
        return Caller(key_id=key.id, limits=key.limits)

    def close(self) -> None:
        """Look no more keys up, but for those being looked up; safe to call twice."""
        self._threads.shutdown(wait=False)

    async def _find(self, key: str) -> ApiKey | None:
        sha256 = _sha256(key)
        # Looking up a hash tells nothing by its timing: whoever could choose the hash's beginning
        # still would not know a key.
        if found := self._configured.get(sha256):
            return found
        found = None if self._stored is None else await self._stored_key(sha256, self._stored)
        if found is None or found.revoked_at is not None:
            return None
        return found if hmac.compare_digest(found.sha256, sha256) else None

    async def _stored_key(self, sha256: str, stored: StoredKeys) -> ApiKey | None:
        told = self._told.get(sha256)
        if told is not None and self._is_younger(told, self._ttl_s):
            return told.key
        try:
            lookup = self._lookups.get(sha256) or self._look_up(sha256, stored)
            async with asyncio.timeout(self._patience_s):
                # Others may wait for it, too, so it outlives a caller who goes away.
                return await asyncio.shield(lookup)
        except (StoreError, TimeoutError):
            if told is not None and self._is_younger(told, self._stale_s):
                return told.key
            raise ApiError(
                503,
                "API keys cannot be checked at the moment; try again",
                code="keys_unavailable",
                headers={"Retry-After": "1"},
            ) from None

    def _look_up(self, sha256: str, stored: StoredKeys) -> asyncio.Future[ApiKey | None]:
        if len(self._lookups) >= _MOST_LOOKUPS:
            raise StoreError("too many API keys are being looked up; try again")
        loop = asyncio.get_running_loop()
        lookup = loop.run_in_executor(self._threads, stored, sha256)
        self._lookups[sha256] = lookup
        lookup.add_done_callback(lambda done: self._looked_up(sha256, done))
        return lookup

    def _looked_up(self, sha256: str, lookup: asyncio.Future[ApiKey | None]) -> None:
        del self._lookups[sha256]
        if lookup.cancelled() or lookup.exception() is not None:
            return
        self._told[sha256] = _Told(key=lookup.result(), at=self._clock())
        self._told.move_to_end(sha256)
        if len(self._told) > self._remembered:
            self._told.popitem(last=False)

    def _is_younger(self, told: _Told, limit_s: float) -> bool:
        # A clock that was set back makes nothing younger.
        return 0 <= self._clock() - told.at < limit_s


@dataclass(frozen=True, slots=True, kw_only=True)
class _Told:
    """What the store said of one hash, and when."""

    key: ApiKey | None
    at: float


def _sent_key(authorization: str | None, x_api_key: str | None) -> str:
    if authorization is not None:
        scheme, _, key = authorization.strip().partition(" ")
        key = key.strip() if scheme.lower() == "bearer" else ""
    else:
        key = (x_api_key or "").strip()
    if not key:
        raise _unauthorised(
            "an API key is needed; send it in the header 'Authorization: Bearer …' or 'x-api-key'"
        )
    if len(key) > _LONGEST_KEY:
        raise _unauthorised("this API key is not valid")
    return key


def _unauthorised(message: str) -> ApiError:
    return ApiError(401, message, code="invalid_api_key", headers={"WWW-Authenticate": "Bearer"})


def _listed(variable: str) -> list[str]:
    keys = [key for part in secret(variable).split(",") if (key := part.strip())]
    if not keys:
        raise ConfigError(f"the environment variable {variable} holds no keys; wanted 'key,key,…'")
    return keys


def _configured_key(key: str) -> ApiKey:
    if not re.fullmatch(r"[!-~]+", key) or len(key) > _LONGEST_KEY:
        raise ConfigError(
            f"an API key for callers must be 1 to {_LONGEST_KEY} ASCII characters without spaces, "
            "as headers carry no others"
        )
    sha256 = _sha256(key)
    return ApiKey(
        id=f"env-{sha256[:8]}", name="configured", sha256=sha256, limits=KeyLimits(), created_at=0.0
    )


def _sha256(key: str) -> str:
    # Headers are decoded as Latin-1, so any character may come; none is left out.
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
