"""Verbs that learn: collect, label, train, evaluate."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretell.cli._console import counting, out, print_drawing, print_json, tracking, waiting
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, DomainName, JsonFlag, RouteName
from foretell.errors import InputError
from foretell.records import Observation, ReadPoint, Role, Sampling

if TYPE_CHECKING:
    from foretell.probes import StrongHeadSettings, TokensHeadSettings


def collect(
    domain: DomainName,
    input: Annotated[Path, typer.Option(help="queries.jsonl: one query a line")],  # noqa: A002
    config: ConfigPath = DEFAULT_CONFIG,
    with_strong: Annotated[
        bool, typer.Option("--with-strong", help="ask the strong model, too")
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
    """Run the weak model (and the strong one) over queries; keep what happened.

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
        jobs: list[tuple[Role, str, Callable[..., Observation]]] = [
            ("weak", engine_key(engine), observer_of_engine(engine, points))
        ]
        if with_strong:
            with waiting("opening the strong model") as say:
                strong = ft.open_model(chosen.strong[0], progress=say)
            jobs.append(("strong", answering_key(strong), observer_of_model(strong)))
        for role, key, observe in jobs:
            with counting(f"{role} model", len(queries) * rollouts) as advance:
                done = collect(
                    store,
                    queries,
                    observe,
                    domain=domain,
                    role=role,
                    key=key,
                    sampling=sampling,
                    rollouts=rollouts,
                    parallel=parallel,
                    on_done=lambda _, advance=advance: advance(),
                )
            result[role] = {"new": done.new, "skipped": done.skipped}
            if not json:
                out.print(f"{role}: {done.new} answers new, {done.skipped} there already")
    if json:
        print_json(result)


def label(
    domain: DomainName,
    labeller: Annotated[
        str, typer.Option(help="json_valid, json_field, exact, numeric, import, …")
    ],
    config: ConfigPath = DEFAULT_CONFIG,
    option: Annotated[
        list[str] | None, typer.Option(help="name=value for the labeller; may be repeated")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Judge stored answers: did each succeed?

    Example: foretell label --domain geo --labeller json_field --option field=country
    """
    from dataclasses import asdict

    from foretell.flywheel import label_domain, make_labeller
    from foretell.runtime import Foretell
    from foretell.store import load_outcomes

    options = _name_values(option or ())
    with Foretell.from_config(config) as ft, ft.open_store() as store:
        if labeller == "import":
            if set(options) != {"file"}:
                raise InputError("labeller import takes one option: --option file=outcomes.jsonl")
            outcomes = load_outcomes(Path(options["file"]), domain)
            store.put_outcomes(outcomes)
            result: dict[str, Any] = {"domain": domain, "imported": len(outcomes)}
        else:
            counts = label_domain(store, domain, make_labeller(labeller, options))
            result = {"domain": domain, **{role: asdict(row) for role, row in counts.items()}}
    if json:
        print_json(result)
    elif "imported" in result:
        out.print(f"{result['imported']} outcomes imported")
    else:
        for role in ("weak", "strong"):
            row = result[role]
            if not row["queries"]:
                continue
            rate = row["success_rate"]
            share = "none could be told" if rate is None else f"{rate:.1%} succeeded"
            out.print(f"{role}: {row['labelled']} of {row['queries']} labelled, {share}")


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
    nested: Annotated[
        bool, typer.Option(help="measure the selection itself in outer folds (5 × the work)")
    ] = True,
    seed: Annotated[int, typer.Option(help="decides the folds")] = 0,
    json: JsonFlag = False,
) -> None:
    """Select layer and pooling by cross-validation, fit, calibrate, and save a probe.

    Example: foretell train --domain geo
    """
    from dataclasses import asdict

    from foretell.probes import DEFAULT_KINDS
    from foretell.runtime import Foretell, train_probe

    with (
        Foretell.from_config(config) as ft,
        ft.open_store() as store,
        tracking("searching read points") as progress,
    ):
        trained = train_probe(
            store,
            domain,
            ft.config.probes.dir,
            now=datetime.now(UTC),
            metric=metric,
            kinds=kind or DEFAULT_KINDS,
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
                "gate": None if card.gate is None else asdict(card.gate.false_alarms),
                "heads": {
                    "strong": _metrics(card.heads.strong),
                    "tokens": _metrics(card.heads.tokens),
                    "reasons": dict(card.heads.reasons),
                },
                **{name: asdict(value) for name, value in card.metrics.items()},
            }
        )
        return
    where = "; ".join(map(str, card.read_points))
    out.print(f"probe {card.name} ({card.kind}) reads {where}; saved in {trained.folder}")
    for name, value in card.metrics.items():
        out.print(f"  {name:9} {_with_interval(asdict(value))}  (held out, {card.n_train} queries)")


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
        train = load_split(store, domain, "train", metric=metric)
        test = load_split(store, domain, "test", metric=metric)
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


def _name_values(options: tuple[str, ...] | list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"option {text!r} is not name=value; write --option field=country")
        values[name] = value
    return values


def _with_interval(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "undefined"
    if value.get("low") is None:
        return f"{value['value']:.3f}"
    return f"{value['value']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    for verb in (collect, label, train, evaluate):
        app.command()(verb)
