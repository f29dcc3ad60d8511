"""Queries are scored on the very activations that a collection would have stored."""

from dataclasses import dataclass

import numpy as np
import pytest

from foretell.errors import InputError, UnknownReadPointError
from foretell.evaluation._confounder import optimise_confounder
from foretell.evaluation._robustness import robustness
from foretell.evaluation._scoring import engine_scorer, text_scorer
from foretell.prefill.engines.tiny import TinyEngine
from foretell.records import Query, ReadPoint

LAST, TOKENS = ReadPoint(2, "last"), ReadPoint(1, "tokens")


def asked(n, *, start=0):
    return [
        Query(
            id=str(i),
            messages=(
                {"role": "user", "content": f"Where is number {'x' * (i % 7)}{i}?"},
                {"role": "assistant", "content": "In "},
            ),
            group=str(i),
            attributes={"digit": i % 10},
        )
        for i in range(start, start + n)
    ]


@dataclass
class Noting:
    """A fitted router that notes its data; its chance is a squashed sum of what it reads."""

    name: str = "noting"
    data: object = None

    def score(self, data):
        self.data = data
        read = data.activations.get(LAST)
        return np.zeros(len(data)) if read is None else read[:, :4].sum(axis=1).astype(float)

    def p_success(self, data):
        return 1 / (1 + np.exp(-self.score(data)))


@pytest.fixture
def engine():
    engine = TinyEngine()
    yield engine
    engine.close()


def test_what_a_router_sees_is_what_each_prefill_showed(engine):
    router, queries = Noting(), asked(9)
    score = engine_scorer(
        engine, router, sees="prefill", domain="numbers", read_points=(LAST, TOKENS), parallel=3
    )
    chances = score(queries)
    data = router.data
    assert chances.shape == (9,)
    assert (data.domain, data.model) == (("numbers",) * 9, engine.identity)
    assert data.ids == data.groups == tuple(query.id for query in queries)
    assert data.texts[3] == "Where is number xxx3?"
    assert data.attributes[3] == {"digit": 3}
    for row, query in enumerate(queries):
        prompt = engine.render(query.messages)
        with engine.prefill(prompt, (LAST, TOKENS)) as prefill:
            np.testing.assert_allclose(
                data.activations[LAST][row], prefill.activations[LAST], rtol=1e-4, atol=1e-5
            )
            np.testing.assert_allclose(
                data.sequences[TOKENS].query(row),
                prefill.activations[TOKENS],
                rtol=1e-4,
                atol=1e-5,
            )
            assert data.first_entropy[row] == pytest.approx(prefill.first_token.entropy)
            assert data.first_margin[row] == pytest.approx(prefill.first_token.margin)
        assert data.lengths[row] == prompt.own_tokens


def test_a_router_that_sees_the_query_alone_costs_no_prefill(engine):
    router = Noting()
    engine_scorer(engine, router, sees="query", domain="numbers", read_points=(LAST,))(asked(4))
    assert engine.layer_tokens == 0
    assert router.data.activations == {}
    expected = [engine.render(query.messages).own_tokens for query in asked(4)]
    assert router.data.lengths.tolist() == expected


def test_without_a_model_the_caller_counts_tokens():
    router = Noting()
    score = text_scorer(router, own_tokens=lambda query: len(query.text), domain="numbers")
    assert score(asked(3)).tolist() == [0.5] * 3
    assert router.data.lengths.tolist() == [len(query.text) for query in asked(3)]


def test_no_queries_have_no_chances(engine):
    for sees in ("query", "prefill"):
        score = engine_scorer(engine, Noting(), sees=sees, domain="d", read_points=(LAST, TOKENS))
        assert score([]).shape == (0,)


def test_a_router_that_needs_the_answer_is_refused(engine):
    with pytest.raises(InputError, match="'noting' needs the weak model's answer"):
        engine_scorer(engine, Noting(), sees="answer", domain="d")


def test_what_the_engine_raises_arrives(engine):
    score = engine_scorer(
        engine, Noting(), sees="prefill", domain="d", read_points=[ReadPoint(99, "last")]
    )
    with pytest.raises(UnknownReadPointError):
        score(asked(3))


def test_robustness_and_the_confounder_run_on_a_real_prefill(engine):
    score = engine_scorer(engine, Noting(), sees="prefill", domain="d", read_points=(LAST,))
    asks, others = asked(3), asked(8, start=50)
    keep_at = float(np.median(score(others)))
    found = optimise_confounder(
        score, asks, [f"w{i}" for i in range(20)], np.random.default_rng(0),
        keep_at=keep_at, length=3, candidates=4, budget=150,
    )  # fmt: skip
    rows = robustness(
        others, score, keep_at, np.random.default_rng(0), kinds=["upper", "typos"],
        confounder=found, resamples=50,
    )  # fmt: skip
    assert [row.kind for row in rows] == ["upper", "typos", "confounder"]
    assert all(row.flips.mean_change.value > 0 for row in rows)
