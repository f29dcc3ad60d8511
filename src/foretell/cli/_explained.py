"""An explanation in lines that a person reads."""

from __future__ import annotations

from foretell.probes import Metric
from foretell.records import Decision
from foretell.runtime._explain import Explanation, NearbyOutcomes, ProbeSummary, TokenShare
from foretell.runtime._neighbours import NearQuery

_TEXT = 60


def explained_lines(decision: Decision, explanation: Explanation) -> list[str]:
    """What lies behind a decision, a line for each fact."""
    lines: list[str] = []
    if explanation.estimate is not None:
        lines.append(_estimate(explanation.estimate))
    strong = {} if decision.gain is None else {"the strong model": decision.gain}
    for name, gain in (*strong.items(), *explanation.pool_gains.items()):
        compared = "more" if gain >= 0 else "less"
        lines.append(f"{name} is {abs(gain):.3f} {compared} likely to succeed than the weak one")
    if explanation.probe is not None:
        lines.append(_probe(explanation.probe))
    lines += [f"it would be {change.sentence}" for change in explanation.changes]
    if decision.cause is not None:
        lines.append(f"cause: {decision.cause}")
    if explanation.tokens:
        lines.append("looked at most: " + ", ".join(map(_token, explanation.tokens)))
    if explanation.neighbours:
        lines.append("most alike in training:")
        lines += [f"  {_near(query)}" for query in explanation.neighbours]
    elif "neighbours" in explanation.missing and explanation.probe is not None:
        lines.append(f"nothing alike to show: {explanation.missing['neighbours']}")
    return lines


def _estimate(seen: NearbyOutcomes) -> str:
    return (
        f"of {seen.n} held-out queries with chances from {seen.lowest:.3f} to {seen.highest:.3f}, "
        f"{seen.succeeded:g} succeeded: {seen.rate:.1%}, {seen.confidence:.0%} interval "
        f"{seen.low:.1%} to {seen.high:.1%}"
    )


def _probe(probe: ProbeSummary) -> str:
    return (
        f"probe {probe.name}: {probe.kind}, reads {', '.join(probe.read_points)}, trained on "
        f"{probe.n_train} queries labelled by {probe.label}, AUROC {interval(probe.auroc)}, "
        f"{probe.created[:10]}"
    )


def interval(metric: Metric | None) -> str:
    """A value with its interval in brackets, where it has one."""
    if metric is None or metric.value is None:
        return "undefined"
    if metric.low is None or metric.high is None:
        return f"{metric.value:.3f}"
    return f"{metric.value:.3f} [{metric.low:.3f}, {metric.high:.3f}]"


def _near(query: NearQuery) -> str:
    said = f"{query.similarity:.2f}  weak {_outcome(query.weak)}, strong {_outcome(query.strong)}"
    text = " ".join((query.text or "").split())
    return f"{said}  {query.id}" + (f"  {text[:_TEXT]}" if text else "")


def _outcome(value: float | None) -> str:
    if value is None:
        return "?"
    return {0.0: "wrong", 1.0: "right"}.get(value, f"{value:.2f}")


def _token(token: TokenShare) -> str:
    return f"{token.position if token.text is None else repr(token.text)} {token.weight:.0%}"
