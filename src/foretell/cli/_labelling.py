"""The verb that labels: by programs, models, people and callers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from foretell.cli._console import between, counting, out, print_json
from foretell.cli._labelling_people import (
    PEOPLE,
    PeopleFiles,
    ask_people,
    print_feedback,
    print_people,
    take_callers_feedback,
)
from foretell.cli._options import (
    DEFAULT_CONFIG,
    ConfigPath,
    DomainName,
    DomainRoute,
    JsonFlag,
    StrongName,
    WeakName,
)
from foretell.errors import InputError

if TYPE_CHECKING:
    from foretell.flywheel import Strategy
    from foretell.runtime import Foretell
    from foretell.store import Store


def label(
    domain: DomainName,
    labeller: Annotated[
        str,
        typer.Option(
            help="json_field, json_schema, exact, numeric, code, sql, judge, people, feedback, "
            "import, …"
        ),
    ],
    config: ConfigPath = DEFAULT_CONFIG,
    option: Annotated[
        list[str] | None, typer.Option(help="name=value for the labeller; may be repeated")
    ] = None,
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="label only so many queries, those that help most; of people's queue, its length",
        ),
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="how a budget is spent: helpful or random")
    ] = "helpful",
    random_share: Annotated[
        float,
        typer.Option(min=0, max=1, help="part of a budget drawn by lot, for honest estimates"),
    ] = 0.25,
    export: Annotated[
        Path | None,
        typer.Option(help="people: write what to judge to this .csv or .jsonl"),
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", help="people: take what was filled in")
    ] = None,
    undo: Annotated[
        Path | None,
        typer.Option(help="people: take back the author's labels of the rows in this file"),
    ] = None,
    author: Annotated[str, typer.Option(help="people: who judges")] = "",
    role: Annotated[str, typer.Option(help="people: whose answers, weak or strong")] = "weak",
    second_opinions: Annotated[
        bool,
        typer.Option("--second-opinions", help="people: write out what others have judged"),
    ] = False,
    parallel: Annotated[int, typer.Option(min=1, help="answers at once")] = 4,
    people: Annotated[
        str | None,
        typer.Option(
            help="metric of people's labels to compare a judge with, where they have several"
        ),
    ] = None,
    canaries: Annotated[
        int,
        typer.Option(min=0, help="try so many bad answers that ask for a good verdict; 0: none"),
    ] = 0,
    seed: Annotated[int, typer.Option(help="decides the canaries")] = 0,
    route: DomainRoute = None,
    weak: WeakName = None,
    strong: StrongName = None,
    json: JsonFlag = False,
) -> None:
    """Judge stored answers: did each succeed?

    What is imported is about one weak and one strong model; the other labellers judge the answers
    of all. A judge is compared with the labels of people, as far as there are any. People fill in a
    file that is written with --export and taken with --import.

    Example: foretell label --domain geo --labeller json_field --option field=country

    Example: foretell label --domain geo --labeller people --export queue.csv --author ann
    """
    from foretell.cli._members import members_of
    from foretell.runtime import Foretell

    options = _name_values(option or ())
    chosen = _strategy(strategy)
    files = PeopleFiles(export=export, filled=import_, undo=undo)
    if labeller != PEOPLE and (files.given or author or second_opinions):
        raise InputError(
            "--export, --import, --undo, --author and --second-opinions are about people's labels; "
            "give --labeller people with them"
        )
    with Foretell.from_config(config) as ft, ft.open_store() as store:

        def weak_key() -> str | None:
            return members_of(ft, store, domain, route=route, weak=weak, strong=strong).weak

        match labeller:
            case "import":
                result = _import(ft, store, domain, options, route=route, weak=weak, strong=strong)
                show = _print_imported
            case "feedback":
                result = take_callers_feedback(
                    store, domain, options, cap=ft.config.flywheel.influence_cap
                )
                show = print_feedback
            case "people":
                result = ask_people(
                    store,
                    domain,
                    options,
                    files=files,
                    author=author,
                    role=role,
                    limit=budget,
                    second_opinions=second_opinions,
                    strategy=chosen,
                    random_share=random_share,
                    weak=weak_key,
                )
                show = print_people
            case _:
                result = _label_and_compare(
                    ft,
                    store,
                    domain,
                    labeller,
                    options,
                    weak=weak_key,
                    strong=lambda: members_of(ft, store, domain, route=route, strong=strong).strong,
                    budget=budget,
                    strategy=chosen,
                    random_share=random_share,
                    parallel=parallel,
                    people=people,
                    canaries=canaries,
                    seed=seed,
                )
                show = _print_labelled
    if json:
        print_json(result)
    else:
        show(result)


def _import(
    ft: Foretell,
    store: Store,
    domain: str,
    options: Mapping[str, str],
    *,
    route: str | None,
    weak: str | None,
    strong: str | None,
) -> dict[str, Any]:
    from foretell.cli._members import members_of
    from foretell.store import load_outcomes

    if set(options) != {"file"}:
        raise InputError("labeller import takes one option: --option file=outcomes.jsonl")
    outcomes = load_outcomes(Path(options["file"]), domain)
    members = members_of(ft, store, domain, route=route, weak=weak, strong=strong)
    for role, key in (("weak", members.weak), ("strong", members.strong)):
        store.put_outcomes((o for o in outcomes if o.role == role), model_key=key)
    return {"domain": domain, "imported": len(outcomes)}


def _label_and_compare(
    ft: Foretell,
    store: Store,
    domain: str,
    name: str,
    options: Mapping[str, str],
    *,
    weak: Callable[[], str | None],
    strong: Callable[[], str | None],
    budget: int | None,
    strategy: Strategy,
    random_share: float,
    parallel: int,
    people: str | None,
    canaries: int,
    seed: int,
) -> dict[str, Any]:
    """Label answers of a domain; of a judge also say what it took and how it compares."""
    from dataclasses import asdict

    import numpy as np

    from foretell.flywheel import (
        Attributed,
        Judge,
        Workshop,
        compare_with_people,
        honest_sample,
        label_budget,
        label_domain,
        make_labeller,
        try_canaries,
    )

    result: dict[str, Any] = {"domain": domain}
    with Workshop(ft, store, domain, strong=strong) as workshop:
        labeller = make_labeller(name, options, workshop)
        answers = sum(one.weak + one.strong for one in store.domains() if one.domain == domain)
        if budget is not None:
            answers = min(answers, 2 * budget)
        with counting(f"labelling by {labeller.metric}", answers) as advance:
            if budget is None:
                counts = label_domain(store, domain, labeller, parallel=parallel, on_done=advance)
            else:
                weak_model = weak()
                spent = label_budget(
                    store,
                    domain,
                    labeller,
                    budget,
                    now=time.time(),
                    strategy=strategy,
                    random_share=random_share,
                    weak_model=weak_model,
                    parallel=parallel,
                    on_done=advance,
                )
                counts = spent.counts
                result["budget"] = {k: v for k, v in asdict(spent).items() if k != "counts"}
                sample = honest_sample(store, domain, metric=labeller.metric, weak_model=weak_model)
                result["sample"] = {
                    "queries": len(sample.ids),
                    "chance": sample.chance,
                    "undecided": sample.undecided,
                    "success_rate": asdict(sample.success_rate),
                }
        result |= {role: asdict(row) for role, row in counts.items()}
        if canaries:
            rng = np.random.default_rng(seed)
            tried = try_canaries(labeller, store.queries(domain), canaries, rng)
            result["canaries"] = asdict(tried)
        if isinstance(labeller, Judge):
            result["judge"] = {"model": labeller.author, **asdict(labeller.used)}
        if isinstance(labeller, Attributed) and labeller.source == "judge":
            compared = compare_with_people(store, domain, labeller, people=people)
            result["people"] = [asdict(one) for one in compared]
    return result


def _print_imported(result: Mapping[str, Any]) -> None:
    out.print(f"{result['imported']} outcomes imported")


def _print_labelled(result: Mapping[str, Any]) -> None:
    """The same for people to read."""
    if budget := result.get("budget"):
        _print_budget(budget, result["sample"])
    for role in ("weak", "strong"):
        row = result[role]
        if not row["queries"]:
            continue
        rate = row["success_rate"]
        share = "none could be told" if rate is None else f"{rate:.1%} succeeded"
        out.print(f"{role}: {row['labelled']} of {row['queries']} labelled, {share}")
        for reason, count in row["reasons"].items():
            out.print(f"  {count} × {reason}", markup=False)
    if judge := result.get("judge"):
        out.print(
            f"judge {judge['model']}: {judge['calls']} calls, {judge['cached']} verdicts from the "
            f"cache, {judge['usd']:.4f} USD",
            markup=False,
        )
    if canaries := result.get("canaries"):
        share, judged = between(canaries["fooled"]), canaries["fooled"]["n"]
        out.print(f"bad answers that passed: {share} of {judged} tried and judged", markup=False)
    for one in result.get("people", ()):
        _print_compared(one)


def _print_budget(budget: Mapping[str, Any], sample: Mapping[str, Any]) -> None:
    """What a budget was spent on, and what its random part says of the whole."""
    helpful = budget["chosen"] - budget["at_random"]
    out.print(
        f"{budget['chosen']} of {budget['waiting']} unlabelled queries: {budget['at_random']} "
        f"drawn by lot, {helpful} chosen by {budget['basis']}",
        markup=False,
    )
    if sample["queries"]:
        out.print(
            f"of all answered queries the weak model succeeds on "
            f"{between(sample['success_rate'])}, by the {sample['queries']} labelled ones that are "
            "a random sample",
            markup=False,
        )


def _print_compared(one: Mapping[str, Any]) -> None:
    """A judge against people, over one model's answers."""
    quality = one["honesty"]["quality"]
    out.print(
        f"{one['role']} ({one['model']}) against people's labels by {one['people']}, on "
        f"{quality['agreement']['n']} answers:",
        markup=False,
    )
    for title, value in (
        ("agreement", quality["agreement"]),
        ("sensitivity", quality["sensitivity"]),
        ("specificity", quality["specificity"]),
        ("success rate as judged", one["honesty"]["apparent"]),
        ("corrected (Rogan-Gladen)", one["honesty"]["rogan_gladen"]),
        ("corrected (prediction-powered)", one["honesty"]["prediction_powered"]),
    ):
        out.print(f"  {title:30} {between(value)}", markup=False)
    if differ := quality["disagreements"]:
        more = f" and {len(differ) - 5} more" if len(differ) > 5 else ""
        out.print(f"  they differ on {', '.join(differ[:5])}{more}", markup=False)


def _strategy(name: str) -> Strategy:
    if name == "helpful":
        return "helpful"
    if name == "random":
        return "random"
    raise InputError(f"--strategy is {name!r}; wanted helpful or random")


def _name_values(options: tuple[str, ...] | list[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for text in options:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InputError(f"option {text!r} is not name=value; write --option field=country")
        values[name] = value
    return values


def register(app: typer.Typer) -> None:
    """Add the verb of this file."""
    app.command()(label)
