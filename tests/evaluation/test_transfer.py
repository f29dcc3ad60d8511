"""Domains joined for training, and left out one by one."""

import json
from dataclasses import dataclass, replace

import numpy as np
import pytest

from foretell.calibration import auroc
from foretell.errors import InputError, ProbeMismatchError, TrainingDataError
from foretell.evaluation._fits import without_outcomes
from foretell.evaluation._join import join_domains
from foretell.evaluation._transfer import leave_one_domain_out
from foretell.records import ReadPoint, TokenActivations
from foretell.routers import domain_router, length_router


@dataclass(frozen=True)
class MeanDifference:
    """The shortest probe there is: where successes lie, less where failures do."""

    name: str = "probe"
    sees: str = "prefill"
    direction: np.ndarray | None = None

    def fit(self, data, _rng):
        rows, right = data.activations[ReadPoint(2)], data.weak > 0.5
        return replace(self, direction=rows[right].mean(axis=0) - rows[~right].mean(axis=0))

    def score(self, data):
        assert data.weak.size == data.strong.size == 0
        return data.activations[ReadPoint(2)].astype(float) @ self.direction

    p_success = score


@pytest.fixture
def domains(make_data):
    """Two domains that activations show alike, and one where they say the opposite."""

    def side(first_seed, n):
        made = []
        for offset, name in enumerate(("alike", "also", "contrary")):
            data = make_data(n, seed=first_seed + offset)
            data = replace(data, domain=(name,) * n, attributes=({name: offset},) * n)
            made.append(replace(data, weak=1 - data.weak) if name == "contrary" else data)
        return made

    return side(20, 160), side(30, 120)


def test_what_is_alike_transfers_and_what_is_contrary_does_not(domains):
    train, test = map(join_domains, domains)
    told = []
    found = leave_one_domain_out(
        train, test, [MeanDifference(), MeanDifference("twin")], np.random.default_rng(0),
        resamples=200, progress=lambda done, total: told.append((done, total)),
    )  # fmt: skip
    assert told == [(done, 14) for done in range(1, 15)]
    rows = {(row.domain, row.router): row for row in found.rows}
    assert rows.keys() == {(d, r) for d in ("alike", "also", "contrary") for r in ("probe", "twin")}
    contrary = rows["contrary", "probe"].auroc
    assert contrary["own"].value > 0.75
    assert contrary["others"].high < 0.4
    assert all(interval.n == 120 for interval in contrary.values())
    assert found.mean["probe"]["own"].value == pytest.approx(
        np.mean([rows[d, "probe"].auroc["own"].value for d in ("alike", "also", "contrary")])
    )
    assert rows["contrary", "twin"].auroc == contrary
    mean = found.mean["probe"]["others"]
    assert mean.low < mean.value < mean.high
    assert mean.n == 360
    json.dumps(found.to_json(), allow_nan=False)


def test_own_training_is_fitting_on_that_domain_alone(domains):
    train, test = map(join_domains, domains)
    found = leave_one_domain_out(
        train, test, [MeanDifference()], np.random.default_rng(0), resamples=50
    )
    for domain in ("alike", "also", "contrary"):
        row = next(row for row in found.rows if row.domain == domain)
        mine, tested = (data.take(np.array(data.domain) == domain) for data in (train, test))
        others = train.take(np.array(train.domain) != domain)
        for training, data in (("own", mine), ("joint", train), ("others", others)):
            scores = MeanDifference().fit(data, None).score(without_outcomes(tested))
            expected = auroc(scores, tested.weak)
            assert row.auroc[training].value == pytest.approx(expected)


def test_knowing_the_domain_tells_nothing_about_one_that_was_left_out(domains):
    train, test = map(join_domains, domains)
    found = leave_one_domain_out(
        train, test, [domain_router()], np.random.default_rng(0), resamples=50
    )
    assert {row.auroc["others"].value for row in found.rows} == {0.5}


def test_a_fit_that_is_refused_says_why_and_the_rest_goes_on(domains):
    sides, test = domains
    sides[0] = replace(sides[0], weak=np.ones(len(sides[0])))
    train, test = join_domains(sides), join_domains(test)
    found = leave_one_domain_out(
        train, test, [length_router()], np.random.default_rng(0), resamples=50
    )
    row = next(row for row in found.rows if row.domain == "alike")
    assert row.auroc["own"].value is None
    assert "never fails" in row.refused["own"]
    assert row.auroc["others"].value is not None
    assert row.refused.keys() == {"own"}
    assert found.mean["length"]["own"].value is None
    assert found.mean["length"]["others"].value is not None
    json.dumps(found.to_json(), allow_nan=False)


def test_one_domain_is_too_few(domains, train, test_set):
    with pytest.raises(InputError, match=r"1 domains .*made up.* takes two or more"):
        leave_one_domain_out(train, test_set, [length_router()], np.random.default_rng(0))
    joined, test = join_domains(domains[0]), domains[1][0]
    with pytest.raises(InputError, match="1 domains have labelled queries"):
        leave_one_domain_out(joined, test, [length_router()], np.random.default_rng(0))
    with pytest.raises(InputError, match="each with its own name"):
        leave_one_domain_out(
            joined, test, [length_router(), length_router()], np.random.default_rng(0)
        )


def test_domains_of_different_models_are_not_joined(domains):
    one, two, _ = domains[0]
    other = replace(two, model=replace(two.model, weights_sha256="c" * 64))
    with pytest.raises(ProbeMismatchError, match="collect all of them on one model"):
        join_domains([one, other])
    joined = join_domains([replace(one, model=None), two])
    assert joined.model == two.model


def test_joining_keeps_every_row_as_it_was(domains):
    sets = domains[0]
    joined = join_domains(sets)
    start = 0
    for data in sets:
        part = joined.take(np.arange(start, start + len(data)))
        start += len(data)
        assert part.ids == tuple(f"{data.domain[0]}/{i}" for i in data.ids)
        assert (part.domain, part.texts, part.groups) == (data.domain, data.texts, data.groups)
        assert part.attributes == data.attributes
        np.testing.assert_array_equal(part.weak, data.weak)
        for point, rows in data.activations.items():
            np.testing.assert_array_equal(part.activations[point], rows)
    assert start == len(joined)
    alone = join_domains(sets[:1])
    np.testing.assert_array_equal(alone.strong, sets[0].strong)


def test_columns_that_some_domains_lack_are_unknown_there(domains):
    one, two, _ = domains[0]
    some = replace(one, first_entropy=np.ones(len(one)), weights=np.full(len(one), 2.0))
    joined = join_domains([some, two])
    assert np.isnan(joined.first_entropy[len(one) :]).all()
    assert (joined.first_entropy[: len(one)] == 1).all()
    assert set(joined.weights[len(one) :]) == {1.0}
    assert joined.first_margin.size == 0


def test_only_common_read_points_are_kept(domains):
    one, two, _ = domains[0]
    tokens = ReadPoint(1, "tokens")

    def with_tokens(data):
        rows = [np.full((1 + i % 3, 4), i, np.float32) for i in range(len(data))]
        return replace(data, sequences={tokens: TokenActivations.stack(rows)})

    fewer = {point: rows for point, rows in two.activations.items() if point.layer > 0}
    joined = join_domains([with_tokens(one), with_tokens(replace(two, activations=fewer))])
    assert set(joined.activations) == set(fewer)
    assert joined.sequences[tokens].query(len(one) + 2).tolist() == [[2.0] * 4] * 3
    assert join_domains([with_tokens(one), two]).sequences == {}
    with pytest.raises(TrainingDataError, match=r"no read point in common .*alike: .*also: none"):
        join_domains([one, replace(two, activations={})])
    with pytest.raises(TrainingDataError, match="no domains to join"):
        join_domains([])
