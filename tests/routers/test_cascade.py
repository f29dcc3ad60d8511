"""Two looks combined: the cascade is at least as good as either, and never sees itself."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from foretell.calibration import auroc
from foretell.routers import (
    CascadeRouter,
    RandomRouter,
    StageCosts,
    answer_logprob_router,
    first_token_entropy_router,
    length_router,
    make_router,
    two_stage_rule,
)


def generator():
    return np.random.default_rng(0)


def two_signals(make_data, n, seed):
    """Each of entropy and log-probability tells half of what decides the outcome."""
    draw = np.random.default_rng(seed).normal
    before, after = draw(size=n), draw(size=n)
    weak = (before + after + 0.3 * draw(size=n) > 0).astype(float)
    return replace(make_data(n, seed=seed), first_entropy=-before, answer_logprob=after, weak=weak)


def test_both_looks_together_beat_either(make_data):
    train, new = (two_signals(make_data, 400, seed) for seed in (1, 2))
    first, second = first_token_entropy_router(), answer_logprob_router()
    together = CascadeRouter(first=first, second=second).fit(train, generator()).score(new)
    alone = [router.fit(train, generator()).score(new) for router in (first, second)]
    assert auroc(together, new.weak) > 0.08 + max(auroc(score, new.weak) for score in alone)


def test_a_look_that_tells_nothing_changes_little(make_data):
    train, new = (two_signals(make_data, 400, seed) for seed in (1, 2))
    second = answer_logprob_router()
    cascade = CascadeRouter(first=RandomRouter(), second=second).fit(train, generator())
    alone = second.fit(train, generator()).score(new)
    assert auroc(cascade.score(new), new.weak) > auroc(alone, new.weak) - 0.02


@dataclass(frozen=True)
class Recorder:
    """A router that notes what it is fitted on and asked about."""

    fits: list
    name: str = "recorder"
    sees: str = "query"

    def fit(self, data, rng):
        rng.random()
        asked = []
        self.fits.append((data, asked))

        class Fitted:
            name = "recorder"

            def score(self, data):
                return np.zeros(len(data))

            def p_success(self, data):
                asked.append(data)
                return np.full(len(data), 0.5)

        return Fitted()


def test_no_group_is_looked_at_by_a_fit_that_saw_it(make_data):
    data, recorder = make_data(), Recorder(fits=[])
    CascadeRouter(first=recorder, second=length_router()).fit(data, generator())
    *on_folds, (everything, _) = recorder.fits
    assert everything.ids == data.ids
    held = [query for _, asked in on_folds for rows in asked for query in rows.ids]
    assert sorted(held) == sorted(data.ids)
    for seen, asked in on_folds:
        assert not {*seen.groups} & {group for rows in asked for group in rows.groups}


def test_held_out_chances_choose_bars_that_hold_on_new_queries(make_data):
    train, new = (two_signals(make_data, 600, seed) for seed in (1, 2))
    router = CascadeRouter(first=first_token_entropy_router(), second=answer_logprob_router())
    fitted = router.fit(train, generator())
    held_out = fitted.held_out
    assert held_out.ids == train.ids
    rule = two_stage_rule(
        held_out.first,
        held_out.combined,
        weak=train.weak,
        strong=np.ones(len(train)),
        costs=StageCosts(prefill=0.1, weak_answer=0.3, strong_answer=5.0),
        quality=0.9,
    )
    kept = rule.keeps(fitted.first.p_success(new), fitted.p_success(new))
    assert np.where(kept, new.weak, 1.0).mean() == pytest.approx(rule.quality, abs=0.05)
    assert 1 - kept.mean() == pytest.approx(rule.strong_share, abs=0.08)


def test_the_cascade_by_name_is_the_probe_and_then_the_answer():
    router = make_router("cascade")
    assert isinstance(router, CascadeRouter)
    assert (router.first.name, router.second.name) == ("probe", "answer_logprob")
    assert router.sees == "answer"
