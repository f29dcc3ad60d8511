"""Training on what a rule kept: biased, unless weights undo the choice."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from foretell.calibration import auroc
from foretell.flywheel import weak_success_rate
from foretell.policy import decide
from foretell.probes import FittedProbe, select_probe
from foretell.records import Estimate, ReadPoint, RoutingData, TrafficLog
from foretell.runtime import undo_selection

POINT = ReadPoint(3, "last")
EXPLORE = 0.05


def rows_of(activations: np.ndarray, weak: np.ndarray) -> RoutingData:
    n = len(weak)
    names = tuple(map(str, range(n)))
    return RoutingData(
        domain=("toy",) * n,
        ids=names,
        texts=names,
        groups=names,
        lengths=np.ones(n, dtype=np.int64),
        attributes=({},) * n,
        activations={POINT: activations.astype(np.float32)},
        weak=weak,
    )


def queries(n: int, rng: np.random.Generator) -> tuple[RoutingData, np.ndarray]:
    """With what the rule foretells of them.

    Where it keeps, a second direction foretells success; where it does not, failure. A linear
    probe has one slope for both.
    """
    x = rng.normal(size=(n, 4))
    odds = np.where(x[:, 0] > 0, x[:, 0] + x[:, 1], 4 * x[:, 0] - 3 * x[:, 1])
    weak = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(float)
    return rows_of(x, weak), 1 / (1 + np.exp(-x[:, 0]))


@dataclass
class World:
    everything: RoutingData
    seen: RoutingData
    log: TrafficLog
    new: RoutingData


@pytest.fixture(scope="module")
def world() -> World:
    rng = np.random.default_rng(0)
    data, p_success = queries(6_000, rng)
    decisions = [
        decide(
            Estimate(score=p, p_success=p, router="rule"),
            keep_at=0.5,
            explore=EXPLORE,
            draw=float(rng.random()),
        )
        for p in p_success
    ]
    by_weak = np.array([decision.serve == "weak" for decision in decisions])
    chance = np.array([decision.p_weak for decision in decisions])
    n = len(data)
    unknown, none = np.full(n, np.nan), ("",) * n
    log = TrafficLog(
        ids=data.ids,
        key_ids=none,
        actions=tuple(decision.action for decision in decisions),
        causes=none,
        probes=none,
        shadow_probes=none,
        weak_models=none,
        at=np.arange(n, dtype=np.float64),
        p_success=p_success,
        p_strong=unknown,
        keep_at=np.full(n, 0.5),
        weak_chance=chance,
        pair_chance=unknown,
        shadow_p_success=unknown,
        cost_usd=unknown,
        always_strong_usd=unknown,
        weak=np.where(by_weak, data.weak, np.nan),
        strong=unknown,
        served_weak=by_weak,
    )
    seen = replace(data, weak_chance=chance).take(by_weak)
    return World(everything=data, seen=seen, log=log, new=queries(6_000, rng)[0])


def probe_of(data: RoutingData) -> FittedProbe:
    return select_probe(
        data,
        kinds=("linear",),
        components=(4,),
        l2=(1.0,),
        shrink=(0.0,),
        nested=False,
        seed=0,
    ).probe


def judged(probe: FittedProbe, new: RoutingData) -> tuple[float, float]:
    """The AUROC on new queries, and by how much its chances are too high there."""
    ranks = auroc(probe.scores(new), new.weak)
    assert ranks is not None
    return ranks, float(probe.chances(new).mean() - new.weak.mean())


def test_a_probe_of_what_was_kept_is_too_sure_and_weights_undo_it(world: World):
    best, level = judged(probe_of(world.everything), world.new)
    naive, naive_off = judged(probe_of(world.seen), world.new)
    ours, off = judged(probe_of(undo_selection(world.seen)), world.new)
    assert naive < best - 0.05
    assert naive_off > level + 0.03
    assert abs(off - level) < 0.02
    # Fits go by bounded weights: in this world variance is no worry, and some is left undone.
    assert ours > naive + 0.04
    # Without the bound, all of it is won.
    certain = replace(undo_selection(world.seen), weak_chance=np.empty(0))
    assert judged(probe_of(certain), world.new)[0] > best - 0.01


def test_what_callers_chose_is_left_out_of_training(world: World):
    """Here whoever asked for the weak model asked what it gets right."""
    asked = replace(world.everything, weak_chance=np.full(len(world.everything), np.nan)).take(
        world.everything.weak == 1
    )
    renamed = replace(asked, ids=tuple(f"asked {name}" for name in asked.ids))
    assert len(undo_selection(renamed)) == 0


def test_the_success_rate_of_what_was_kept_is_too_high_and_the_estimates_are_not(world: World):
    truth = float(world.everything.weak.mean())
    value = weak_success_rate(world.log)
    assert value.naive.low is not None
    assert value.naive.low > truth + 0.1
    for one in (value.ips, value.snips, value.dr):
        assert one.low is not None
        assert one.high is not None
        assert one.low < truth < one.high
    assert value.strong_share == 0
