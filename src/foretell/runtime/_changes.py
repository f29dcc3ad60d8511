"""What alone would turn a decision round."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from foretell.config import QualityGoal, RiskGoal, StrongShareGoal
from foretell.probes import HeldOut
from foretell.records import Decision
from foretell.runtime._goals import Bar, Goal, bar_for

_STEPS: Final = 100
"""Goals are tried in hundredths."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One thing that would turn a decision if all else stayed as it is.

    ``name`` is a field of the decision, or of the goal; it is at ``now`` and would have to reach
    ``needed``. ``sentence`` says the same in words.
    """

    name: str
    now: float
    needed: float
    sentence: str


class GoalLadder:
    """Bars of more and less demanding goals, on the evidence that the real one was chosen on.

    Each is worked out when it is first asked for, then kept. Safe for many threads.
    """

    def __init__(self, goal: QualityGoal | StrongShareGoal | RiskGoal, held_out: HeldOut) -> None:
        self._goal = goal
        self._held_out = held_out
        self._bars: dict[int, Bar] = {}

    @classmethod
    def of(cls, goal: Goal | None, held_out: HeldOut | None) -> GoalLadder | None:
        """``None`` for a goal that has no evidence behind it."""
        if held_out is None or not isinstance(goal, QualityGoal | StrongShareGoal | RiskGoal):
            return None
        return cls(goal, held_out)

    def turning(self, decision: Decision, *, kept: bool) -> Change | None:
        """The nearest goal, in hundredths, by which the query is decided the other way.

        ``None`` where no goal of the kind does. Goals are halved between the one there is and the
        extreme, as raising the demand hardly ever keeps more; what is named has been tried.
        """
        name, now = self._setting()
        # More quality, or a larger share, escalates more; more risk keeps more.
        up = kept != (name == "risk")
        steps = round(now * _STEPS, 6)
        same = math.floor(steps) if up else math.ceil(steps)
        other = _STEPS if up else 1
        if self._keeps(other, decision) == kept:
            return None
        while abs(other - same) > 1:
            middle = (same + other) // 2
            if self._keeps(middle, decision) == kept:
                same = middle
            else:
                other = middle
        needed = other / _STEPS
        beyond = "" if other == _STEPS else " or more" if up else " or less"
        return Change(
            name=name,
            now=now,
            needed=needed,
            sentence=(
                f"{'escalated' if kept else 'kept'} if the goal were a {name.replace('_', ' ')} of "
                f"{needed:g}{beyond}, instead of {now:g}"
            ),
        )

    def _setting(self) -> tuple[str, float]:
        match self._goal:
            case QualityGoal():
                return "quality", self._goal.quality
            case StrongShareGoal():
                return "strong_share", self._goal.strong_share
            case RiskGoal():
                return "risk", self._goal.risk

    def _keeps(self, step: int, decision: Decision) -> bool:
        if step not in self._bars:
            name, _ = self._setting()
            goal = self._goal.model_copy(update={name: step / _STEPS})
            self._bars[step] = bar_for(goal, self._held_out)
        return keeps(self._bars[step], decision)


def keeps(bar: Bar, decision: Decision) -> bool:
    """Whether a bar keeps the query of a decision, whose chances are known."""
    p_success = decision.p_success or 0.0
    if bar.least_gain is None or decision.p_strong is None:
        return p_success >= bar.keep_at
    return p_success >= max(0.0, decision.p_strong - bar.least_gain)


def turning_points(
    decision: Decision, bar: Bar, ladder: GoalLadder | None, *, false_alarm: float | None
) -> tuple[Change, ...]:
    """What would turn ``decision``, the nearest at hand first.

    Nothing where chances had no say: without an estimate, or when a caller pinned the model.
    ``false_alarm`` is the p-value at or below which the gate calls a query outside.
    """
    if decision.p_success is None:
        return ()
    if decision.action == "declined":
        return _looking_familiar(decision, false_alarm)
    if decision.action not in ("keep", "escalate", "explore"):
        return ()
    kept = decision.p_success >= decision.keep_at
    found = [_chance(decision, decision.p_success, kept=kept), _gain(decision, bar, kept=kept)]
    # A bar that was moved since (by a share, a budget, a conversation) is not the goal's alone.
    if ladder is not None and keeps(bar, decision) == kept:
        found.append(ladder.turning(decision, kept=kept))
    return tuple(change for change in found if change is not None)


def _chance(decision: Decision, p_success: float, *, kept: bool) -> Change | None:
    keep_at = decision.keep_at
    if keep_at > 1 or (kept and keep_at <= 0):
        return None  # no chance would do
    far = abs(p_success - keep_at)
    turned = "escalated if p_success fell" if kept else "kept if p_success rose"
    limit = "below" if kept else "to"
    return Change(
        name="p_success",
        now=p_success,
        needed=keep_at,
        sentence=f"{turned} by {far:.3f}, from {p_success:.3f} {limit} {keep_at:.3f}",
    )


def _gain(decision: Decision, bar: Bar, *, kept: bool) -> Change | None:
    if bar.least_gain is None or decision.gain is None:
        return None
    compared = "more than" if kept else "at most"
    return Change(
        name="gain",
        now=decision.gain,
        needed=bar.least_gain,
        sentence=(
            f"{'escalated' if kept else 'kept'} if a strong call gained {compared} "
            f"{bar.least_gain:.3f} instead of {decision.gain:.3f}"
        ),
    )


def _looking_familiar(decision: Decision, false_alarm: float | None) -> tuple[Change, ...]:
    if decision.familiarity is None or false_alarm is None or decision.familiarity > false_alarm:
        return ()
    would = "kept" if (decision.p_success or 0.0) >= decision.keep_at else "escalated"
    return (
        Change(
            name="familiarity",
            now=decision.familiarity,
            needed=false_alarm,
            sentence=(
                f"{would} if it looked more like the training queries: {decision.familiarity:.1%} "
                f"of those look as strange, and more than {false_alarm:.1%} would have to"
            ),
        ),
    )
