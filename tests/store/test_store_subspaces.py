"""Vectors that were reduced before they were stored come back at their full width."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

from foretell.errors import InputError, StoreError
from foretell.records import Basis, ReadPoint, Subspace
from foretell.store import Store, model_key

FIRST, SECOND = ReadPoint(0), ReadPoint(1, "mean")
POINTS = (FIRST, SECOND)


def subspace(name: str, direction: int) -> Subspace:
    """Of the activations, which have 4 numbers, one is kept at each read point."""
    axes = np.zeros((4, 1), dtype=np.float32)
    axes[direction] = 1
    basis = Basis(centre=np.full(4, 2.0), scale=np.full(4, 0.5), axes=axes, rest=np.empty(0))
    return Subspace(id=name, bases=dict.fromkeys(POINTS, basis))


ONE, OTHER = subspace("one", 0), subspace("other", 1)


@pytest.fixture
def reduced(observe):
    def make(query_id: str, to: Subspace = ONE, **fields):
        whole = observe(query_id, **fields)
        return replace(whole, activations=to.reduce(whole.activations), subspace=to.id)

    return make


def test_reduced_vectors_come_back_restored(any_store, observe, reduced):
    any_store.put_subspace(ONE.id, ONE.bases)
    any_store.append([reduced("1"), reduced("5")])
    data = any_store.load_routing_data("geo")
    expected = ONE.project({point: observe("5").activations[point] for point in POINTS})
    for point in POINTS:
        np.testing.assert_allclose(data.activations[point][1], expected[point], rtol=1e-3)
    np.testing.assert_array_equal(data.activations[FIRST][1], [5, 2, 2, 2])
    assert data.subspace is not None
    assert data.subspace.id == "one"
    assert any_store.read_points("geo") == list(POINTS)


def test_whole_vectors_among_reduced_ones_cannot_be_told_apart(any_store, observe, reduced, caplog):
    any_store.put_subspace(ONE.id, ONE.bases)
    any_store.append([observe("1"), reduced("5"), observe("9")])
    with caplog.at_level(logging.INFO):
        data = any_store.load_routing_data("geo")
    assert "are projected on the subspace one" in caplog.text
    np.testing.assert_array_equal(
        data.activations[FIRST], [[1, 2, 2, 2], [5, 2, 2, 2], [9, 2, 2, 2]]
    )


def test_whole_vectors_alone_stay_whole(any_store, observe, reduced):
    any_store.put_subspace(ONE.id, ONE.bases)
    any_store.append([observe("1"), reduced("5", origin="traffic")])
    data = any_store.load_routing_data("geo", origins=["collected"])
    np.testing.assert_array_equal(data.activations[FIRST], [[1, 2, 3, 4]])
    assert data.subspace is None


def test_of_several_subspaces_that_of_most_rows_counts(any_store, reduced, observe, caplog):
    for one in (ONE, OTHER):
        any_store.put_subspace(one.id, one.bases)
    any_store.append([reduced("1"), reduced("2"), reduced("3", OTHER), observe("4")])
    data = any_store.load_routing_data("geo")
    assert data.ids == ("1", "2", "4")
    assert data.subspace is not None
    assert data.subspace.id == "one"
    assert "1 of 4 queries of domain 'geo' are left out" in caplog.text
    by_hand = any_store.load_routing_data("geo", read_points=[FIRST])
    assert by_hand.ids == data.ids
    assert any_store.load_routing_data("geo", read_points=[]).ids == ("1", "2", "3", "4")


def test_recent_vectors_say_what_they_were_reduced_to(any_store, reduced, served, identity):
    any_store.put_subspace(ONE.id, ONE.bases)
    key = model_key(identity)
    any_store.append_traffic([served(one, at=float(one), weak_model=key) for one in "12"])
    any_store.append([reduced(one, origin="traffic") for one in "12"])
    recent = any_store.recent_vectors("geo", limit=10)
    np.testing.assert_array_equal(recent.activations[FIRST], [[1, 2, 2, 2], [2, 2, 2, 2]])
    assert recent.subspace is not None
    assert recent.subspace.id == "one"


def test_a_subspace_that_is_kept_already_stays_as_it_is(tmp_path, store, reduced):
    store.put_subspace("one", ONE.bases)
    store.put_subspace("one", OTHER.bases)
    store.append([reduced("5")])
    with Store.open(f"sqlite:///{tmp_path}/foretell.db", tmp_path / "vectors") as again:
        np.testing.assert_array_equal(
            again.load_routing_data("geo").activations[FIRST], [[5, 2, 2, 2]]
        )


def test_reduced_vectors_without_their_subspace_are_an_error_not_a_guess(store, reduced):
    store.append([reduced("5")])
    with pytest.raises(StoreError, match=r"cannot read the subspace .*one\.safetensors"):
        store.load_routing_data("geo")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "x" * 65])
def test_a_subspace_needs_a_plain_name(store, name):
    with pytest.raises(InputError, match="wanted a name of letters and digits"):
        store.put_subspace(name, ONE.bases)
    with pytest.raises(InputError, match="has 0 bases"):
        store.put_subspace("good", {})


def test_erasing_rows_of_reduced_vectors_keeps_the_others_reduced(any_store, reduced):
    any_store.put_subspace(ONE.id, ONE.bases)
    any_store.append([reduced(one, origin="traffic") for one in "123"])
    any_store.erase(request_ids=["2"])
    any_store.compact()
    data = any_store.load_routing_data("geo")
    np.testing.assert_array_equal(data.activations[FIRST], [[1, 2, 2, 2], [3, 2, 2, 2]])
