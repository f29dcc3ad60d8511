"""The collected answers as columns: one weak model, one domain, the strong model's joined to it."""

from __future__ import annotations

import shlex
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
from _domains import load_domain
from collect import labeller_of

from foretell.config import RecordedModel
from foretell.flywheel import label_domain
from foretell.records import ReadPoint, RoutingData
from foretell.runtime import answering_key, collect, observer_of_model, open_model
from foretell.store import Store


def shown_command(words: Sequence[str], arguments: Namespace) -> str:
    """The command for others to repeat: folders of this machine by what they hold."""
    held = {str(getattr(arguments, n)): n.upper() for n in ("data", "models") if n in arguments}
    return shlex.join(["python", *(held.get(word, word) for word in words)])


@dataclass(frozen=True, slots=True)
class Place:
    """Where the collections are, and the public data sets."""

    collections: Path
    data: Path

    def store(self, role: str, model: str) -> Store:
        folder = self.collections / f"{role}-{model}"
        return Store.open(f"sqlite:///{folder / 'store.db'}", folder / "vectors")


def join_strong(place: Place, weak: str, strong: str, domain: str) -> None:
    """Copy the strong model's answers into the weak model's store and label them; repeatable."""
    with place.store("weak", weak) as store:
        described = load_domain(domain, place.data)
        known = {query.id for query in store.queries(domain)}
        if domain == "geo":
            # geo's strong answers come with foretell: recordings of the same model.
            recording = files("foretell.evaluation.domains") / "recordings" / "geo.jsonl.gz"
            model = open_model(
                "strong", RecordedModel(engine="recorded", path=Path(str(recording)))
            )
            collect(
                store,
                [q for q in described.queries if q.id in known and model.can_answer(q.messages)],
                observer_of_model(model),
                domain=domain,
                role="strong",
                key=answering_key(model),
                sampling=described.sampling,
            )
        elif (place.collections / f"strong-{strong}").is_dir():
            with place.store("strong", strong) as answers:
                store.append([o for o in answers.observations(domain) if o.query.id in known])
        label_domain(store, domain, labeller_of(described), roles=("strong",))


def load(
    place: Place,
    weak: str,
    domain: str,
    *,
    read_points: Sequence[ReadPoint] | None = None,
    tokens: bool = False,
) -> RoutingData:
    """All collected queries of a domain, those that nobody could judge left out."""
    with place.store("weak", weak) as store:
        if read_points is None:
            read_points = [
                point for point in store.read_points(domain) if tokens or point.pooling != "tokens"
            ]
        data = store.load_routing_data(domain, read_points=read_points)
    return data.take(np.isfinite(data.weak))


def splits(place: Place, data: RoutingData) -> tuple[RoutingData, RoutingData]:
    """Training and test queries, as the domains say."""
    test_ids = {
        query.id
        for domain in sorted(set(data.domain))
        for query in load_domain(domain, place.data).queries
        if query.split == "test"
    }
    test = np.array([query_id in test_ids for query_id in data.ids])
    return data.take(~test), data.take(test)
