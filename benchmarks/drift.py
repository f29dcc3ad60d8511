"""How soon is drift noticed in real traffic, and how often is there an alarm about nothing?

    python benchmarks/drift.py --collections .cache/quality --draws 20 --null-draws 50

Each draw splits a domain's collected queries into a training and a test side and traffic, trains a
probe, and lets traffic run by: first of the same domain, then with a share of another one mixed in,
or with all of it read by the same model under another quantisation. Vectors are kept as a gateway
keeps them by default, reduced to the probe's subspace. The rule escalates 40 % and explores 2 %,
and each answer of the weak model is labelled at once. Nothing is asked of any model here.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import clopper_pearson
from foretell.config import DriftConfig
from foretell.flywheel import (
    ComparedVectors,
    DriftReport,
    ReferenceScores,
    WatchedTraffic,
    watch,
)
from foretell.probes import SavedProbe, select_probe, subspace_of
from foretell.records import ReadPoint, RoutingData, TrafficLog
from foretell.runtime import save_selection, serving_probe
from foretell.store import Store

TRAINED, TESTED = 0.5, 0.2
STRONG_SHARE, EXPLORED = 0.4, 0.02
STEP, PATIENCE = 100, 20
ALARMS = ("vectors", "calibration", "scores", "escalation")

QWEN, SMOL, SMOL_Q4 = "weak-qwen-0.5b", "weak-smollm2-135m", "weak-smollm2-q4_0"
POINTS = {QWEN: ReadPoint(16, "mean"), SMOL: ReadPoint(19, "mean"), SMOL_Q4: ReadPoint(19, "mean")}
NULLS = ((QWEN, "geo"), (SMOL, "geo"), (SMOL_Q4, "geo"), (SMOL_Q4, "snips_field"))
MIXES = ((QWEN, "snips_intent"), (QWEN, "svamp"))
SHARES = (0.1, 0.3, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Detected:
    """One kind of drift over all draws.

    ``requests`` maps an alarm's name (``any``: the first of all) to how many requests after the
    drift began each draw raised it, ``None`` for draws that never did.
    """

    weak: str
    into: str
    share: float
    requests: Mapping[str, Sequence[int | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseAlarms:
    """Looks at traffic of the training queries' own kind, and the alarms there were."""

    weak: str
    domain: str
    looks: int
    alarms: Mapping[str, int]


class Collections:
    """What was collected, by weak model and domain; the stores themselves are left as they are."""

    def __init__(self, place: Path, scratch: Path) -> None:
        self._place, self._scratch = place, scratch
        self._loaded: dict[tuple[str, str], RoutingData] = {}

    def load(self, weak: str, domain: str) -> RoutingData:
        """The labelled queries of a domain, with activations at the model's read point."""
        if (weak, domain) not in self._loaded:
            with Store.open(self._copy(weak), self._place / weak / "vectors") as store:
                found = store.load_routing_data(domain, read_points=(POINTS[weak],))
            found = replace(found, strong=np.empty(0), strong_tokens=np.empty(0))
            self._loaded[weak, domain] = found.take(np.isfinite(found.weak))
        return self._loaded[weak, domain]

    def _copy(self, weak: str) -> str:
        target = self._scratch / f"{weak}.db"
        if not target.exists():
            source = sqlite3.connect(f"file:{self._place / weak / 'store.db'}?mode=ro", uri=True)
            copy = sqlite3.connect(target)
            source.backup(copy)
            source.close()
            copy.close()
        return f"sqlite:///{target}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """Queries of one domain, apart by group."""

    trained: RoutingData
    tested: RoutingData
    traffic: RoutingData


class Watcher:
    """A probe that serves, and what a watch sees of the queries that it foretells."""

    def __init__(self, sides: Sides, point: ReadPoint, scratch: Path, seed: int) -> None:
        self.saved = _train(sides.trained, point, scratch, seed)
        self._point, self._tested = point, sides.tested
        self._basis = subspace_of(self.saved).bases[point]
        self._bar = float(np.quantile(self.saved.held_out.p_success, STRONG_SHARE))

    def look(
        self, served: RoutingData, rng: np.random.Generator, config: DriftConfig
    ) -> DriftReport:
        """At these requests, oldest first; the last window of them counts."""
        p_success = self._chances(served)
        by_rule = p_success >= self._bar
        chance = np.where(by_rule, 1 - EXPLORED, EXPLORED)
        seen = rng.random(len(served)) < chance
        log = _log(served.ids, p_success, self._bar, chance, np.where(seen, served.weak, np.nan))
        newest = served.take(np.arange(max(0, len(served) - config.window), len(served)))
        return watch(
            WatchedTraffic(log=log, groups=served.groups, early=np.zeros(len(served), bool)),
            config=config,
            held_out=self.saved.held_out,
            vectors=ComparedVectors(
                reference=self._basis.reduce(self._tested.activations[self._point]),
                recent=self._basis.reduce(newest.activations[self._point]),
                reference_groups=self._tested.groups,
                recent_groups=newest.groups,
                ids=newest.ids,
            ),
            scores=ReferenceScores(
                p_success=self._chances(self._tested),
                weights=np.ones(len(self._tested)),
                groups=self._tested.groups,
            ),
            rng=rng,
        )

    def _chances(self, queries: RoutingData) -> NDArray[np.float64]:
        probe = self.saved.probe
        return probe.calibration.p(probe.scores(queries))


def _train(trained: RoutingData, point: ReadPoint, scratch: Path, seed: int) -> SavedProbe:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    try:
        selection = select_probe(
            trained, kinds=("linear",), read_points=[point], nested=False, seed=seed
        )
        now = datetime(2026, 1, 1, tzinfo=UTC)
        save_selection(selection, trained, "domain", "right", folder, now=now)
        return serving_probe(folder, "domain")
    finally:
        shutil.rmtree(folder)


def _log(
    ids: Sequence[str],
    p_success: NDArray[np.float64],
    bar: float,
    chance: NDArray[np.float64],
    weak: NDArray[np.float64],
) -> TrafficLog:
    n = len(ids)
    unknown, nothing = np.full(n, np.nan), ("",) * n
    kept = p_success >= bar
    return TrafficLog(
        ids=tuple(ids),
        key_ids=nothing,
        actions=tuple("keep" if keep else "escalate" for keep in kept),
        causes=nothing,
        probes=nothing,
        shadow_probes=nothing,
        weak_models=nothing,
        at=np.arange(n, dtype=np.float64),
        p_success=p_success,
        p_strong=unknown,
        keep_at=np.full(n, bar),
        weak_chance=chance,
        pair_chance=unknown,
        shadow_p_success=unknown,
        cost_usd=unknown,
        always_strong_usd=unknown,
        weak=weak,
        strong=unknown,
        served_weak=kept,
    )


def split(data: RoutingData, rng: np.random.Generator) -> Sides:
    """Half of the queries to train on, a fifth to compare with, the rest as traffic, by group."""
    names, group = np.unique(data.groups, return_inverse=True)
    place = (rng.permutation(len(names)) / len(names))[group]
    trained, tested = place < TRAINED, (place >= TRAINED) & (place < TRAINED + TESTED)
    served = np.flatnonzero(place >= TRAINED + TESTED)
    return Sides(
        trained=data.take(trained),
        tested=data.take(tested),
        traffic=data.take(rng.permutation(served)),
    )


def stream(
    before: RoutingData, after: RoutingData, share: float, window: int, rng: np.random.Generator
) -> RoutingData:
    """A window of ``before``, then ``share`` of ``after`` mixed in, until patience ends.

    Each side goes round: no query comes twice within a window, as far as there are enough.
    """
    n = window + STEP * PATIENCE
    drifted = (np.arange(n) >= window) & (rng.random(n) < share)
    both = _joined(before, after)
    rows = np.empty(n, dtype=np.int64)
    rows[~drifted] = np.arange(np.count_nonzero(~drifted)) % len(before)
    rows[drifted] = len(before) + np.arange(np.count_nonzero(drifted)) % len(after)
    return both.take(rows)


def _joined(first: RoutingData, second: RoutingData) -> RoutingData:
    """Both, with what is asked of traffic here; groups of the two are no groups of each other."""
    sides = (first, second)
    return RoutingData(
        domain=first.domain + second.domain,
        ids=first.ids + second.ids,
        texts=first.texts + second.texts,
        groups=tuple(f"{side}: {group}" for side in (0, 1) for group in sides[side].groups),
        attributes=first.attributes + second.attributes,
        lengths=np.concatenate([side.lengths for side in sides]),
        weak=np.concatenate([side.weak for side in sides]),
        activations={
            point: np.concatenate([rows, second.activations[point]])
            for point, rows in first.activations.items()
        },
        model=first.model,
    )


def detect(
    watcher: Watcher, served: RoutingData, config: DriftConfig, rng: np.random.Generator
) -> dict[str, int | None]:
    """Requests after the drift began until each alarm; looks end when all there are have come."""
    found: dict[str, int | None] = dict.fromkeys((*ALARMS, "any"))
    for look in range(1, PATIENCE + 1):
        end = config.window + look * STEP
        report = watcher.look(served.take(np.arange(end)), rng, config)
        for name in report.alarms:
            found[name] = found[name] or look * STEP
            found["any"] = found["any"] or look * STEP
        if found["vectors"] and look >= 2 * config.window // STEP:
            break
    return found


def measure_drift(
    data: Collections, draws: int, scratch: Path, config: DriftConfig
) -> list[Detected]:
    cases = [(QWEN, QWEN, into, share) for _, into in MIXES for share in SHARES]
    cases.append((SMOL, SMOL_Q4, "geo", 1.0))
    found = {case: [] for case in cases}
    for seed in range(draws):
        for weak in (QWEN, SMOL):
            rng = np.random.default_rng([seed, len(weak)])
            sides = split(data.load(weak, "geo"), rng)
            traffic, watcher = sides.traffic, Watcher(sides, POINTS[weak], scratch, seed)
            for case in cases:
                if case[0] != weak:
                    continue
                _, read_by, into, share = case
                after = data.load(read_by, into)
                if read_by != weak:  # the very queries of the traffic, none of the trained ones
                    after = after.take(np.isin(after.ids, traffic.ids))
                after = after.take(rng.permutation(len(after)))
                served = stream(traffic, after, share, config.window, rng)
                found[case].append(detect(watcher, served, config, rng))
    return [
        Detected(
            weak=weak,
            into=into if read_by == weak else f"{into} read by {read_by}",
            share=share,
            requests={name: [draw[name] for draw in drawn] for name in (*ALARMS, "any")},
        )
        for (weak, read_by, into, share), drawn in found.items()
    ]


def measure_false_alarms(
    data: Collections, draws: int, scratch: Path, config: DriftConfig
) -> list[FalseAlarms]:
    rows = []
    for weak, domain in NULLS:
        alarms = dict.fromkeys((*ALARMS, "any"), 0)
        for seed in range(draws):
            rng = np.random.default_rng([1, seed])
            sides = split(data.load(weak, domain), rng)
            watcher = Watcher(sides, POINTS[weak], scratch, seed)
            report = watcher.look(sides.traffic, rng, config)
            for name in report.alarms:
                alarms[name] += 1
            alarms["any"] += bool(report.alarms)
        rows.append(FalseAlarms(weak=weak, domain=domain, looks=draws, alarms=alarms))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--collections", type=Path, default=Path(".cache/quality"))
    parser.add_argument("--draws", type=int, default=20)
    parser.add_argument("--null-draws", type=int, default=50)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    config = DriftConfig()
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        data = Collections(arguments.collections, scratch)
        detected = measure_drift(data, arguments.draws, scratch, config)
        false_alarms = measure_false_alarms(data, arguments.null_draws, scratch, config)
    if arguments.json:
        print(json.dumps({"drift": [*map(asdict, detected)], "null": [*map(asdict, false_alarms)]}))
        return
    for row in detected:
        print(f"{row.weak}: {row.share:.0%} of {row.into}")
        for name, requests in row.requests.items():
            known = [count for count in requests if count is not None]
            median = f"{np.median(known):.0f}, at most {max(known)}" if known else "–"
            print(f"  {name}: {len(known)} of {len(requests)} draws, requests {median}")
    for row in false_alarms:
        for name, count in row.alarms.items():
            low, high = clopper_pearson(count, row.looks)
            print(f"{row.weak} {row.domain} {name}: {count} of {row.looks} [{low:.3f}, {high:.3f}]")


if __name__ == "__main__":
    main()
