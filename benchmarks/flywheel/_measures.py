"""How good, how dear, how often strong: over windows of the day, and over parts of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from benchmarks.flywheel._day import QUALITY, Arrival, Served, usd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

WINDOW: Final = 500
EVERY: Final = 50
_RESAMPLES: Final = 500
_SHUFFLES: Final = 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Log:
    """Requests in order as columns: what one policy did with them.

    ``right`` is whether the answer that was served was right, ``strong_right`` whether the strong
    model's would have been; ``query`` tells copies of one query.
    """

    hour: Floats
    right: Floats
    strong_right: Floats
    by_strong: Floats
    cost_usd: Floats
    query: Rows
    first: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.hour)

    def take(self, rows: NDArray[Any]) -> Log:
        """Some of the requests, in order."""
        return Log(**{name: getattr(self, name)[rows] for name in self.__slots__})

    def between(self, start_h: float, end_h: float) -> Log:
        """Those of some hours of the day."""
        return self.take((self.hour >= start_h) & (self.hour < end_h))


def log_of(served: Sequence[Served]) -> Log:
    """What was really served, with what was asked afterwards in its cost."""
    arrivals = [one.arrival for one in served]
    return _log(
        arrivals,
        right=[one.right for one in served],
        by_strong=[not one.by_weak for one in served],
        cost_usd=[one.cost_usd + one.shadow_usd for one in served],
    )


def baselines(
    served: Sequence[Served], strong_share: float, rng: np.random.Generator
) -> Mapping[str, Log]:
    """What would have become of the same requests.

    The oracle takes the cheapest model that is right, and the cheapest where none is.
    """
    arrivals = [one.arrival for one in served]
    weak_right = np.array([one.arrival.asked.right[one.weak] for one in served])
    strong_right = np.array([one.arrival.asked.right["strong"] for one in served])
    by_policy = {
        "always strong": np.ones(len(served)),
        "always weak": np.zeros(len(served)),
        "oracle": (weak_right < strong_right).astype(np.float64),
        "random": (rng.random(len(served)) < strong_share).astype(np.float64),
    }
    return {
        name: _log(
            arrivals,
            right=np.where(by_strong > 0, strong_right, weak_right),
            by_strong=by_strong,
            cost_usd=[
                usd(one.arrival.asked, "strong" if strong else one.weak)
                for one, strong in zip(served, by_strong, strict=True)
            ],
        )
        for name, by_strong in by_policy.items()
    }


def _log(arrivals: Sequence[Arrival], *, right: Any, by_strong: Any, cost_usd: Any) -> Log:
    _, query = np.unique([one.asked.key for one in arrivals], return_inverse=True)
    return Log(
        hour=np.array([one.hour for one in arrivals]),
        right=np.asarray(right, dtype=np.float64),
        strong_right=np.array([one.asked.right["strong"] for one in arrivals]),
        by_strong=np.asarray(by_strong, dtype=np.float64),
        cost_usd=np.asarray(cost_usd, dtype=np.float64),
        query=query,
        first=np.array([one.first for one in arrivals]),
    )


def quality(log: Log) -> float | None:
    """Successes, divided by those of the strong model on the same requests."""
    best = float(log.strong_right.sum())
    return float(log.right.sum()) / best if best else None


def interval(log: Log, rng: np.random.Generator) -> tuple[float, float]:
    """Of the quality, at 90 %: percentiles of a bootstrap that draws queries with their copies."""
    _, group = np.unique(log.query, return_inverse=True)
    n = int(group.max()) + 1
    right, best = np.bincount(group, log.right), np.bincount(group, log.strong_right)
    draws = rng.multinomial(n, np.full(n, 1 / n), _RESAMPLES)
    low, high = np.quantile((draws @ right) / np.maximum(draws @ best, 1e-9), [0.05, 0.95])
    return float(low), float(high)


def windows(log: Log, rng: np.random.Generator) -> list[dict[str, float]]:
    """Of 500 requests, every 50; ``hour`` is when the last of them came."""
    found: list[dict[str, float]] = []
    for end in range(WINDOW, len(log) + 1, EVERY):
        part = log.take(np.arange(end - WINDOW, end))
        low, high = interval(part, rng)
        found.append(
            {
                "hour": float(part.hour[-1]),
                "from_hour": float(part.hour[0]),
                "quality": quality(part) or 0.0,
                "low": low,
                "high": high,
                "strong_share": float(part.by_strong.mean()),
                "usd_per_1k": float(part.cost_usd.mean() * 1000),
            }
        )
    return [{key: round(value, 4) for key, value in one.items()} for one in found]


def summary(log: Log, rng: np.random.Generator) -> dict[str, Any]:
    """The numbers of a table's row; shares of windows are ``None`` where there is no window.

    ``below_by_chance`` is what share of windows would be below the goal if the same requests had
    come in any order: what noise alone makes of this quality.
    """
    if not len(log):
        return {"requests": 0}
    low, high = interval(log, rng)
    every = windows(log, rng)
    return {
        "requests": len(log),
        "right": round(float(log.right.mean()), 4),
        "quality": round(quality(log) or 0.0, 4),
        "low": round(low, 4),
        "high": round(high, 4),
        "strong_share": round(float(log.by_strong.mean()), 4),
        "usd_per_1k": round(float(log.cost_usd.mean() * 1000), 4),
        "windows": len(every),
        "below": _share([one["quality"] < QUALITY for one in every]),
        "wholly_below": _share([one["high"] < QUALITY for one in every]),
        "below_by_chance": _by_chance(log, rng),
    }


def _by_chance(log: Log, rng: np.random.Generator) -> float | None:
    below: list[bool] = []
    for _ in range(_SHUFFLES):
        order = rng.permutation(len(log))
        right, best = log.right[order].cumsum(), log.strong_right[order].cumsum()
        ends = np.arange(WINDOW, len(log), EVERY)
        some = right[ends] - right[ends - WINDOW]
        below += list(some < QUALITY * (best[ends] - best[ends - WINDOW]))
    return _share(below)


def _share(claims: Sequence[bool]) -> float | None:
    return round(float(np.mean(claims)), 4) if claims else None
