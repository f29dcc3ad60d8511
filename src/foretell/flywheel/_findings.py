"""What a look at the traffic found, in numbers and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

FindingName = Literal["vectors", "calibration", "scores", "escalation"]

LEAST_ROWS: Final = 50
"""Of independent requests; fewer say too little."""

_CLEARLY: Final = 0.8
_LIKELY: Final = 5
"""An alarm ends below this share of its limit, or where chance does as well this many times as
often as an alarm allows for: what is near the line does not ring again and again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One number that is watched; what it is, its units and its test are in ``docs/drift.md``.

    ``value`` is ``None`` where there is too little to tell, and ``words`` says why. ``low`` and
    ``high`` are its interval at the configured confidence, ``n`` the requests behind it and
    ``limit`` what an alarm lies above. ``p_value`` says how often chance alone goes as far. An
    ``alarm`` is both above the limit and beyond what chance makes; one that is raised ends when
    the number is ``calm``.
    """

    name: FindingName
    value: float | None
    low: float | None
    high: float | None
    n: int
    limit: float
    p_value: float | None
    alarm: bool
    calm: bool
    words: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DriftReport:
    """One look at a domain's traffic.

    ``probe`` is ``id@version`` of the one that serves, ``""`` without one. ``newest`` are requests
    that look least like what it was trained on, the furthest first; there are some when
    ``vectors`` is an alarm. ``stale`` says in words that the probe does not fit the weak model that
    answers; nothing is compared then.
    """

    findings: tuple[Finding, ...]
    probe: str = ""
    newest: tuple[str, ...] = ()
    stale: str | None = None

    @property
    def alarms(self) -> tuple[FindingName, ...]:
        """Names of the findings that are alarms."""
        return tuple(finding.name for finding in self.findings if finding.alarm)


def judged(
    name: FindingName,
    value: float,
    interval: tuple[float, float],
    *,
    n: int,
    limit: float,
    p_value: float,
    confidence: float,
    words: str,
) -> Finding:
    """A finding by the one rule for all: above the limit, and beyond chance."""
    miss = 1 - confidence
    return Finding(
        name=name,
        value=value,
        low=interval[0],
        high=interval[1],
        n=n,
        limit=limit,
        p_value=p_value,
        alarm=value > limit and p_value <= miss + 1e-12,
        calm=value <= _CLEARLY * limit or p_value > min(_LIKELY * miss, 0.5),
        words=words,
    )


def unknown(name: FindingName, *, n: int, limit: float, words: str) -> Finding:
    """Too little to tell: neither an alarm, nor the end of one."""
    return Finding(
        name=name,
        value=None,
        low=None,
        high=None,
        n=n,
        limit=limit,
        p_value=None,
        alarm=False,
        calm=False,
        words=words,
    )


def effective_size(weights: Floats, groups: Sequence[str]) -> float:
    """Of how many independent rows of equal weight this is worth: Kish's size of whole groups.

    ``(sum of weights)^2 / sum over groups (weight of the group)^2``, as if the rows of a group
    were copies of each other. Kish (1965), "Survey Sampling", section 11.7.
    """
    if not len(weights):
        return 0.0
    _, group = np.unique(np.asarray(groups, dtype=np.str_), return_inverse=True)
    of_group = np.bincount(group, weights)
    return float(of_group.sum() ** 2 / np.square(of_group).sum())
