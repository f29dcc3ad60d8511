"""The flywheel's people at the gateway's desk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, cast

from foretell.flywheel import (
    PeopleLabel,
    Verdict,
    people_queue,
    put_people_labels,
    take_back_people_labels,
)
from foretell.store import Store


class PeopleDesk:
    """A ``gateway.LabelDesk``: what people judge of traffic, by the flywheel's own rules."""

    def queue(
        self, store: Store, domain: str, *, metric: str, author: str, limit: int, now: float
    ) -> list[Mapping[str, Any]]:
        """Answers of the weak model, those that help most first."""
        found = people_queue(store, domain, metric, limit, author=author, now=now)
        return [asdict(item) for item in found]

    def put(
        self,
        store: Store,
        domain: str,
        labels: Sequence[Mapping[str, str]],
        *,
        metric: str,
        author: str,
    ) -> Mapping[str, Any]:
        """Keep labels."""
        said = [
            PeopleLabel(
                key=label["key"], verdict=cast("Verdict", label["verdict"]), note=label["note"]
            )
            for label in labels
        ]
        return asdict(put_people_labels(store, domain, said, metric=metric, author=author))

    def undo(
        self, store: Store, domain: str, keys: Sequence[str], *, metric: str, author: str
    ) -> int:
        """Take labels back."""
        return take_back_people_labels(store, domain, keys, metric=metric, author=author)
