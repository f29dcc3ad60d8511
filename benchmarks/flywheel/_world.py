"""What was really asked and answered: two weak models' recordings, the strong one's, all judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np

from foretell.prefill.engines.recorded import write_recording
from foretell.records import Message, Observation, Role, Usage
from foretell.store import Store

Weak = Literal["q8", "q4"]

DOMAINS: Final = ("geo", "snips_field")
PLACES: Final[Mapping[Weak, str]] = {"q8": "weak-smollm2-135m", "q4": "weak-smollm2-q4_0"}
STRONG: Final = "strong-qwen-1.5b"
STRONG_NAME: Final = "qwen-1.5b"

_Key = tuple[str, str]
_Answers = tuple[dict[_Key, Observation], dict[_Key, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query of the day, with all that is known of it.

    ``right`` says whose answer was right: ``q8``, ``q4``, ``strong``; ``tokens`` what they took.
    """

    key: str
    domain: str
    messages: tuple[Message, ...]
    right: Mapping[str, float]
    tokens: Mapping[str, Usage]


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """The queries by domain, and where the recordings are.

    Recordings are ``q8``, ``q4``, ``strong``, and ``mute``: what ``q4`` does under the name of
    ``q8``, for a deployment that does not notice the swap.
    """

    queries: Mapping[str, tuple[Asked, ...]]
    recordings: Mapping[str, Path]


def make_world(collections: Path, folder: Path) -> World:
    """Write the recordings into ``folder``, and join what was collected and labelled.

    Only queries that all three models answered, and whose answers could all be judged, are used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    seen: dict[str, dict[_Key, Observation]] = {}
    right: dict[str, dict[_Key, float]] = {}
    for name, place in PLACES.items():
        with _open(collections / place) as store:
            seen[name], right[name] = _weak(store)
            if name == "q8":
                # collected beside the weak model's, from the recordings that foretell comes with
                geo, geo_right = _answers(store, "geo", "strong")
    with _open(collections / STRONG) as store:
        field, field_right = _answers(store, "snips_field", "strong")
    seen["strong"], right["strong"] = geo | field, geo_right | field_right
    keys = sorted(set.intersection(*(set(seen[name]) & set(right[name]) for name in seen)))
    seen["mute"] = {
        key: replace(seen["q4"][key], model=seen["q8"][key].model) for key in keys
    }  # everything but the name
    recordings = {name: folder / f"{name}.jsonl.gz" for name in seen}
    for name, path in recordings.items():
        if not path.exists():
            write_recording(
                path,
                [seen[name][key] for key in keys],
                model=STRONG_NAME if name == "strong" else None,
                context_tokens=2048,
            )
    queries = {
        domain: tuple(
            Asked(
                key=f"{domain}/{key[1]}",
                domain=domain,
                messages=seen["q8"][key].query.messages,
                right={name: right[name][key] for name in right},
                tokens={name: seen[name][key].answer.usage for name in right},
            )
            for key in keys
            if key[0] == domain
        )
        for domain in DOMAINS
    }
    return World(queries=queries, recordings=recordings)


def _open(folder: Path) -> Store:
    return Store.open(f"sqlite:///{folder / 'store.db'}", folder / "vectors")


def _weak(store: Store) -> _Answers:
    seen: dict[_Key, Observation] = {}
    right: dict[_Key, float] = {}
    for domain in DOMAINS:
        data = store.load_routing_data(domain, strong_model="")
        row_of = {query_id: row for row, query_id in enumerate(data.ids)}
        for one in store.observations(domain, "weak"):
            row = row_of.get(one.query.id)
            if row is not None and one.rollout == 0:
                vectors = {point: rows[row] for point, rows in data.activations.items()}
                seen[domain, one.query.id] = replace(one, activations=vectors)
        known = np.flatnonzero(np.isfinite(data.weak))
        right |= {(domain, data.ids[row]): float(data.weak[row]) for row in known}
    return seen, right


def _answers(store: Store, domain: str, role: Role) -> _Answers:
    seen = {
        (domain, one.query.id): replace(one, model=None, activations={})
        for one in store.observations(domain, role)
        if one.rollout == 0
    }
    right = {
        (domain, outcome.query_id): outcome.value
        for outcomes in store.outcomes(domain).values()
        for outcome in outcomes
        if outcome.role == role and outcome.value is not None
    }
    return seen, right
