"""What ``previous_response_id`` goes on from: the messages of recent responses."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from foretell.gateway._errors import ApiError


class ResponseMemory:
    """Messages by response, each its caller's own; in memory alone, bounded in bytes and time.

    What is dropped is missing for good: a caller who goes on from it is told so, and can send the
    messages again.
    """

    def __init__(
        self, *, clock: Callable[[], float], max_bytes: int = 64 << 20, ttl_s: float = 3600.0
    ) -> None:
        self._clock = clock
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s
        self._bytes = 0
        self._kept: OrderedDict[tuple[str, str], tuple[float, bytes]] = OrderedDict()

    def keep(self, tenant: str, response_id: str, messages: Sequence[Mapping[str, Any]]) -> None:
        """Remember all messages up to and including a response."""
        packed = json.dumps(messages, separators=(",", ":")).encode()
        now = self._clock()
        _, replaced = self._kept.pop((tenant, response_id), (now, b""))
        self._kept[tenant, response_id] = (now, packed)
        self._bytes += len(packed) - len(replaced)
        while self._kept:
            at, oldest = next(iter(self._kept.values()))
            if self._bytes <= self._max_bytes and now - at <= self._ttl_s:
                return
            self._kept.popitem(last=False)
            self._bytes -= len(oldest)

    def messages(self, tenant: str, response_id: str) -> list[dict[str, Any]]:
        """All messages up to a response; raises ``ApiError`` (404) when it is not known."""
        found = self._kept.get((tenant, response_id))
        if found is None or self._clock() - found[0] > self._ttl_s:
            raise ApiError(
                404,
                "the response that this one goes on from is not known here (any more); send the "
                "earlier messages instead",
                code="previous_response_not_found",
                param="previous_response_id",
            )
        return json.loads(found[1])
