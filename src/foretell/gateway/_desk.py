"""Where people judge answers over HTTP: the queue, their labels, and undo."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Protocol

from foretell.errors import RoutingError
from foretell.gateway._bodies import parse_json
from foretell.gateway._errors import ApiError
from foretell.gateway._fields import Field, query_field, query_limit, refuse_unknown
from foretell.gateway._gateway import LONG_STORE_S, Gateway
from foretell.store import Store

_MOST_ITEMS: Final = 200
_DEFAULT_ITEMS: Final = 20
_LONGEST: Final = 128
_LONGEST_NOTE: Final = 4096
_VERDICTS: Final = ("right", "wrong", "skip")


class LabelDesk(Protocol):
    """Hands out answers and takes what people say of them; the flywheel's side of this page."""

    def queue(
        self, store: Store, domain: str, *, metric: str, author: str, limit: int, now: float
    ) -> list[Mapping[str, Any]]:
        """Answers for this person to judge, the most useful first."""
        ...

    def put(
        self,
        store: Store,
        domain: str,
        labels: Sequence[Mapping[str, str]],
        *,
        metric: str,
        author: str,
    ) -> Mapping[str, Any]:
        """Keep labels, each with ``key``, ``verdict`` and ``note``; returns what came of them."""
        ...

    def undo(
        self, store: Store, domain: str, keys: Sequence[str], *, metric: str, author: str
    ) -> int:
        """Take this person's labels back, and return how many there were."""
        ...


async def queue(gateway: Gateway, query: Mapping[str, str]) -> dict[str, Any]:
    """What is to be judged."""
    desk = _desk(gateway)
    domain, metric, author = (_named(query, name) for name in ("domain", "metric", "author"))
    limit = query_limit(query, default=_DEFAULT_ITEMS, most=_MOST_ITEMS)
    now = gateway.clock()

    def work(store: Store) -> list[Mapping[str, Any]]:
        return desk.queue(store, domain, metric=metric, author=author, limit=limit, now=now)

    return {"object": "list", "data": await _with_store(gateway, work)}


async def put(gateway: Gateway, body: bytes) -> dict[str, Any]:
    """Keep what a person says; the answer comes once it is durable."""
    desk = _desk(gateway)
    raw = Field(parse_json(body))
    refuse_unknown(raw, ("domain", "metric", "author", "labels"), api="labels")
    domain, metric, author = (_name(raw, name) for name in ("domain", "metric", "author"))
    labels = [_label(item) for item in raw.need("labels").items()]

    def work(store: Store) -> Mapping[str, Any]:
        return desk.put(store, domain, labels, metric=metric, author=author)

    return {"object": "labels", **await _with_store(gateway, work)}


async def undo(gateway: Gateway, query: Mapping[str, str]) -> dict[str, Any]:
    """Take one label back."""
    desk = _desk(gateway)
    domain, metric, author, key = (
        _named(query, name) for name in ("domain", "metric", "author", "key")
    )

    def work(store: Store) -> int:
        return desk.undo(store, domain, [key], metric=metric, author=author)

    return {"object": "labels.deleted", "deleted": await _with_store(gateway, work)}


def _label(item: Field) -> dict[str, str]:
    refuse_unknown(item, ("key", "verdict", "note"), api="labels")
    note = item.get("note")
    return {
        "key": item.need("key").text(longest=_LONGEST, empty=False),
        "verdict": item.need("verdict").one_of(_VERDICTS),
        "note": "" if note is None else note.storable(longest=_LONGEST_NOTE),
    }


def _name(raw: Field, name: str) -> str:
    return raw.need(name).storable(longest=_LONGEST, empty=False)


def _named(query: Mapping[str, str], name: str) -> str:
    return query_field(query, name).storable(longest=_LONGEST, empty=False)


async def _with_store(gateway: Gateway, work: Any) -> Any:
    try:
        return await gateway.with_store(work, patience_s=LONG_STORE_S)
    except ApiError:
        raise
    except RoutingError as error:
        raise ApiError(400, str(error), code="invalid_value") from None


def _desk(gateway: Gateway) -> LabelDesk:
    if gateway.desk is None:
        raise ApiError(
            503, "nobody takes labels here; start it by 'foretell serve'", code="no_desk"
        )
    return gateway.desk
