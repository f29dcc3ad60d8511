"""What the parts of the report amount to, each in a sentence."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from foretell.calibration import CalibrationKind
from foretell.evaluation._controls import Controls
from foretell.evaluation._guarantees import GuaranteeRow
from foretell.evaluation._learning_curve import LearningCurve, RouterLearning
from foretell.evaluation._words import number, percent
from foretell.probes import KindRow

CALIBRATIONS: Final[dict[CalibrationKind, str]] = {
    "temperature": "temperature scaling: one number makes all scores bolder or more cautious",
    "platt": "Platt scaling: a straight line through the log-odds",
    "beta": "beta calibration: a curve of three numbers",
    "isotonic": "isotonic regression: a rising staircase",
}
"""By kind of calibration, what stands between a score and a chance."""


def learning(curve: LearningCurve, found: RouterLearning) -> str:
    """Where more labels stop paying for one router, and what 90 % of its quality takes."""
    best = found.points[-1].auroc.value
    if best is None:
        return f"{found.router}: undefined, as the AUROC with all labels is."
    if found.enough is None:
        text = (
            f"{found.router}: more labels still pay. No smaller number comes within 0.01 of the "
            f"AUROC with all {curve.train_size:,}"
        )
    else:
        text = (
            f"{found.router}: more labels stop paying at about {found.enough:,}. From there on the "
            f"AUROC stays within 0.01 of the {number(best, 2)} with all {curve.train_size:,}"
        )
    if found.labels_for_90_percent is not None:
        text += f". {found.labels_for_90_percent:,} labels give 90 % of it"
        if found.labels_for_90_percent_over_chance is not None:
            text += (
                f", {found.labels_for_90_percent_over_chance:,} give 90 % of what it has above "
                "chance"
            )
    return f"{text}."


def kinds(tried: Sequence[KindRow]) -> str:
    """Why the kind of probe that won did."""
    winner = next((row for row in tried if row.chosen), None)
    known = [row for row in tried if row.log_loss is not None]
    if winner is None or not known:
        return "How the kind of probe was chosen is not recorded."
    if len(known) == 1:
        return f"{winner.kind} is the only kind that was tried."
    best = min(known, key=lambda row: row.log_loss or 0.0)
    rule = (
        "A richer kind replaces a simpler one when its log loss on held-out folds is lower by more "
        "than one standard error. "
    )
    if best is winner:
        return f"{rule}{winner.kind} won: its log loss is the lowest."
    return (
        f"{rule}{best.kind} has the lowest log loss, but not by that much, so the simpler "
        f"{winner.kind} won."
    )


def rule(row: GuaranteeRow) -> str:
    """What a route with this goal does with a query."""
    if not row.guaranteed:
        return "escalate everything"
    if row.by_gain:
        return f"escalate what a strong call gains more than {number(1 - row.keep_at, 2)} on"
    return f"keep when the chance of success is at least {number(row.keep_at, 2)}"


def held(row: GuaranteeRow) -> str:
    """Whether the goal held on the test queries, and how clearly."""
    if row.held is None:
        return "undefined: no test query has outcomes of both models"
    if not row.guaranteed:
        return "yes, as everything is escalated"
    by = f"{100 * abs(row.margin.value or 0.0):.1f} points"
    if row.held:
        return f"yes, with {by} to spare"
    if row.margin.high is not None and row.margin.high >= 0:
        return f"no, {by} are missing, which may be chance"
    return f"no, {by} are missing"


def shuffled(controls: Controls) -> str:
    """Whether the probe's setting finds something where there is nothing."""
    found = controls.shuffled
    if found.value is None:
        return "Not checked: there is no probe, or nothing to rank."
    text = (
        f"With outcomes shuffled before fitting, the AUROC on the test queries is "
        f"{number(found.value, 2)} (mean of {controls.shuffles} fits)"
    )
    if found.low is None or found.high is None:
        return f"{text}; without a leak it is 0.5 but for chance."
    inside = found.low <= 0.5 <= found.high
    return (
        f"{text}, interval {number(found.low, 2)} to {number(found.high, 2)}: "
        + ("0.5 lies in it, as it must without a leak." if inside else "0.5 does not lie in it, so")
        + ("" if inside else " something leaks, or chance was unkind.")
    )


def near_duplicates(controls: Controls, test_size: int) -> str:
    """How many test queries were as good as seen in training."""
    count = controls.near_duplicates
    share = percent(count / test_size) if test_size else "undefined"
    return (
        f"{count:,} of {test_size:,} test queries ({share}) read nearly like one in training. No "
        "query and no group of queries is in both sets."
    )


def outcome(value: float | None) -> str:
    """A success rate in a word where there is one."""
    if value is None:
        return "unknown"
    return {0.0: "wrong", 1.0: "right"}.get(value, percent(value, 0))
