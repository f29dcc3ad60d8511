"""Measure everything on what was collected; one JSON file a data set, made once unless --again.

    python benchmarks/quality/evaluate.py --data DATA --to .cache/quality \
        --results benchmarks/quality/results --sets qwen-0.5b/geo qwen-0.5b/svamp

A set is a weak model and a domain; ``qwen-0.5b/mixture`` is all domains of that model together.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from _data import Place, join_strong, load, shown_command, splits

from foretell.calibration import expected_calibration_error
from foretell.evaluation import (
    Evaluation,
    cross_evaluate,
    evaluate_routers,
    gather_extras,
    join_domains,
    leave_one_domain_out,
)
from foretell.probes import Selection
from foretell.records import ReadPoint, RoutingData
from foretell.routers import (
    CascadeRouter,
    GainRouter,
    ProbeRouter,
    Router,
    answer_logprob_router,
    make_router,
)
from foretell.runtime import pooled_points

sys.path.insert(0, str(Path(__file__).parents[1]))

from _machine import describe_machine

STRONG = "qwen-1.5b"
MIXED = ("geo", "snips_field", "snips_intent", "svamp")
_OUTSIDE = ("embedding", "knn", "tfidf", "mf", "sw_ranking", "length", "keyword", "domain")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--sets", nargs="+", required=True)
    parser.add_argument(
        "--cross",
        action="store_true",
        help="every query is a test query once (five folds): for small sets, without what is slow",
    )
    parser.add_argument("--text-classifier", action="store_true", help="fine-tune one (torch)")
    parser.add_argument(
        "--kinds",
        nargs="+",
        default=["linear", "several", "mix", "mlp", "attention", "fusion"],
        help="kinds of probe to choose from",
    )
    parser.add_argument("--again", action="store_true", help="measure what was measured already")
    arguments = parser.parse_args()
    place = Place(arguments.to, arguments.data)
    arguments.results.mkdir(parents=True, exist_ok=True)
    for name in arguments.sets:
        shown = f"{name} (cross)" if arguments.cross else name
        suffix = "-cross" if arguments.cross else ""
        target = arguments.results / f"{name.replace('/', '--')}{suffix}.json"
        if target.exists() and not arguments.again:
            print(f"{name}: there already", flush=True)
            continue
        started = time.perf_counter()
        weak, domain = name.split("/")
        result = (
            _mixture(place, weak, tuple(arguments.kinds))
            if domain == "mixture"
            else _one(place, weak, domain, arguments)
        )
        result |= {
            "set": shown,
            "command": shown_command(sys.argv, arguments),
            "machine": describe_machine(),
            "date": f"{datetime.now(UTC):%Y-%m-%d}",
            "seconds": round(time.perf_counter() - started),
        }
        target.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        print(f"{name}: {result['seconds']} s, auroc {_brief(result['evaluation'])}", flush=True)


def _one(place: Place, weak: str, domain: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One weak model on one domain."""
    if weak != STRONG:
        join_strong(place, weak, STRONG, domain)
    data = load(place, weak, domain, tokens="attention" in arguments.kinds)
    rng = np.random.default_rng(0)
    kinds = tuple(arguments.kinds)
    if arguments.cross:
        quick = [r for r in _routers(data, kinds=kinds, gain=False) if r.name != "cascade"]
        evaluation = cross_evaluate(data, quick, rng, progress=_tell)
        return {"evaluation": _thinned(evaluation)}
    train, test = splits(place, data)
    routers = _routers(train, kinds=kinds)
    if arguments.text_classifier:
        routers.append(make_router("text_classifier"))
    evaluation = evaluate_routers(train, test, routers, rng, progress=_tell)
    others = _others(place, weak, domain, evaluation.fitted["probe"].selection)
    extras = gather_extras(evaluation, train, test, np.random.default_rng(1), others=others)
    return {
        "evaluation": _thinned(evaluation),
        "probe": _probe_facts(evaluation.fitted["probe"].selection),
        "ece_if_perfect": _ece_if_perfect(evaluation.fitted["probe"].p_success(test)),
        **extras.to_json(),
    }


def _ece_if_perfect(p_success: np.ndarray) -> float:
    """Mean ECE of these chances over outcomes drawn from the chances themselves.

    The calibration error of so many queries is never 0: this is what perfect chances would show.
    """
    rng = np.random.default_rng(3)
    draws = rng.random((200, len(p_success))) < p_success
    return float(np.mean([expected_calibration_error(p_success, d * 1.0) for d in draws]))


def _others(place: Place, weak: str, domain: str, selection: Selection) -> RoutingData | None:
    """The collected queries of the other domains, for the gate to decline."""
    points = pooled_points(selection)
    with place.store("weak", weak) as store:
        known = {row.domain for row in store.domains()} & set(MIXED) - {domain}
    parts = [load(place, weak, other, read_points=points) for other in sorted(known)]
    return join_domains(parts) if parts else None


def _mixture(place: Place, weak: str, kinds: tuple[str, ...]) -> dict[str, Any]:
    """All domains together: joint training, and each left out in turn."""
    tokens = "attention" in kinds
    parts = {domain: load(place, weak, domain, tokens=tokens) for domain in MIXED}
    splitted = {domain: splits(place, data) for domain, data in parts.items()}
    train = join_domains([split[0] for split in splitted.values()])
    test = join_domains([split[1] for split in splitted.values()])
    evaluation = evaluate_routers(
        train,
        test,
        _routers(train, kinds=kinds, gain=False),
        np.random.default_rng(0),
        progress=_tell,
    )
    selection = evaluation.fitted["probe"].selection
    points = tuple({row.read_point for row in _best_rows(selection, 3)})
    transfer = leave_one_domain_out(
        train.read_at(*points),
        test.read_at(*points),
        [
            ProbeRouter(kinds=("linear",), read_points=points),
            make_router("tfidf"),
            make_router("embedding"),
        ],
        np.random.default_rng(2),
    )
    return {
        "evaluation": _thinned(evaluation),
        "probe": _probe_facts(selection),
        "transfer": transfer.to_json(),
    }


def _routers(train: RoutingData, *, kinds: tuple[str, ...], gain: bool = True) -> list[Router]:
    routers: list[Router] = [ProbeRouter(kinds=kinds), *(make_router(name) for name in _OUTSIDE)]
    routers += [make_router("random"), make_router("first_token_entropy"), answer_logprob_router()]
    few = tuple(_late_points(train))
    routers.append(
        CascadeRouter(
            first=ProbeRouter(kinds=("linear",), read_points=few), second=answer_logprob_router()
        )
    )
    if gain and np.isfinite(train.strong).sum() >= 100:
        routers.append(GainRouter(kinds=("linear", "fusion")))
    return routers


def _late_points(data: RoutingData) -> list[ReadPoint]:
    """The last layer: named before any look, where a sweep in every fold is not affordable."""
    return sorted(point for point in data.activations if point.pooling == "last")[-1:]


def _best_rows(selection: Selection, count: int) -> list[Any]:
    known = [row for row in selection.sweep if row.auroc is not None and not row.fine]
    return sorted(known, key=lambda row: -(row.auroc or 0))[:count]


def _probe_facts(selection: Selection) -> dict[str, Any]:
    return {
        "kind": selection.probe.kind,
        "read_points": [point.name for point in selection.probe.read_points],
        "best_linear": selection.chosen.read_point.name,
        "calibration": selection.probe.calibration.kind,
        "kinds_tried": [asdict(row) for row in selection.kinds_tried],
    }


def _thinned(evaluation: Evaluation) -> dict[str, Any]:
    """The evaluation without what is long and nobody compares: curves, cases, texts."""
    result = evaluation.to_json()
    for name in ("risk_coverage", "most_wrong", "reliability"):
        result.pop(name)
    result["curves"] = {
        router: {axis: [round(v, 4) for v in values[::5]] for axis, values in curve.items()}
        for router, curve in result["curves"].items()
    }
    result["sweep"] = [row for row in result["sweep"] if not row["fine"]]
    result["controls"].pop("near_duplicate_pairs", None)
    return result


def _brief(evaluation: dict[str, Any]) -> dict[str, float]:
    return {
        name: round(leaf["value"], 3)
        for name, leaf in evaluation["auroc"].items()
        if leaf["value"] is not None
    }


def _tell(done: int, total: int, what: str) -> None:
    print(f"  {done}/{total} {what}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
