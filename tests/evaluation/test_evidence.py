from dataclasses import replace

import numpy as np
import pytest

from foretell.errors import InputError
from foretell.evaluation import evaluate_routers, gather_extras, gather_robustness
from foretell.records import Query
from foretell.routers import make_router


def test_the_evidence_beside_an_evaluation_is_gathered_in_one_go(
    evaluation, train, test_set, make_data, monkeypatch
):
    monkeypatch.setattr("foretell.evaluation._evidence._LEARNERS", ("tfidf",))
    foreign = make_data(60, seed=9)
    elsewhere = {
        point: rows + 500 * np.sign(np.arange(16) - 7.5)
        for point, rows in foreign.activations.items()
    }
    others = replace(foreign, domain=("elsewhere",) * 60, activations=elsewhere)
    extras = gather_extras(evaluation, train, test_set, np.random.default_rng(0), others=others)
    assert [row.quality for row in extras.guarantees] == [0.9, 0.95, 1.0]
    assert extras.gate.own.value < 0.2
    assert extras.gate.others["elsewhere"].value == 1.0
    assert extras.oracle.quality_at([1.0])[0] == pytest.approx(test_set.strong.mean())
    probe = extras.learning_curve.router("probe")
    assert probe.points[-1].labels == 200


def test_without_labels_of_the_strong_model_nothing_is_promised(
    evaluation, train, test_set, monkeypatch
):
    monkeypatch.setattr("foretell.evaluation._evidence._LEARNERS", ())
    alone = replace(train, strong=np.full(len(train), np.nan))
    extras = gather_extras(evaluation, alone, test_set, np.random.default_rng(0), learning=False)
    assert extras.guarantees == ()
    assert extras.learning_curve is None
    assert extras.gate is not None


def test_without_a_probe_only_the_oracle_is_left(train, test_set):
    rng = np.random.default_rng(0)
    compared = evaluate_routers(train, test_set, [make_router("length")], rng, resamples=50)
    extras = gather_extras(compared, train, test_set, rng)
    assert extras.oracle is not None
    assert (extras.gate, extras.guarantees, extras.learning_curve) == (None, (), None)


def by_length(queries):
    """A router that keeps short queries: easily pushed by an appended string."""
    return np.array([1 / (1 + np.exp((len(query.text) - 40) / 10)) for query in queries])


def some_queries(count):
    return [
        Query(id=str(i), messages=({"role": "user", "content": f"Where is town {i:03d}, say?"},))
        for i in range(count)
    ]


def test_the_attacked_queries_are_not_those_that_are_measured():
    rows, confounder = gather_robustness(
        some_queries(30), by_length, 0.5, np.random.default_rng(0), attacked=10, budget=200
    )
    assert confounder.query_ids == {str(i) for i in range(10)}
    by_kind = {row.kind: row.flips for row in rows}
    assert by_kind["confounder"].flipped.n == 20
    assert by_kind["confounder"].flipped.value == 1.0
    assert by_kind["upper"].flipped.value == 0.0


def test_too_few_queries_to_attack_and_measure_are_refused():
    with pytest.raises(InputError, match="no queries to perturb"):
        gather_robustness(some_queries(5), by_length, 0.5, np.random.default_rng(0), attacked=10)
