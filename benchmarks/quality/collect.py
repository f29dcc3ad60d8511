"""Have the models answer the benchmark's queries; runs for hours on two cores, and resumes.

    python benchmarks/quality/collect.py --data DATA --models MODELS --to .cache/quality \
        --weak qwen-0.5b --domains geo svamp
    python benchmarks/quality/collect.py ... --strong qwen-1.5b --domains svamp

Each weak model has a store of its own in the folder; the strong model's answers are kept in
another and joined when they are evaluated.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

from _domains import SIZES, load_domain

from foretell.config import LlamacppModel
from foretell.evaluation.domains import Domain
from foretell.flywheel import JsonField, JsonFields, Labeller, label_domain, make_labeller
from foretell.records import Observation, ReadPoint
from foretell.runtime import (
    collect,
    default_read_points,
    engine_key,
    observer_of_engine,
    open_engine,
)
from foretell.store import Store


def token_points(n_layers: int) -> tuple[ReadPoint, ...]:
    """Two layers, fixed before any look at the data: at 60 % and at 80 % of the depth."""
    return tuple(ReadPoint(round(share * (n_layers - 1)), "tokens") for share in (0.6, 0.8))


def labeller_of(domain: Domain) -> Labeller:
    """The domain's labeller; tables of aliases are given as they are, not as files."""
    options = dict(domain.labeller_options)
    match domain.labeller:
        case "json_field":
            return JsonField(options["field"], options["aliases"])
        case "json_fields":
            return JsonFields(options.get("aliases"))
        case name:
            return make_labeller(name, options)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument("--weak")
    who.add_argument("--strong")
    parser.add_argument("--domains", nargs="+", choices=list(SIZES), required=True)
    parser.add_argument("--limit", type=int, help="only the first queries, to try")
    parser.add_argument("--rollouts", type=int, default=1)
    parser.add_argument("--tokens", action="store_true", help="token by token, too")
    arguments = parser.parse_args()

    name = arguments.weak or arguments.strong
    role = "weak" if arguments.weak else "strong"
    engine = open_engine(
        LlamacppModel(engine="llamacpp", model=f"file:{arguments.models / name}.gguf", parallel=8)
    )
    points: tuple[ReadPoint, ...] = ()
    if role == "weak":
        points = default_read_points(engine.identity)
        if arguments.tokens:
            points += token_points(engine.identity.n_layers)
    folder = arguments.to / f"{role}-{name}"
    folder.mkdir(parents=True, exist_ok=True)
    with Store.open(f"sqlite:///{folder / 'store.db'}", folder / "vectors") as store:
        for domain_name in arguments.domains:
            domain = load_domain(domain_name, arguments.data)
            # Test queries first: with a limit, the comparison loses nothing.
            in_order = sorted(domain.queries, key=lambda query: query.split != "test")
            queries = (in_order if role == "strong" else domain.queries)[: arguments.limit]
            observe = observer_of_engine(engine, points)

            def as_role(*args, observe=observe) -> Observation:
                return replace(observe(*args), role=role)

            started = time.perf_counter()
            done = collect(
                store,
                queries,
                as_role,
                domain=domain.name,
                role=role,
                key=engine_key(engine),
                sampling=domain.sampling,
                rollouts=arguments.rollouts,
            )
            seconds = time.perf_counter() - started
            labeller = labeller_of(domain)
            counts = label_domain(store, domain.name, labeller, roles=(role,))[role]
            print(
                f"{name} {domain.name}: {done.new} new in {seconds:.0f} s, {counts.labelled} of "
                f"{counts.queries} labelled, {counts.success_rate} right, {dict(counts.reasons)}",
                flush=True,
            )
    engine.close()


if __name__ == "__main__":
    main()
