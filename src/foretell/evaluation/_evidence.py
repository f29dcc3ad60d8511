"""Everything about one probe that the comparison of routers leaves out, gathered in one go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.evaluation._confounder import Confounder, optimise_confounder
from foretell.evaluation._evaluation import Evaluation
from foretell.evaluation._extras import Extras
from foretell.evaluation._fits import labelled
from foretell.evaluation._gate_evidence import GateEvidence, gate_evidence
from foretell.evaluation._guarantees import GuaranteeRow, guarantee_rows
from foretell.evaluation._learning_curve import LearningCurve, learning_curve
from foretell.evaluation._oracle import oracle_curve
from foretell.evaluation._robustness import RobustnessRow, robustness
from foretell.evaluation._scoring import Score
from foretell.probes import Selection, fit_heads, spare_one_core
from foretell.records import Query, RoutingData
from foretell.routers import FittedProbeRouter, ProbeRouter, make_router
from foretell.runtime import fit_gate_of, held_out_of, pooled_points

_LEARNERS: Final = ("tfidf", "embedding")
_WORDS_OF: Final = 500


def gather_extras(
    evaluation: Evaluation,
    train: RoutingData,
    test: RoutingData,
    rng: np.random.Generator,
    *,
    others: RoutingData | None = None,
    learning: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Extras:
    """Guarantees, gate, oracle and learning curve beside an evaluation on the same two sets.

    The learning curve is that of a linear probe at the read point chosen on all training queries,
    and of two baselines. What the evaluation has no probe for is left out.

    Args:
        evaluation: Of the router named ``probe`` among others, fitted on ``train``.
        train: What the routers were fitted on.
        test: What they were compared on.
        rng: Decides folds, draws and resamples.
        others: Queries of other domains, for the gate to decline.
        learning: Whether to draw the learning curve, which takes many fits.
        progress: Told (done, total) of the learning curve's fits.
    """
    for_curve, for_promises, for_gate = rng.spawn(3)
    probe = evaluation.fitted.get("probe")
    oracle = oracle_curve(test)
    if not isinstance(probe, FittedProbeRouter) or probe.selection is None:
        return Extras(oracle=oracle)
    with spare_one_core():
        return Extras(
            oracle=oracle,
            guarantees=_promises(probe, probe.selection, labelled(train), test, for_promises),
            gate=_gate(probe.selection, labelled(train), test, for_gate, others),
            learning_curve=_learning(probe.selection, train, test, for_curve, progress)
            if learning
            else None,
        )


def gather_robustness(
    queries: Sequence[Query],
    score: Score,
    keep_at: float,
    rng: np.random.Generator,
    *,
    attacked: int = 12,
    budget: int = 600,
) -> tuple[tuple[RobustnessRow, ...], Confounder]:
    """Flip rates of a router under every change, a string optimised against it the last.

    Args:
        queries: Held-out queries; the first ``attacked`` of them serve to find the string, the
            others to measure.
        score: Queries to chances, see ``engine_scorer`` and ``text_scorer``.
        keep_at: Chance from which a query is kept.
        rng: Decides changes, the search and resamples.
        attacked: Queries that the string is optimised on.
        budget: Prompts that the search may score.

    Raises:
        InputError: Not more queries than are attacked.
    """
    for_attack, for_changes = rng.spawn(2)
    words = sorted({word for query in queries for word in query.text.split()})[:_WORDS_OF]
    confounder = optimise_confounder(
        score,
        queries[:attacked],
        words,
        for_attack,
        keep_at=keep_at,
        length=6,
        candidates=8,
        budget=budget,
    )
    rows = robustness(queries[attacked:], score, keep_at, for_changes, confounder=confounder)
    return rows, confounder


def _promises(
    probe: FittedProbeRouter,
    selection: Selection,
    train: RoutingData,
    test: RoutingData,
    rng: np.random.Generator,
) -> tuple[GuaranteeRow, ...]:
    if not np.isfinite(train.strong).any():
        return ()
    heads = fit_heads(train, pooled_points(selection), folds=selection.folds, seed=selection.seed)
    strong = heads.heads.strong
    foretold: NDArray[np.float64] | None = None
    if strong is not None:
        foretold = np.asarray(strong.p_strong(test.activations[strong.read_point]))
    return guarantee_rows(
        held_out_of(selection, train, heads), test, probe.p_success(test), rng, p_strong=foretold
    )


def _gate(
    selection: Selection,
    train: RoutingData,
    test: RoutingData,
    rng: np.random.Generator,
    others: RoutingData | None,
) -> GateEvidence | None:
    gate = fit_gate_of(selection, train)
    return None if gate is None else gate_evidence(gate, test, rng, others=others)


def _learning(
    selection: Selection,
    train: RoutingData,
    test: RoutingData,
    rng: np.random.Generator,
    progress: Callable[[int, int], None] | None,
) -> LearningCurve:
    point = selection.chosen.read_point
    routers = [
        ProbeRouter(kinds=("linear",), read_points=(point,)),
        *(make_router(name) for name in _LEARNERS),
    ]
    return learning_curve(
        train.read_at(point), test.read_at(point), routers, rng, progress=progress
    )
