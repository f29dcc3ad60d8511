"""What was really asked and answered: two weak models' recordings, the strong one's, all judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np

from foretell.config import RecordedModel
from foretell.prefill.engines.recorded import write_recording
from foretell.records import Message, Observation, Usage
from foretell.runtime import open_model
from foretell.store import Store

DOMAINS = ("geo", "snips_field")
WEAK = {"q8": "weak-smollm2-135m", "q4": "weak-smollm2-q4_0"}
STRONG = "strong-qwen-1.5b"
STRONG_NAME = "qwen-1.5b"


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
    """The queries by domain, and where the recordings are."""

    queries: Mapping[str, tuple[Asked, ...]]
    recordings: Mapping[str, Path]


def make_world(collections: Path, folder: Path) -> World:
    """Write the recordings into ``folder``, and join what was collected and labelled.

    Only queries that all three models answered, and whose answers could all be judged, are used.
    """
    folder.mkdir(parents=True, exist_ok=True)
    recordings = {name: folder / f"{name}.jsonl.gz" for name in (*WEAK, "strong")}
    seen: dict[str, dict[tuple[str, str], Observation]] = {}
    right: dict[str, dict[tuple[str, str], float]] = {}
    for name, place in WEAK.items():
        with Store.open(f"sqlite:///{collections / place / 'store.db'}", collections / place / "vectors") as store:
            seen[name], right[name] = _weak(store)
            if name == "q8":
                strong, strong_right = _strong_geo(store)
    with Store.open(f"sqlite:///{collections / STRONG / 'store.db'}", collections / STRONG / "vectors") as store:
        field, field_right = _answers(store, "snips_field", "strong")
    seen["strong"] = strong | field
    right["strong"] = strong_right | field_right
    names = tuple(recordings)
    keys = sorted(
        set.intersection(*(set(seen[name]) & set(right[name]) for name in names)),
    )
    for name in names:
        if not recordings[name].exists():
            write_recording(
                recordings[name],
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
                right={name: right[name][key] for name in names},
                tokens={name: seen[name][key].answer.usage for name in names},
            )
            for key in keys
            if key[0] == domain
        )
        for domain in DOMAINS
    }
    return World(queries=queries, recordings=recordings)


def _weak(store: Store):
    seen: dict[tuple[str, str], Observation] = {}
    right: dict[tuple[str, str], float] = {}
    for domain in DOMAINS:
        data = store.load_routing_data(domain)
        row_of = {query_id: row for row, query_id in enumerate(data.ids)}
        for one in store.observations(domain, "weak"):
            row = row_of.get(one.query.id)
            if row is not None and one.rollout == 0:
                vectors = {point: rows[row] for point, rows in data.activations.items()}
                seen[domain, one.query.id] = replace(one, activations=vectors)
        known = np.flatnonzero(np.isfinite(data.weak))
        right |= {(domain, data.ids[row]): float(data.weak[row]) for row in known}
    return seen, right


def _strong_geo(store: Store):
    """The strong model's answers to geo come with foretell, and were labelled when collected."""
    recording = files("foretell.evaluation.domains") / "recordings" / "geo.jsonl.gz"
    model = open_model("strong", RecordedModel(engine="recorded", path=Path(str(recording))))
    model.close()
    return _answers(store, "geo", "strong")


def _answers(store: Store, domain: str, role):
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
