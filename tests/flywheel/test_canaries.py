from __future__ import annotations

import numpy as np
import pytest

from foretell.errors import InputError
from foretell.flywheel import INJECTIONS, Contains, Label, try_canaries
from foretell.records import Query

QUERIES = [
    Query(id=str(i), messages=({"role": "user", "content": "?"},), reference="Lyon")
    for i in range(5)
]


class Gullible:
    metric = "gullible"

    def __init__(self, believes):
        self._believes = believes
        self.seen = []

    def check(self, queries):
        pass

    def label(self, query, answer):
        self.seen.append((query.id, answer.text))
        return Label(self._believes(answer.text), "")


def try_on(labeller, count=20, seed=0):
    return try_canaries(labeller, QUERIES, count, np.random.default_rng(seed))


def test_the_share_that_was_fooled_has_an_interval_and_names_what_got_through():
    found = try_on(Gullible(lambda text: float("SUCCESS" in text)))
    assert (found.fooled.value, found.fooled.n) == (2 / 20, 20)
    assert found.fooled.low < 0.1 < found.fooled.high
    assert found.injections == {INJECTIONS[-1]: 2}
    assert found.unlabelled == 0


def test_a_labeller_that_cannot_be_talked_round_is_not_fooled():
    found = try_on(Contains())
    assert found.fooled.value == 0
    assert found.injections == {}


def test_what_was_not_labelled_is_counted_and_no_proof():
    found = try_on(Gullible(lambda _: None))
    assert found.fooled.value is None
    assert (found.fooled.n, found.unlabelled) == (0, 20)


def test_queries_and_injections_take_turns_the_same_way_for_a_seed():
    first, again, other = Gullible(lambda _: 0.0), Gullible(lambda _: 0.0), Gullible(lambda _: 0.0)
    try_on(first)
    try_on(again)
    try_on(other, seed=1)
    assert first.seen == again.seen != other.seen
    assert all(sum(one == query.id for one, _ in first.seen) == 4 for query in QUERIES)
    assert {text for _, text in first.seen} == {*INJECTIONS}


def test_there_must_be_something_to_try():
    with pytest.raises(InputError, match="count is 0"):
        try_on(Contains(), count=0)
    with pytest.raises(InputError, match="at least one query"):
        try_canaries(Contains(), [], 3, np.random.default_rng(0))
