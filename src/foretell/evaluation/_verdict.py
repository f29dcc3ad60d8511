"""The evaluation in a few sentences with their numbers, for whoever reads nothing else."""

from __future__ import annotations

from dataclasses import dataclass

from foretell.evaluation._evaluation import Difference, Evaluation, GapClosed, RouterResult
from foretell.evaluation._intervals import Interval
from foretell.evaluation._metric_columns import why_undefined
from foretell.evaluation._words import UNDEFINED, number, percent, signed, spoken


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One line, and the sentences behind it."""

    headline: str
    sentences: tuple[str, ...]


def verdict(evaluation: Evaluation) -> Verdict:
    """What the numbers allow to be said, and no more: "ahead" needs an interval beyond 0."""
    probe = evaluation.router("probe")
    if probe is None:
        return Verdict(
            headline="No probe took part",
            sentences=("The routers below are compared with one another only.",),
        )
    against = next(
        (row for row in evaluation.differences if row.against == evaluation.best_baseline), None
    )
    return Verdict(
        headline=_headline(evaluation, probe, against),
        sentences=(
            _ranking(evaluation, probe, against),
            _saving(evaluation, evaluation.gap_closed["saving"]),
        ),
    )


def _headline(evaluation: Evaluation, probe: RouterResult, against: Difference | None) -> str:
    if probe.auroc.value is None:
        return "These queries cannot tell whether the probe works"
    if against is None or against.auroc.value is None:
        return "The probe has no baseline to be compared with"
    match _sign(against.auroc):
        case 1:
            ranks = "The probe tells more than the query's text does"
        case -1:
            ranks = f"{spoken(against.against)} wins: the probe tells less than the query's text"
        case _:
            ranks = f"The probe is not clearly better than {spoken(against.against)}"
    return ranks + _what_that_saves(evaluation.gap_closed["saving"])


def _what_that_saves(gap: GapClosed) -> str:
    if gap.simple is None or gap.share.value is None:
        return ""
    match _sign(gap.share):
        case 1:
            return f", and saves more at equal quality than {spoken(gap.simple)}"
        case -1:
            return f", and saves less at equal quality than {spoken(gap.simple)}"
        case _:
            return f"; at equal quality it may save no more than {spoken(gap.simple)}"


def _ranking(evaluation: Evaluation, probe: RouterResult, against: Difference | None) -> str:
    n, rate = f"{evaluation.test_size:,}", percent(evaluation.base_rate, 0)
    if probe.auroc.value is None:
        return (
            f"On {n} test queries the AUROC of the probe is undefined: {why_undefined(evaluation)}."
        )
    text = (
        f"On {n} test queries, of which the weak model gets {rate} right, the probe tells those "
        f"from the others with an AUROC of {_with_interval(probe.auroc)}; 0.5 is chance, 1 perfect."
    )
    if against is not None:
        baseline = evaluation.router(against.against)
        of_baseline = number(baseline.auroc.value, 2) if baseline else UNDEFINED
        text += (
            f" The best baseline that sees the query alone, {spoken(against.against)}, has "
            f"{of_baseline}: {_difference(against)}."
        )
    return text + _same_prefill(evaluation)


def _same_prefill(evaluation: Evaluation) -> str:
    """The best of the other routers that read the weak model's prefill, and cost the same."""
    rivals = {
        router.name: router.auroc.value
        for router in evaluation.routers
        if router.sees == "prefill" and router.auroc.value is not None
    }
    rows = [row for row in evaluation.differences if row.against in rivals]
    if not rows:
        return ""
    best = max(rows, key=lambda row: rivals[row.against])
    return (
        f" From the same prefill, {spoken(best.against)} has {number(rivals[best.against], 2)}: "
        f"{_difference(best)}."
    )


def _difference(row: Difference) -> str:
    return f"a difference of {_signed_with_interval(row.auroc)}, {_STANDS[_sign(row.auroc)]}"


def _saving(evaluation: Evaluation, gap: GapClosed) -> str:
    basis = "of the cost" if evaluation.cost_basis == "tokens" else "of the strong calls"
    if gap.of_probe.value is None:
        return (
            "What routing saves at the strong model's quality is undefined: "
            f"{gap.reason or why_undefined(evaluation, gap=True)}."
        )
    text = (
        "At the quality of always asking the strong model, the probe saves "
        f"{_percent_with_interval(gap.of_probe)} {basis}"
    )
    if gap.simple is not None:
        text += (
            f" and the best simple router, {spoken(gap.simple)}, "
            f"{_percent_with_interval(gap.of_simple)}"
        )
    text += f"; an oracle would save {percent(gap.of_oracle.value, 0)}."
    if gap.share.value is None:
        return f"{text} The share of the gap that the probe closes is undefined: {gap.reason}."
    closes = (
        f" Of the gap between {spoken(gap.simple or UNDEFINED)} and the oracle the probe closes "
        f"{_percent_with_interval(gap.share)}"
    )
    return text + closes + (", which may be nothing." if _sign(gap.share) == 0 else ".")


_STANDS = {
    1: "so the probe is ahead",
    0: "which may be chance",
    -1: "so the probe is behind",
}


def _sign(interval: Interval) -> int:
    """1 or -1 when the whole interval lies on one side of 0, else 0."""
    if interval.low is None or interval.high is None:
        return 0
    return 1 if interval.low > 0 else -1 if interval.high < 0 else 0


def _with_interval(interval: Interval) -> str:
    if interval.low is None:
        return number(interval.value, 2)
    return (
        f"{number(interval.value, 2)} (95 % interval {number(interval.low, 2)} to "
        f"{number(interval.high, 2)})"
    )


def _signed_with_interval(interval: Interval) -> str:
    if interval.value is None or interval.low is None:
        return signed(interval.value, 2)
    return f"{signed(interval.value, 2)} ({signed(interval.low, 2)} to {signed(interval.high, 2)})"


def _percent_with_interval(interval: Interval) -> str:
    if interval.value is None or interval.low is None:
        return percent(interval.value, 0)
    return (
        f"{percent(interval.value, 0)} ({percent(interval.low, 0)} to {percent(interval.high, 0)})"
    )
