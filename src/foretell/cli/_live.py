"""Live queries through a route, a line for each, and what came of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median

import numpy as np
from rich.markup import escape
from rich.table import Table

from foretell.flywheel import Labeller
from foretell.records import Answer, Query, Reply, RoutingData, Sampling
from foretell.runtime import Route


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveResult:
    """What came of the live queries; shares and accuracies over all of them.

    ``cost_saving`` is against always asking the strong model, the weak prefills of escalated
    queries charged whole; ``early_exit_share`` is the share whose prefill was cut short,
    ``layers_computed_share`` the mean share of the model's layers that prefills went through.
    ``None`` where nothing is known.
    """

    queries: int
    kept: int
    escalated: int
    declined: int
    accuracy: float | None
    weak_only_accuracy: float | None
    strong_only_accuracy: float | None
    cost_saving: float | None
    prefill_ms_p50: float | None
    probe_ms_p50: float | None
    early_exit_share: float
    layers_computed_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What each model alone did on the same queries: outcomes, and the strong one's costs."""

    weak: Mapping[str, float]
    strong: Mapping[str, float]
    strong_usd: Mapping[str, float | None]

    @classmethod
    def of(cls, data: RoutingData, strong_usd: Mapping[str, float | None]) -> Known:
        """From stored and labelled answers."""
        return cls(
            weak=_finite(data.ids, data.weak),
            strong=_finite(data.ids, data.strong),
            strong_usd=strong_usd,
        )


def route_live(
    route: Route,
    queries: Sequence[Query],
    sampling: Sampling,
    labeller: Labeller,
    known: Known,
    say: Callable[..., None],
) -> LiveResult:
    """Route the queries one by one, as a server would, and say a line about each."""
    layers = route.weak_identity.n_layers
    replies: list[Reply] = []
    outcomes: list[float | None] = []
    for query in queries:
        started = time.perf_counter()
        reply = route.chat(query.messages, sampling)
        seconds = time.perf_counter() - started
        label = labeller.label(
            query,
            Answer(
                text=reply.text,
                model=reply.model,
                finish_reason=reply.finish_reason,
                usage=reply.usage,
            ),
        )
        replies.append(reply)
        outcomes.append(label.value)
        line = _line(query, reply, label.value, seconds)
        say(line, no_wrap=True, overflow="ellipsis", crop=True)
    actions = [reply.decision.action for reply in replies]
    ids = [query.id for query in queries]
    prefills = [r.decision.prefill_ms for r in replies if r.decision.prefill_ms is not None]
    probes = [r.decision.probe_ms for r in replies if r.decision.probe_ms is not None]
    stopped = sum(r.decision.stopped_at is not None for r in replies)
    return LiveResult(
        queries=len(queries),
        kept=actions.count("keep"),
        escalated=actions.count("escalate"),
        declined=actions.count("declined"),
        accuracy=_mean(outcomes),
        weak_only_accuracy=_mean([known.weak.get(i) for i in ids]),
        strong_only_accuracy=_mean([known.strong.get(i) for i in ids]),
        cost_saving=_saving([r.cost_usd for r in replies], [known.strong_usd.get(i) for i in ids]),
        prefill_ms_p50=median(prefills) if prefills else None,
        probe_ms_p50=median(probes) if probes else None,
        early_exit_share=stopped / len(queries),
        layers_computed_share=fmean(
            1.0 if (at := r.decision.stopped_at) is None else (at + 1) / layers for r in replies
        ),
    )


def live_table(live: LiveResult, strong_name: str) -> Table:
    """The live result against each model alone."""
    table = Table(box=None, pad_edge=False)
    table.add_column(f"{live.queries} live queries")
    for heading in ("small alone", "routed", "large alone"):
        table.add_column(heading, justify="right")
    table.add_row(
        "right answers",
        _percent(live.weak_only_accuracy),
        _percent(live.accuracy),
        _percent(live.strong_only_accuracy),
    )
    share = (live.queries - live.kept) / live.queries
    table.add_row("calls to the large model", "0%", _percent(share), "100%")
    table.add_row("cost saved", "", _percent(live.cost_saving), "0%")
    table.add_row("prefills cut short", "", _percent(live.early_exit_share), "")
    table.add_row("layers computed", "100%", _percent(live.layers_computed_share), "")
    table.caption = f"large model: {strong_name}; prices assumed, see foretell.yaml"
    table.caption_justify = "left"
    return table


def _line(query: Query, reply: Reply, value: float | None, seconds: float) -> str:
    decision = reply.decision
    colour = {"keep": "green", "escalate": "yellow"}.get(decision.action, "magenta")
    p = "  –  " if decision.p_success is None else f"{decision.p_success:.3f}"
    verdict = "?    " if value is None else "right" if value >= 0.5 else "[red]wrong[/red]"
    asked = query.text.splitlines()[0]
    answer = _cut(reply.text.replace("\n", " "), 30)
    return (
        f"[{colour}]{decision.action:8}[/{colour}] {p}  [dim]{seconds * 1e3:4.0f} ms[/dim]  "
        f"{verdict}  {escape(_cut(asked, 46)):46}  {escape(answer)}"
    )


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _finite(ids: Sequence[str], column: np.ndarray[tuple[int], np.dtype[np.float64]]):
    return {i: float(value) for i, value in zip(ids, column, strict=False) if np.isfinite(value)}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _saving(routed: Sequence[float | None], strong: Sequence[float | None]) -> float | None:
    pairs = [(r, s) for r, s in zip(routed, strong, strict=True) if r is not None and s is not None]
    always = sum(s for _, s in pairs)
    return 1 - sum(r for r, _ in pairs) / always if always > 0 else None


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.0%}"
