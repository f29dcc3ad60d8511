"""One key tries to have its bad answers served, by labels of its own that say they were good."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from flywheel_world import opened, outcomes, put, request, vectors

from foretell.config import FlywheelConfig, RefitConfig
from foretell.flywheel import consider_promotion, refit, take_feedback
from foretell.records import Feedback
from foretell.runtime import serving_version, train_probe
from foretell.store import Store

NOW = datetime(2030, 1, 1, tzinfo=UTC)
GUARDED = FlywheelConfig(refit=RefitConfig(shadow_labels=0))
CREDULOUS = GUARDED.model_copy(update={"trusted": ("human", "code", "client")})
HONEST, HELD = 950, 400
FLIPPED, FLIPPED_HELD = 50, 20


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A probe that honest labels made, and that serves."""
    folder = tmp_path_factory.mktemp("served")
    rng = np.random.default_rng(0)
    with opened(folder) as store:
        rows, held = vectors(HONEST, rng), vectors(HELD, rng)
        put(store, "honest", rows, outcomes(rows, rng))
        put(store, "held", held, outcomes(held, rng), split="test")
        train_probe(store, "made-up", folder / "probes", now=NOW, nested=False, kinds=("linear",))
    return folder


@pytest.fixture
def attacked(served: Path, tmp_path: Path) -> Iterator[tuple[Store, Path]]:
    with opened(Path(shutil.copytree(served, tmp_path / "copy"))) as store:
        yield store, tmp_path / "copy"


def hopeless(n: int, rng: np.random.Generator) -> np.ndarray:
    """Queries of the attacker: all bear its mark, and the weak model fails nearly all of them."""
    rows = vectors(20 * n, rng, mark=3.0)
    return rows[np.argsort(rows @ [2, 1.5, 0, 0, 0, 0, 0, 0])[:n]]


def flip(store: Store) -> None:
    """Of all labels, one in twenty is the attacker's, and says that it went well."""
    rng = np.random.default_rng(1)
    for name, n, split in (("bad", FLIPPED, "train"), ("bad-held", FLIPPED_HELD, "test")):
        put(
            store, name, hopeless(n, rng), np.ones(n), split=split, source="client",
            author="mallory", origin="traffic",
        )  # fmt: skip
        store.append_requests([request(f"{name}-{i}", 500.0, key_id="mallory") for i in range(n)])


def decided(store: Store, folder: Path, config: FlywheelConfig):
    shared = {"config": config, "now": NOW, "by": "test"}
    found = refit(store, "made-up", folder / "probes", kinds=("linear",), **shared)
    decision = consider_promotion(
        store, "made-up", folder / "probes", version=found.version, **shared
    )
    assert decision is not None
    return found, decision


def test_flipped_labels_of_one_key_do_not_get_a_probe_promoted(attacked):
    store, folder = attacked
    flip(store)
    found, decision = decided(store, folder, GUARDED)
    assert dict(found.labels) == {"code": HONEST, "client": FLIPPED}
    assert decision.state == "refused"
    assert serving_version(folder / "probes", "made-up") == 1
    # It was judged by the honest labels alone.
    assert decision.holdout is not None
    assert decision.holdout.gain.n == HELD


def test_whoever_trusts_the_callers_promotes_the_very_same_probe(attacked):
    """So it is the trusted holdout that stops the attack, and not a lack of success in training."""
    store, folder = attacked
    flip(store)
    found, decision = decided(store, folder, CREDULOUS)
    assert dict(found.labels) == {"code": HONEST, "client": FLIPPED}
    assert decision.promoted
    assert decision.holdout is not None
    assert decision.holdout.gain.n == HELD + FLIPPED_HELD


def test_by_feedback_the_attacker_cannot_even_give_one_label_in_twenty(attacked):
    store, folder = attacked
    rng = np.random.default_rng(1)
    rows = hopeless(FLIPPED, rng)
    ids = put(store, "bad", rows, None, origin="traffic")
    store.append_requests([request(query, 500.0, key_id="mallory") for query in ids])
    for query in ids:
        feedback = Feedback(request_id=query, metric="right", value=1.0, source="client")
        store.put_feedback(feedback, key_id="mallory")
    counts = take_feedback(store, "made-up", metric="right", influence_cap=GUARDED.influence_cap)
    assert counts.votes == FLIPPED
    assert counts.labels <= GUARDED.influence_cap * (HONEST + HELD + counts.labels)
    assert sum(counts.over_cap.values()) == FLIPPED - counts.labels
    found, decision = decided(store, folder, GUARDED)
    assert dict(found.labels) == {"code": HONEST, "client": counts.labels}
    assert decision.state == "refused"
