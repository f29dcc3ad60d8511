"""Verbs that learn: collect, train, evaluate."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretell.cli._console import counting, out, print_drawing, print_json, tracking, waiting
from foretell.cli._options import (
    DEFAULT_CONFIG,
    ConfigPath,
    DomainName,
    DomainRoute,
    JsonFlag,
    RouteName,
    StrongName,
    WeakName,
)
from foretell.errors import InputError
from foretell.records import Observation, ReadPoint, Role, Sampling

if TYPE_CHECKING:
    from foretell.probes import DepthLimit, StrongHeadSettings, TokensHeadSettings


@dataclass(frozen=True, slots=True)
class _Job:
    """One model to run over the queries; ``counts`` gets what came of it under its title."""

    title: str
    role: Role
    key: str
    observe: Callable[..., Observation]
    counts: dict[str, Any]


def collect(
    domain: DomainName,
    input: Annotated[Path, typer.Option(help="queries.jsonl: one query a line")],  # noqa: A002
    config: ConfigPath = DEFAULT_CONFIG,
    with_strong: Annotated[
        bool, typer.Option("--with-strong", help="ask the first strong model, too")
    ] = False,
    with_pool: Annotated[
        bool,
        typer.Option("--with-pool", help="ask every strong model and every other in the pool, too"),
    ] = False,
    rollouts: Annotated[
        int, typer.Option(min=1, help="answers per query; all but the first are sampled")
    ] = 1,
    max_tokens: Annotated[int, typer.Option(min=1, help="longest answer, in tokens")] = 256,
    stop: Annotated[
        list[str] | None, typer.Option(help="end answers here; may be given several times")
    ] = None,
    read_point: Annotated[
        list[str] | None,
        typer.Option(help="such as layer20_mean; about 12 layers and both poolings by default"),
    ] = None,
    route: RouteName = None,
    parallel: Annotated[int, typer.Option(min=1, help="queries at once")] = 8,
    json: JsonFlag = False,
) -> None:
    """Run the weak model (and others) over queries; keep what happened.

    Interrupted, it keeps what was done; the same command goes on from there.

    Example: foretell collect -c foretell.yaml --domain geo --input queries.jsonl --with-strong
    """
    from foretell.runtime import (
        Foretell,
        answering_key,
        collect,
        default_read_points,
        engine_key,
        observer_of_engine,
        observer_of_model,
    )
    from foretell.store import check_splits, load_queries

    queries = load_queries(input)
    check_splits(queries)
    points = [ReadPoint.parse(name) for name in read_point or ()]
    sampling = Sampling(max_tokens=max_tokens, stop=tuple(stop or ()))
    result: dict[str, Any] = {"domain": domain, "queries": len(queries)}
    with Foretell.from_config(config) as ft, ft.open_store() as store:
        chosen = ft.route_config(route)
        with waiting("opening the weak model") as say:
            engine = ft.open_engine(chosen.weak, progress=say)
        points = points or list(default_read_points(engine.identity))
        pool: dict[str, Any] = {}
        jobs = [
            _Job("weak", "weak", engine_key(engine), observer_of_engine(engine, points), result)
        ]
        names = [*chosen.strong, *chosen.pool] if with_pool else chosen.strong[: int(with_strong)]
        for name in dict.fromkeys(names):
            with waiting(f"opening {name}") as say:
                model = ft.open_configured(name)
                say(f"opened {name}")
            title, counts = ("strong", result) if name == chosen.strong[0] else (name, pool)
            observe = observer_of_model(model)
            jobs.append(_Job(title, "strong", answering_key(model), observe, counts))
        for job in jobs:
            with counting(f"{job.title} model", len(queries) * rollouts) as advance:
                done = collect(
                    store,
                    queries,
                    job.observe,
                    domain=domain,
                    role=job.role,
                    key=job.key,
                    sampling=sampling,
                    rollouts=rollouts,
                    parallel=parallel,
                    on_done=lambda _, advance=advance: advance(),
                )
            job.counts[job.title] = {"new": done.new, "skipped": done.skipped}
            if not json:
                out.print(f"{job.title}: {done.new} answers new, {done.skipped} there already")
        if with_pool:
            result["pool"] = pool
    if json:
        print_json(result)


def train(
    domain: DomainName,
    config: ConfigPath = DEFAULT_CONFIG,
    metric: Annotated[
        str | None, typer.Option(help="which labels; may be left out when there is one kind")
    ] = None,
    kind: Annotated[
        list[str] | None,
        typer.Option(
            help="kind of probe to choose from, may be repeated: linear, several, mix, fusion "
            "(these by default), mlp, attention (need torch)"
        ),
    ] = None,
    max_depth: Annotated[
        float | None,
        typer.Option(
            help="read only so much of the layers, as 0.6: an escalated query pays at most about "
            "that share of a prefill"
        ),
    ] = None,
    route: DomainRoute = None,
    weak: WeakName = None,
    strong: StrongName = None,
    nested: Annotated[
        bool, typer.Option(help="measure the selection itself in outer folds (5 × the work)")
    ] = True,
    seed: Annotated[int, typer.Option(help="decides the folds")] = 0,
    json: JsonFlag = False,
) -> None:
    """Select layer and pooling by cross-validation, fit, calibrate, and save a probe.

    A model in the pool of a route of the domain gets a head of its own: its chance is foretold
    from the same prefill.

    Example: foretell train --domain geo
    """
    from dataclasses import asdict

    from foretell.cli._explained import interval
    from foretell.cli._members import members_of
    from foretell.probes import DEFAULT_KINDS
    from foretell.runtime import Foretell, train_probe

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        members = members_of(ft, store, domain, route=route, weak=weak, strong=strong)
        with tracking("searching read points") as progress:
            trained = train_probe(
                store,
                domain,
                ft.config.probes.dir,
                now=datetime.now(UTC),
                metric=metric,
                kinds=kind or DEFAULT_KINDS,
                max_depth=max_depth,
                weak_model=members.weak,
                strong_model=members.strong,
                pool=members.pool,
                nested=nested,
                seed=seed,
                progress=progress,
            )
    card = trained.card
    if json:
        print_json(
            {
                "probe": card.name,
                "folder": str(trained.folder),
                "domain": domain,
                "kind": card.kind,
                "read_points": [point.name for point in card.read_points],
                "read_point": card.read_point.name,
                "calibration": card.calibration.kind,
                "train_size": card.n_train,
                "base_rate": card.base_rate,
                "nested": card.nested_metrics,
                "depth": None if card.depth is None else _depth(card.depth),
                "gate": None if card.gate is None else asdict(card.gate.false_alarms),
                "heads": {
                    "strong": _metrics(card.heads.strong),
                    "tokens": _metrics(card.heads.tokens),
                    "reasons": dict(card.heads.reasons),
                },
                "pool": {name: _metrics(head) for name, head in card.heads.pool.items()},
                **{name: asdict(value) for name, value in card.metrics.items()},
            }
        )
        return
    where = "; ".join(map(str, card.read_points))
    out.print(f"probe {card.name} ({card.kind}) reads {where}; saved in {trained.folder}")
    for name, value in card.metrics.items():
        out.print(f"  {name:9} {interval(value)}  (held out, {card.n_train} queries)")
    if (depth := card.depth) is not None:
        out.print(
            f"within {depth.share:.0%} of the layers a linear probe has AUROC "
            f"{_number(depth.auroc)}; without the limit {_number(depth.unlimited_auroc)}, at "
            f"{depth.unlimited_read_point}"
        )
    heads = {"the strong model": card.heads.strong, **card.heads.pool}
    for name, head in heads.items():
        if head is not None:
            out.print(f"foretells {name}, too: AUROC {interval(head.metrics.get('auroc'))}")
    for name, reason in card.heads.reasons.items():
        if name.startswith("pool."):
            out.print(f"does not foretell {name.removeprefix('pool.')}: {reason}")


def evaluate(
    domain: DomainName,
    config: ConfigPath = DEFAULT_CONFIG,
    metric: Annotated[
        str | None, typer.Option(help="which labels; may be left out when there is one kind")
    ] = None,
    report: Annotated[
        Path | None, typer.Option(help="where to write the HTML report; '<domain>.html' by default")
    ] = None,
    route: RouteName = None,
    weak: WeakName = None,
    strong: StrongName = None,
    router: Annotated[
        list[str] | None,
        typer.Option(help="compare only these with the probe; may be repeated; all by default"),
    ] = None,
    ask: Annotated[
        str | None,
        typer.Option(help="configured model that the router llm asks for a difficulty"),
    ] = None,
    ask_budget: Annotated[
        int, typer.Option(min=1, help="most calls to that model, in training and in the test each")
    ] = 200,
    learning_curve: Annotated[
        bool, typer.Option(help="how good the probe is with fewer labels; takes many fits")
    ] = True,
    robustness: Annotated[
        int,
        typer.Option(
            min=0,
            help="run the weak model on so many changed test queries, and attack the probe; 0: no",
        ),
    ] = 0,
    seed: Annotated[int, typer.Option(help="decides folds, lots and resamples")] = 0,
    json: JsonFlag = False,
) -> None:
    """All routers side by side on held-out queries, with intervals and controls.

    Every router is fitted on the domain's training queries and measured on its test queries. Costs
    take the prices of the route's models, where both have one.

    Example: foretell evaluate --domain geo --json > result.json
    """
    import numpy as np

    from foretell.cli._evaluating import measured_robustness, prices_of
    from foretell.cli._members import members_of
    from foretell.cli._routers import compared_routers, router_table
    from foretell.evaluation import (
        ReportContext,
        draw_curve,
        evaluate_routers,
        gather_extras,
        render_report,
    )
    from foretell.routers import LlmRouter
    from foretell.runtime import Foretell, asking, load_split, the_metric

    path = report or Path(f"{domain}.html")
    if not path.parent.is_dir():
        raise InputError(
            f"there is no folder {path.parent} for the report; make it, or give another --report"
        )
    with Foretell.from_config(config) as ft, ft.open_store() as store:
        metric = the_metric(store, domain, metric)
        members = members_of(ft, store, domain, route=route, weak=weak, strong=strong)
        train, test = (
            load_split(
                store,
                domain,
                split,
                metric=metric,
                weak_model=members.weak,
                strong_model=members.strong,
            )
            for split in ("train", "test")
        )
        routers = compared_routers(train, names=router)
        if ask is not None:
            routers.append(
                LlmRouter(
                    ask=asking(ft.open_configured(ask)),
                    training_calls=ask_budget,
                    budget=ask_budget,
                )
            )
        with tracking("comparing routers") as progress:
            evaluation = evaluate_routers(
                train,
                test,
                routers,
                np.random.default_rng(seed),
                prices=prices_of(ft, route),
                progress=progress,
            )
        with tracking("gathering the rest of the evidence") as progress:
            extras = gather_extras(
                evaluation,
                train,
                test,
                np.random.default_rng(seed + 1),
                learning=learning_curve,
                progress=progress,
            )
        if robustness:
            with waiting("changing queries and attacking the probe") as say:
                extras = measured_robustness(
                    ft, store, evaluation, test, extras, count=robustness, seed=seed, route=route,
                    say=say,
                )  # fmt: skip
    page = render_report(
        evaluation,
        ReportContext(
            title=f"foretell: {domain}",
            asked=f"The stored queries of domain {domain!r}, judged by {metric!r}.",
            command=shlex.join(["foretell", *sys.argv[1:]]),
            strong="the strong model's stored answers",
            created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        ),
        extras=extras,
    )
    path.write_text(page, encoding="utf-8")
    if json:
        print_json(
            {
                "domain": domain,
                "metric": metric,
                "report": str(path),
                **evaluation.to_json(),
                **extras.to_json(),
            }
        )
    else:
        out.print(router_table(evaluation))
        print_drawing(draw_curve(evaluation, min(out.width, 100)))
        for row in extras.guarantees:
            out.print(f"quality {row.quality:g}: {row.promise}")
        out.print(f"report: {path}")


def _metrics(head: StrongHeadSettings | TokensHeadSettings | None) -> dict[str, Any] | None:
    from dataclasses import asdict

    return head and {name: asdict(value) for name, value in head.metrics.items()}


def _depth(limit: DepthLimit) -> dict[str, Any]:
    return {
        "share": limit.share,
        "auroc": limit.auroc,
        "unlimited_auroc": limit.unlimited_auroc,
        "unlimited_read_point": limit.unlimited_read_point.name,
    }


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb in (collect, train, evaluate):
        app.command()(verb)
