"""What is learnt from traffic of which only the kept part shows the weak model's answer?

    nice -n 10 python benchmarks/selective.py --collections .cache/quality --json

Traffic is drawn, with replacement, from collected queries whose outcomes are all known. A TF-IDF
router fitted on 150 of them serves, at a bar that keeps half, and 2 % of its decisions are
flipped. What that log shows is then held against the truth:

- ``estimates``: the weak model's success rate, the accuracy of another rule, the router's AUROC.
- ``training``: probes fitted on what was seen and the 150, against one that sees every outcome;
  all are judged on queries of other groups, whose outcomes are all known.

Each seed is another split and another router; of each router there are twenty logs to estimate by.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import stdtrit

from _machine import describe_machine, show
from foretell.calibration import Platt, auroc, brier, expected_calibration_error
from foretell.evaluation import Interval
from foretell.flywheel import estimate_accuracy, selected_auroc, weak_success_rate
from foretell.policy import Exploration, nearness
from foretell.probes import LinearProbe, bound_weights
from foretell.probes._folds import folds_of, others
from foretell.records import ReadPoint, RoutingData, TrafficLog
from foretell.routers import make_router
from foretell.store import Store

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

POINT = ReadPoint(15, "last")
PROBE = LinearProbe(read_point=POINT, components=64, l2=100.0)
COLLECTED = 150
RATE = 0.02
AIMED = 0.5
CONFIDENCE = 0.9
LOG_SIZES = (1_000, 3_000, 10_000)
LOGS = 20
"""Of each size, for each router that served."""
TRAINING_SIZES = (10_000, 40_000, 160_000)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Served:
    """How a rule serves each of some queries, (n,); it has seen the ``collected`` rows."""

    collected: Rows
    p_success: Floats
    bar: float
    weak_chance: Floats


def served(data: RoutingData, rng: np.random.Generator, *, aimed: float = 0.0) -> Served:
    """By a router that has seen some of the queries."""
    collected = rng.choice(len(data), COLLECTED, replace=False)
    p_success = text_router(data, collected)
    bar = float(np.median(p_success))
    near = float(np.mean([nearness(p, bar, width=0.1) for p in p_success]))
    explore = Exploration(rate=RATE, aimed=aimed, near=near)
    rates = np.array([explore.rate_at(p, bar) for p in p_success])
    return Served(
        collected=collected,
        p_success=p_success,
        bar=bar,
        weak_chance=np.where(p_success >= bar, 1 - rates, rates),
    )


def text_router(data: RoutingData, collected: Rows) -> Floats:
    """Chances by TF-IDF, fitted on the collected queries."""
    queries = replace(data, activations={})
    router = make_router("tfidf").fit(queries.take(collected), np.random.default_rng(0))
    return router.p_success(queries)


def log_of(data: RoutingData, rule: Served, rows: Rows, weak: NDArray[np.bool_]) -> TrafficLog:
    """A log of requests as a gateway keeps it: one outcome each."""
    n = len(rows)
    unknown, none = np.full(n, np.nan), ("",) * n
    return TrafficLog(
        ids=tuple(str(i) for i in range(n)),
        key_ids=none,
        actions=none,
        causes=none,
        probes=none,
        shadow_probes=none,
        weak_models=none,
        at=np.arange(n, dtype=np.float64),
        p_success=rule.p_success[rows],
        p_strong=unknown,
        keep_at=np.full(n, rule.bar),
        weak_chance=rule.weak_chance[rows],
        pair_chance=unknown,
        shadow_p_success=unknown,
        cost_usd=unknown,
        always_strong_usd=unknown,
        weak=np.where(weak, data.weak[rows], np.nan),
        strong=np.where(weak, np.nan, data.strong[rows]),
        served_weak=weak,
    )


def estimate(data: RoutingData, seeds: int) -> dict[str, Any]:
    """How far estimates are from the truth, and how often their interval holds it."""
    found: dict[tuple[int, str, str], list[tuple[Interval, float]]] = defaultdict(list)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        rule = served(data, rng)
        other = (rule.p_success >= np.quantile(rule.p_success, 0.3)).astype(np.float64)
        truths = {
            "weak success rate": float(data.weak.mean()),
            "accuracy of another rule": float(np.mean(np.where(other, data.weak, data.strong))),
            "AUROC of the router": auroc(rule.p_success, data.weak) or math.nan,
        }
        for size in LOG_SIZES * LOGS:
            rows = rng.integers(len(data), size=size)
            log = log_of(data, rule, rows, rng.random(size) < rule.weak_chance[rows])
            for what, way, interval in estimates_of(log, other[rows]):
                found[size, what, way].append((interval, truths[what]))
        aimed = served(data, np.random.default_rng(seed), aimed=AIMED)
        for size in LOG_SIZES * LOGS:
            rows = rng.integers(len(data), size=size)
            log = log_of(data, aimed, rows, rng.random(size) < aimed.weak_chance[rows])
            for what, way, interval in estimates_of(log, other[rows]):
                if way == "dr":
                    found[size, what, "dr, aimed"].append((interval, truths[what]))
    return {
        f"{what}, {way}, {size} requests": against_truth(pairs)
        for (size, what, way), pairs in found.items()
    }


def estimates_of(log: TrafficLog, other: Floats) -> Iterable[tuple[str, str, Interval]]:
    """What is estimated, in which way, and the estimate."""
    values = {
        "weak success rate": weak_success_rate(log, confidence=CONFIDENCE),
        "accuracy of another rule": estimate_accuracy(log, other, confidence=CONFIDENCE),
    }
    for what, value in values.items():
        for way in ("naive", "ips", "snips", "dr"):
            yield what, way, getattr(value, way)
    alike = np.where(log.served_weak, 1.0, np.nan)
    for way, chances, p_hat in (
        ("naive", alike, None),
        ("ips", log.weak_chance, None),
        ("dr", log.weak_chance, log.p_success),
    ):
        yield (
            "AUROC of the router",
            way,
            selected_auroc(log.p_success, log.weak, chances, p_hat=p_hat, confidence=CONFIDENCE),
        )


def against_truth(pairs: list[tuple[Interval, float]]) -> dict[str, float]:
    """Bias, root mean square error, coverage and mean width; undefined ones count as missed."""
    known = [(one, truth) for one, truth in pairs if one.value is not None]
    errors = np.array([one.value - truth for one, truth in known if one.value is not None])
    ends = [(one.low, one.high, truth) for one, truth in known if None not in (one.low, one.high)]
    held = sum(low <= truth <= high for low, high, truth in ends)
    return {
        "bias": round(float(errors.mean()), 4),
        "rmse": round(float(np.sqrt(np.mean(errors**2))), 4),
        "coverage": round(held / len(pairs), 3),
        "width": round(float(np.mean([high - low for low, high, _ in ends])), 3),
        "defined": len(known),
        "logs": len(pairs),
    }


def train(data: RoutingData, seeds: int) -> dict[str, Any]:
    """Probes from traffic against one that sees every outcome of the same traffic."""
    found: dict[tuple[int, str], list[dict[str, float]]] = defaultdict(list)
    _, group = np.unique(np.asarray(data.groups), return_inverse=True)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        held_out = np.isin(group, rng.permutation(group.max() + 1)[: int(0.3 * (group.max() + 1))])
        ours, test = data.take(~held_out), data.take(held_out)
        for aimed in (0.0, AIMED):
            rule = served(ours, np.random.default_rng(seed), aimed=aimed)
            for size in TRAINING_SIZES:
                rows = rng.integers(len(ours), size=size)
                if not aimed:
                    every = np.concatenate([rule.collected, rows])
                    alike = np.ones(len(every))
                    found[size, "every outcome"].append(judged(ours, every, alike, alike, test))
                for name, numbers in learnt(ours, rule, rows, test, rng, aimed=aimed > 0):
                    found[size, name].append(numbers)
    return {
        f"{way}, {size} requests": against_all(numbers, found[size, "every outcome"])
        for (size, way), numbers in found.items()
    }


def learnt(
    data: RoutingData,
    rule: Served,
    rows: Rows,
    test: RoutingData,
    rng: np.random.Generator,
    *,
    aimed: bool,
) -> Iterable[tuple[str, dict[str, float]]]:
    """Probes of what a log of requests for ``rows`` shows, by the way of weighing."""
    seen = rows[rng.random(len(rows)) < rule.weak_chance[rows]]
    explored = float(np.count_nonzero(rule.p_success[seen] < rule.bar))
    known = np.concatenate([rule.collected, seen])
    chances = np.concatenate([np.ones(COLLECTED), rule.weak_chance[seen]])
    whole = 1 / chances
    whole[COLLECTED:] /= whole[COLLECTED:].mean()
    bounded = bound_weights(whole, chances).weights
    ways = {"as the package does": (bounded, whole)}
    if not aimed:
        alike = np.ones(len(known))
        ways |= {
            "naive": (alike, alike),
            "whole weights": (whole, whole),
            "bounded weights, calibration too": (bounded, bounded),
        }
    for name, (fitted_by, calibrated_by) in ways.items():
        numbers = judged(data, known, fitted_by, calibrated_by, test)
        yield f"{name}, aimed" if aimed else name, numbers | {"explored": explored}


def judged(
    data: RoutingData, rows: Rows, fitted_by: Floats, calibrated_by: Floats, test: RoutingData
) -> dict[str, float]:
    """A probe of the outcomes of ``rows``, on queries of other groups."""

    def counted(weights: Floats) -> Floats:
        return np.bincount(rows, weights, minlength=len(data)).astype(np.float64)

    seen = counted(fitted_by) > 0
    asked = replace(data, weights=counted(fitted_by)).take(seen)
    scores = np.empty(len(asked))
    for fold in folds_of(asked, 2, 0):
        fitted = PROBE.fit(asked.take(others(len(asked), fold)), seed=0)
        scores[fold] = fitted.scores(asked.take(fold))
    curve = Platt().fit(scores, asked.weak, counted(calibrated_by)[seen])
    new = PROBE.fit(asked, seed=0).scores(test)
    chances = curve.p(new)
    return {
        "auroc": auroc(new, test.weak) or math.nan,
        "brier": brier(chances, test.weak) or math.nan,
        "ece": expected_calibration_error(chances, test.weak) or math.nan,
        "too_sure": float(chances.mean() - test.weak.mean()),
    }


def against_all(
    numbers: list[dict[str, float]], reference: list[dict[str, float]]
) -> dict[str, Any]:
    """Means over seeds, and the AUROC's distance to that of every outcome, with a 95 % interval."""
    away = np.array(
        [one["auroc"] - best["auroc"] for one, best in zip(numbers, reference, strict=True)]
    )
    n = len(away)
    half = float(stdtrit(n - 1, 0.975)) * away.std(ddof=1) / math.sqrt(n)
    means = {key: float(np.mean([one[key] for one in numbers])) for key in numbers[0]}
    return {key: round(value, 4) for key, value in means.items()} | {
        "auroc_away": [round(float(away.mean() + part), 4) for part in (0.0, -half, half)],
        "seeds": n,
    }


def load(collections: Path, weak: str, domain: str) -> RoutingData:
    """The queries of which the weak model's outcome is known."""
    folder = collections / f"weak-{weak}"
    with Store.open(f"sqlite:///{folder / 'store.db'}", folder / "vectors") as store:
        data = store.load_routing_data(domain, read_points=[POINT])
    return data.take(np.isfinite(data.weak))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collections", type=Path, required=True, help="see benchmarks/quality")
    parser.add_argument("--weak", default="qwen-0.5b")
    parser.add_argument("--domains", nargs="+", default=["geo", "snips_field"])
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    started = perf_counter()
    result: dict[str, Any] = {"machine": describe_machine()}
    for domain in arguments.domains:
        data = load(arguments.collections, arguments.weak, domain)
        if np.isfinite(data.strong).all():
            result[f"estimates, {domain}"] = estimate(data, arguments.seeds)
        result[f"training, {domain}"] = train(data, arguments.seeds)
    result["run"] = {"seconds": round(perf_counter() - started, 1)}
    show(result, as_json=arguments.json)


if __name__ == "__main__":
    main()
