"""A bar rests on all that is labelled by now, not on what was when its probe was trained."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from foretell.probes import HeldOut, SavedProbe
from foretell.runtime import load_version, train_probe
from foretell.runtime._later_evidence import with_later_evidence
from foretell.store import Store

TRAINED = datetime(2100, 1, 1, tzinfo=UTC)  # after all that is stored


@pytest.fixture
def saved(labelled_store: Store, tmp_path: Path) -> SavedProbe:
    """Trained on the training side of the toy domain."""
    train_probe(labelled_store, "toy", tmp_path, now=TRAINED, nested=False, kinds=["linear"])
    return load_version(tmp_path, "toy", 1)


def extended(saved: SavedProbe, store: Store) -> HeldOut:
    return with_later_evidence(saved, (), store, strong_model=None)


def test_the_test_side_counts_as_the_probe_foretells_it(saved, labelled_store):
    found, n = extended(saved, labelled_store), len(saved.held_out.weak)
    (point,) = saved.probe.read_points
    test = labelled_store.load_routing_data("toy", split="test", read_points=[point])
    assert len(found.weak) == n + len(test)
    assert found.p_success[:n] == pytest.approx(saved.held_out.p_success)
    foretold = saved.probe.p_success(test.activations[point])
    assert found.p_success[n:] == pytest.approx(foretold)
    np.testing.assert_array_equal(found.weak[n:], test.weak)
    np.testing.assert_array_equal(found.strong[n:], test.strong)


def test_what_the_probe_was_trained_on_does_not_count_twice(saved, labelled_store):
    found, n = extended(saved, labelled_store), len(saved.held_out.weak)
    assert not set(found.groups[:n]) & set(found.groups[n:])


def test_each_part_is_thinned_to_its_own_smallest_chance(saved, labelled_store):
    """Trained where pairs were seen with 0.5 or more, and where 0.2 is the least since: 0.2."""
    n = len(saved.held_out.weak)
    seen = np.where(np.arange(n) % 2, 1.0, 0.5)
    old = replace(saved, held_out=replace(saved.held_out, pair_chance=seen))
    found = extended(old, labelled_store)
    assert found.pair_chance[:n] == pytest.approx(seen)
    assert found.pair_chance[n:] == pytest.approx(0.5)  # all were certain to be seen


def test_a_store_without_the_vectors_leaves_it_at_what_the_probe_brought(saved, tmp_path):
    with Store.open(f"sqlite:///{tmp_path / 'empty.db'}", tmp_path / "none") as store:
        assert extended(saved, store) is saved.held_out
