"""What to label next: the design, the lots, and what stays honest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.calibration import auroc
from foretell.errors import InputError
from foretell.flywheel import (
    DesignSpace,
    Exact,
    choose_queries,
    honest_sample,
    label_budget,
    label_domain,
)
from foretell.flywheel._design import most_helpful
from foretell.flywheel._design_space import text_features
from foretell.flywheel._lots import lot
from foretell.probes import LinearProbe
from foretell.records import (
    Answer,
    ModelIdentity,
    Observation,
    Outcome,
    Query,
    ReadPoint,
    RequestRecord,
    Usage,
)
from foretell.store import Store

DAY = 86_400.0
POINT = ReadPoint(4)
TINY = ModelIdentity(
    source="tiny",
    weights_sha256="a" * 64,
    chat_template_sha256="t" * 64,
    engine="tiny",
    n_layers=7,
    width=3,
)


@pytest.fixture
def store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as opened:
        yield opened


def answered(number, *, vector=None, right=True, split=None, text=None, origin="collected"):
    content = f"query number {number}" if text is None else text
    return Observation(
        domain="geo",
        query=Query(
            id=f"q{number:04}",
            messages=({"role": "user", "content": content},),
            reference="yes",
            split=split,
        ),
        role="weak",
        model=TINY,
        answer=Answer(
            text="yes" if right else "no",
            model="tiny",
            finish_reason="stop",
            usage=Usage(prompt_tokens=1, completion_tokens=1),
        ),
        activations={}
        if vector is None
        else {ReadPoint(layer): np.asarray(vector, np.float32) for layer in (1, 4, 6)},
        origin=origin,
    )


def many(count, *, rng=None, **options):
    rng = rng or np.random.default_rng(0)
    return [answered(i, vector=rng.normal(size=3), **options) for i in range(count)]


def choose(store, budget, **options):
    return choose_queries(store, "geo", budget, **{"metric": "exact", "now": 0.0, **options})


def naive(points, chances, labelled, candidates, weights, count, l2):
    """Greedy V-optimality with every inverse worked out anew."""
    design = np.column_stack([points, np.ones(len(points))])
    s = chances * (1 - chances)
    penalty = np.diag([*[l2] * points.shape[1], 1e-3])
    target = (design.T * (weights * s)) @ design

    def variance(rows):
        information = penalty + (design[rows].T * s[rows]) @ design[rows]
        return np.trace(np.linalg.solve(information, target))

    known, chosen = list(labelled), []
    for _ in range(count):
        left = [row for row in candidates if row not in chosen]
        chosen.append(min(left, key=lambda row: variance([*known, *chosen, row])))
    return chosen


@given(st.integers(0, 10_000), st.integers(0, 6))
@settings(max_examples=40)
def test_the_choice_is_that_of_a_naive_rewrite(seed, labelled):
    rng = np.random.default_rng(seed)
    points, chances = rng.normal(size=(25, 3)), rng.uniform(0.05, 0.95, 25)
    weights = rng.uniform(0.1, 1, 25)
    order = rng.permutation(25)
    known, candidates = order[:labelled], order[labelled:20]
    found = most_helpful(
        points, chances, labelled=known, candidates=candidates, weights=weights, count=5, l2=2.0
    )
    assert found.tolist() == naive(points, chances, known, candidates, weights, 5, 2.0)


def test_a_direction_that_is_known_already_helps_less():
    points = np.array([[3.0, 0], [3.1, 0], [0, 3.0], [0, 3.1]])
    chosen = most_helpful(
        points,
        np.full(4, 0.5),
        labelled=np.array([0]),
        candidates=np.array([1, 2, 3]),
        weights=np.ones(4),
        count=1,
        l2=1.0,
    )
    assert chosen[0] == 3


def test_a_row_near_one_half_helps_more_than_a_sure_one():
    chosen = most_helpful(
        np.array([[1.0], [1.0]]),
        np.array([0.99, 0.6]),
        labelled=np.empty(0, dtype=np.int64),
        candidates=np.array([0, 1]),
        weights=np.ones(2),
        count=2,
        l2=1.0,
    )
    assert chosen.tolist() == [1, 0]


def test_chosen_labels_teach_more_than_as_many_at_random_where_few_queries_are_telling():
    rng = np.random.default_rng(1)
    gains = []
    for _ in range(10):
        x = rng.normal(size=(700, 16)) * rng.gamma(0.5, 2, size=(700, 1))
        log_odds = (x / x.std(axis=0)) @ rng.normal(size=16) / 1.5
        y = (rng.uniform(size=700) < 1 / (1 + np.exp(-log_odds))).astype(float)
        x = x.astype(np.float32)
        probe = LinearProbe(read_point=POINT, l2=10.0)
        space, labels = DesignSpace(x[:500]), np.full(500, np.nan)
        for _ in range(3):
            picked = space.helpful(labels, np.flatnonzero(np.isnan(labels)), 20)
            labels[picked] = y[picked]
        chosen, drawn = (
            auroc(probe.fit_rows(x[rows], y[rows]).score(x[500:]), y[500:])
            for rows in (np.flatnonzero(np.isfinite(labels)), rng.permutation(500)[:60])
        )
        gains.append(chosen - drawn)
    assert np.mean(gains) > 0.02


def test_part_of_the_budget_is_drawn_by_lot_and_comes_in_turns(store):
    store.append(many(60, split="train"))
    choice = choose(store, 20, random_share=0.25)
    assert (len(choice.ids), len(set(choice.ids)), choice.waiting) == (20, 20, 60)
    assert choice.basis == "layer 4, last"
    lots = sorted((lot(f"q{i:04}", store.salt()), f"q{i:04}") for i in range(60))
    assert choice.at_random == tuple(query_id for _, query_id in lots[:5])
    assert sum(one in choice.at_random for one in choice.ids[:8]) == 2


def test_all_are_drawn_when_asked_and_more_than_there_are_cannot_be_chosen(store):
    store.append(many(10))
    assert choose(store, 4, strategy="random").at_random == choose(store, 4, random_share=1).ids
    assert len(choose(store, 99).ids) == 10
    assert choose(store, 5, candidates={"q0001"}).ids == ("q0001",)
    assert choose(store, 5, candidates=set()).ids == ()


def test_what_has_an_outcome_is_not_chosen_again_even_without_a_value(store):
    store.append(many(4))
    store.put_outcomes(
        [
            Outcome(
                domain="geo", query_id=f"q{i:04}", role="weak", metric="exact", value=value,
                source="code",
            )
            for i, value in enumerate([1.0, 0.0, None])
        ]
    )  # fmt: skip
    assert choose(store, 4).ids == ("q0003",)
    assert len(choose(store, 4, metric="other").ids) == 4


def test_the_test_side_is_labelled_by_lot_alone(store):
    store.append(many(40, split="test"))
    choice = choose(store, 20)
    assert (choice.basis, choice.at_random) == ("nothing", tuple(sorted(
        choice.at_random, key=lambda one: lot(one, store.salt())
    )))  # fmt: skip
    assert set(choice.ids) == set(choice.at_random)


def test_texts_are_compared_where_there_are_no_vectors(store):
    words = ["capital of Chad", "two plus two", "sort this list"]
    store.append([answered(i, text=f"{words[i % 3]} {i}", split="train") for i in range(30)])
    choice = choose(store, 3, random_share=0)
    assert choice.basis == "text"
    assert len({int(one[1:]) % 3 for one in choice.ids}) > 1


def test_without_vectors_and_texts_all_are_drawn(store):
    store.append([answered(i, text="", split="train") for i in range(9)])
    choice = choose(store, 4)
    assert (choice.basis, len(choice.at_random)) == ("nothing", 4)


def test_texts_without_letters_tell_nothing_apart():
    assert not text_features(["", " "]).any()
    assert text_features(["one two", "three"]).shape == (2, 1)
    assert not text_features(["alone"]).any()


def test_recent_requests_weigh_more(store):
    """Two directions, alike but for when they are asked about."""
    rng = np.random.default_rng(0)
    now = 200 * DAY
    for number in range(40):
        recent = number % 2 == 1
        at = now - (1 if recent else 150) * DAY
        vector = [*rng.normal(size=2) * ([0.1, 3] if recent else [3, 0.1]), 1.0]
        store.append([answered(number, vector=vector, split="train", origin="traffic")])
        store.append_requests(
            [
                RequestRecord(
                    id=f"q{number:04}", at=at, key_id="", route="auto", domain="geo", model="m",
                    serve="weak", action="keep", cause=None, status=200, streamed=False,
                )
            ]
        )  # fmt: skip

    def recent_share(half_life_days):
        choice = choose(store, 6, now=now, random_share=0, half_life_days=half_life_days)
        return sum(int(one[1:]) % 2 for one in choice.ids) / 6

    assert recent_share(10) > recent_share(1e6)


@pytest.mark.parametrize("options", [{"budget": 0}, {"random_share": 1.5}, {"half_life_days": 0.0}])
def test_options_out_of_range_are_refused(store, options):
    store.append(many(3))
    with pytest.raises(InputError, match="wanted a budget of 1 or more"):
        choose(store, **{"budget": 1, **options})


def test_a_budget_is_spent_in_batches_on_what_is_unlabelled(store):
    store.append([answered(i, vector=[i, i * i, 1], right=i % 3 > 0) for i in range(60)])
    seen = []
    spent = label_budget(
        store, "geo", Exact(), 30, now=0.0, batch=8, on_done=lambda: seen.append(1)
    )
    assert (spent.chosen, spent.waiting, len(seen)) == (30, 60, 30)
    assert spent.at_random >= 8
    weak = spent.counts["weak"]
    assert (weak.queries, weak.labelled) == (30, 30)
    assert weak.success_rate == pytest.approx(1 - weak.reasons["another text"] / 30)
    assert len(store.outcomes("geo")) == 1
    again = label_budget(store, "geo", Exact(), 99, now=0.0)
    assert (again.chosen, again.waiting) == (30, 30)
    nothing = label_budget(store, "geo", Exact(), 5, now=0.0)
    assert (nothing.chosen, nothing.counts["weak"].success_rate) == (0, None)


def test_queries_without_their_text_are_not_worth_a_label(store):
    store.append(many(5) + [answered(i, text="", origin="traffic") for i in range(5, 9)])
    assert label_budget(store, "geo", Exact(), 99, now=0.0).chosen == 5


def test_withheld_texts_are_passed_over_and_said_once(store, caplog):
    store.append(many(2) + [answered(i, text="", origin="traffic") for i in range(2, 5)])
    assert label_domain(store, "geo", Exact(), ["weak"])["weak"].queries == 2
    assert caplog.text.count("3 queries of domain 'geo' are stored without their text") == 1
    with pytest.raises(InputError, match="only feedback can label them"):
        label_domain(store, "geo", Exact(), only={"q0003"})


def test_the_honest_sample_is_what_was_labelled_before_the_first_untried(store):
    store.append(many(30))
    assert honest_sample(store, "geo", metric="exact").success_rate.value is None
    order = choose(store, 30, strategy="random").ids
    label_domain(store, "geo", Exact(), only={*order[:10], order[20]})
    sample = honest_sample(store, "geo", metric="exact")
    assert set(sample.ids) == set(order[:10])
    assert sample.chance == pytest.approx(lot(order[10], store.salt()))
    assert (sample.success_rate.value, sample.success_rate.n) == (1.0, 10)
    label_domain(store, "geo", Exact())
    assert (honest_sample(store, "geo", metric="exact").chance) == 1.0


def test_undecided_answers_of_the_sample_are_counted(store):
    store.append(many(6))
    order = choose(store, 6, strategy="random").ids
    label_domain(store, "geo", Exact(), only=set(order[1:3]))
    store.put_outcomes(
        [
            Outcome(
                domain="geo", query_id=order[0], role="weak", metric="exact", value=None,
                source="code",
            )
        ]
    )  # fmt: skip
    sample = honest_sample(store, "geo", metric="exact")
    assert (len(sample.ids), sample.undecided) == (2, 1)


def test_shares_of_the_sample_are_unbiased_however_the_rest_was_chosen():
    """As ``honest_sample`` does it, over all orders: the rest are failures alone."""
    rng = np.random.default_rng(0)
    right = np.arange(20) < 12
    helpful = np.flatnonzero(~right)[:5]  # labelled because they fail
    means = []
    for _ in range(8_000):
        order = rng.permutation(20)
        others = [row for row in order if row not in helpful]
        labelled = {*helpful.tolist(), *others[:6]}
        first_untried = next(i for i, row in enumerate(order) if row not in labelled)
        means.append(right[order[:first_untried]].mean())
    assert np.mean(means) == pytest.approx(right.mean(), abs=4 * np.std(means) / 89)


def test_other_models_answers_do_not_count_in_the_sample(store):
    store.append(many(3))
    label_domain(store, "geo", Exact())
    assert honest_sample(store, "geo", metric="exact", weak_model="another").ids == ()
