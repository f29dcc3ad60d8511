"""Tells another program what the flywheel noticed and decided."""

from __future__ import annotations

import asyncio
import hashlib
import json
import logging
from typing import Final

import stamina

from foretell.errors import UpstreamError
from foretell.records import Event

_logger = logging.getLogger(__name__)

_ATTEMPTS: Final = 4
_TIMEOUT_S: Final = 10.0
_AGAIN: Final = frozenset((408, 425, 429))
"""Statuses, besides those from 500 on, after which another attempt may help."""


class _TryAgainError(UpstreamError):
    """What another attempt may mend."""


class Webhook:
    """POSTs events as JSON to one address; counts, and never raises, what goes wrong.

    The body is ``{"schema_version": 1, "id", "kind", "subject", "at", "by", "details"}``. ``id``
    follows from the event itself and is the header ``Idempotency-Key``, too, so that whoever is
    told twice can tell. A redirect is not followed: the token is for this address alone. One
    thread at a time.
    """

    def __init__(
        self,
        url: str,
        token: str | None = None,
        *,
        timeout_s: float = _TIMEOUT_S,
        first_wait_s: float = 0.5,
    ) -> None:
        """What to tell, and how.

        Args:
            url: Where to.
            token: Sent as a bearer token, and nowhere else to be seen.
            timeout_s: Of one attempt.
            first_wait_s: After the first failed attempt of four; it doubles from one to the next.
        """
        self._url = url
        self._headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self._timeout_s = timeout_s
        self._first_wait_s = first_wait_s
        self.told = 0
        self.failed = 0

    def tell(self, event: Event) -> bool:
        """Whether the other side took the event, with a status of 2xx. Waits for it.

        ``told`` and ``failed`` count both. Not to be called from within an event loop.
        """
        try:
            asyncio.run(self._post(event))
        except UpstreamError as error:
            self.failed += 1
            _logger.warning("the webhook was not told of %r: %s", event.kind, error)
            return False
        self.told += 1
        return True

    async def _post(self, event: Event) -> None:
        fields = {
            "kind": event.kind,
            "subject": event.subject,
            "at": event.at,
            "by": event.by,
            "details": dict(event.details),
        }
        told = json.dumps(fields, sort_keys=True).encode()
        event_id = hashlib.sha256(told).hexdigest()[:32]
        body = json.dumps({"schema_version": 1, "id": event_id, **fields})
        headers = {
            **self._headers,
            "Content-Type": "application/json",
            "Idempotency-Key": event_id,
        }
        async for attempt in stamina.retry_context(
            on=_TryAgainError,
            attempts=_ATTEMPTS,
            timeout=None,
            wait_initial=self._first_wait_s,
            wait_max=10 * self._first_wait_s,
            wait_jitter=self._first_wait_s,
        ):
            with attempt:
                await self._attempt(body, headers)

    async def _attempt(self, body: str, headers: dict[str, str]) -> None:
        import aiohttp

        limit = aiohttp.ClientTimeout(total=self._timeout_s)
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.post(
                    self._url, data=body, headers=headers, allow_redirects=False
                ) as response,
            ):
                status = response.status
        except ValueError:
            # What an address holds may be a secret, too.
            raise UpstreamError("its address cannot be used; check flywheel.webhook") from None
        except TimeoutError:
            raise _TryAgainError(f"it gave no answer within {self._timeout_s:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            # The error's own text may repeat what was sent, headers too.
            raise _TryAgainError(f"it cannot be reached ({type(error).__name__})") from None
        if 200 <= status < 300:
            return
        kind = _TryAgainError if status >= 500 or status in _AGAIN else UpstreamError
        raise kind(f"it answered with status {status}; wanted 2xx")
