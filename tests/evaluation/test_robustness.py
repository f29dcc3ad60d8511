"""Flips are counted, planted weaknesses are found, and numbers before and after are honest."""

import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.evaluation._confounder import optimise_confounder
from foretell.evaluation._intervals import Resamples
from foretell.evaluation._perturbations import PERTURBATIONS, append_text
from foretell.evaluation._robustness import flip_rate, robustness
from foretell.records import Query


def asked(n, *, start=0):
    names = ("Lyon", "Oslo", "Quito", "Accra", "Hanoi")
    return [
        Query(
            id=f"q{i}",
            group=f"g{i // 2}",
            messages=({"role": "user", "content": f"In which country is {names[i % 5]} {i}?"},),
        )
        for i in range(start, start + n)
    ]


def draws(n):
    return Resamples.draw([str(i) for i in range(n)], np.random.default_rng(0), 200)


def test_flips_are_counted_in_both_directions():
    # Kept at 0.5 or more: the first is given up, the third won, the others stay.
    found = flip_rate([0.6, 0.9, 0.4, 0.1], [0.4, 0.5, 0.5, 0.2], 0.5, draws(4))
    assert (found.flipped.value, found.to_escalate.value, found.to_keep.value) == (0.5, 0.25, 0.25)
    assert found.mean_change.value == pytest.approx((0.2 + 0.4 + 0.1 + 0.1) / 4)
    assert found.flipped.low <= 0.5 <= found.flipped.high


CHANCES = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=20)


@given(CHANCES, st.floats(0, 1))
def test_both_directions_add_up_and_changing_back_swaps_them(pairs, keep_at):
    before, after = np.array(pairs).T
    there = flip_rate(before, after, keep_at, draws(len(pairs)))
    back = flip_rate(after, before, keep_at, draws(len(pairs)))
    assert there.flipped.value == pytest.approx(there.to_escalate.value + there.to_keep.value)
    assert (there.to_escalate, there.to_keep) == (back.to_keep, back.to_escalate)
    assert there.mean_change == back.mean_change


@given(CHANCES, st.floats(0, 1))
def test_nothing_flips_when_nothing_changes(pairs, keep_at):
    chances = np.array(pairs)[:, 0]
    found = flip_rate(chances, chances, keep_at, draws(len(pairs)))
    assert found.flipped.value == found.mean_change.value == found.flipped.high == 0


def test_rounds_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="wanted one of each per query"):
        flip_rate([0.1, 0.2], [0.1], 0.5, draws(2))
    with pytest.raises(InputError, match="over 3 queries"):
        flip_rate([0.1, 0.2], [0.1, 0.2], 0.5, draws(3))


def by_case(queries):
    """A scorer that is easily fooled: it keeps what has a capital letter."""
    return np.array([0.9 if query.text != query.text.lower() else 0.1 for query in queries])


def test_a_scorer_that_looks_at_case_flips_under_lower_case_alone():
    queries = asked(20)
    rows = robustness(queries, by_case, 0.5, np.random.default_rng(0), resamples=100)
    assert [row.kind for row in rows] == list(PERTURBATIONS)
    flipped = {row.kind: row.flips.flipped.value for row in rows}
    assert flipped == dict.fromkeys(PERTURBATIONS, 0) | {"lower": 1}
    assert rows[0].flips.flipped.n == 20
    json.dumps([asdict(row) for row in rows], allow_nan=False)


def test_a_kinds_changes_do_not_depend_on_the_other_kinds():
    seen = []

    def score(queries):
        seen.append([query.text for query in queries])
        return np.zeros(len(queries))

    robustness(asked(5), score, 0.5, np.random.default_rng(0), resamples=10)
    robustness(asked(5), score, 0.5, np.random.default_rng(0), kinds=["typos"], resamples=10)
    assert seen[-1] == seen[1 + PERTURBATIONS.index("typos")]
    assert seen[-2] == seen[0]


def test_no_queries_are_refused():
    with pytest.raises(InputError, match="no queries to perturb"):
        robustness([], by_case, 0.5, np.random.default_rng(0))


WORDS = ("zebra", "apple", "stone", "river", "cloud", "paper", "green", "seven", "tiger", "music")


def weak_to_zebras(queries):
    """Each ``zebra`` makes a query look harder, each ``apple`` easier."""
    counts = [query.text.count("zebra") - query.text.count("apple") for query in queries]
    return 1 / (1 + np.exp(np.array(counts) - 1.5))


@pytest.mark.parametrize(
    ("direction", "word", "escalated"), [("escalate", "zebra", 1), ("keep", "apple", 0)]
)
def test_a_planted_weakness_is_found_and_holds_on_other_queries(direction, word, escalated):
    asks, others = asked(6), asked(10, start=100)
    found = optimise_confounder(
        weak_to_zebras, asks, WORDS, np.random.default_rng(0),
        keep_at=0.5, direction=direction, length=4, candidates=5, budget=3_000,
    )  # fmt: skip
    assert found.text == " ".join([word] * 4)
    assert found.evaluations <= 3_000
    assert (found.escalated_before, found.escalated_after) == (0, escalated)
    # Without any, 1.5 on the log-odds scale; with four, 1.5 less or more 4.
    assert found.p_before == pytest.approx(1 / (1 + np.exp(-1.5)))
    sign = 1 if direction == "keep" else -1
    assert found.p_after == pytest.approx(1 / (1 + np.exp(-1.5 - sign * 4)))
    changed = [append_text(query, found.text) for query in others]
    (row,) = robustness(
        others, weak_to_zebras, 0.5, np.random.default_rng(0), kinds=[], confounder=found
    )
    assert row.kind == "confounder"
    assert row.flips.to_escalate.value == np.mean(weak_to_zebras(changed) < 0.5)


def test_every_prompt_counts_against_the_budget():
    scored = []

    def score(queries):
        scored.extend(queries)
        return weak_to_zebras(queries)

    for budget in (12, 50, 300):
        scored.clear()
        found = optimise_confounder(
            score, asked(6), WORDS, np.random.default_rng(0),
            keep_at=0.5, candidates=3, budget=budget,
        )  # fmt: skip
        assert found.evaluations == len(scored) <= budget


@given(st.integers(0, 50))
def test_the_search_never_ends_worse_than_it_began(seed):
    def found(budget):
        return optimise_confounder(
            weak_to_zebras, asked(2), WORDS, np.random.default_rng(seed),
            keep_at=0.5, candidates=3, length=3, budget=budget,
        )  # fmt: skip

    assert found(100).p_after <= found(4).p_after


def test_an_immune_scorer_is_reported_as_such():
    def deaf(queries):
        return np.full(len(queries), 0.7)

    found = optimise_confounder(
        deaf, asked(3), WORDS, np.random.default_rng(0), keep_at=0.5, budget=500
    )
    assert found.p_before == found.p_after == pytest.approx(0.7)
    assert found.escalated_before == found.escalated_after == 0


def test_measuring_on_the_queries_it_was_optimised_on_is_refused():
    found = optimise_confounder(
        weak_to_zebras, asked(3), WORDS, np.random.default_rng(0), keep_at=0.5, budget=6
    )
    with pytest.raises(InputError, match="optimised on 1 of these queries, such as 'q2'"):
        robustness(
            asked(3, start=2), weak_to_zebras, 0.5, np.random.default_rng(0), confounder=found
        )


def test_what_cannot_be_searched_is_refused():
    rng = np.random.default_rng(0)
    for queries, words, length in (([], WORDS, 3), (asked(2), ["one"], 3), (asked(2), WORDS, 0)):
        with pytest.raises(InputError, match="cannot optimise over"):
            optimise_confounder(weak_to_zebras, queries, words, rng, keep_at=0.5, length=length)
    with pytest.raises(InputError, match="a budget of 5 prompts is not enough"):
        optimise_confounder(weak_to_zebras, asked(3), WORDS, rng, keep_at=0.5, budget=5)
