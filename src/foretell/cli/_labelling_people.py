"""Labels by people and by callers: files in and out, and what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from foretell.cli._console import between, out
from foretell.errors import InputError

if TYPE_CHECKING:
    from foretell.flywheel import Strategy
    from foretell.records import Role
    from foretell.store import Store

PEOPLE: Final = "people"
_QUEUE: Final = 50
_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class PeopleFiles:
    """What to do for people: at most one of the three."""

    export: Path | None
    filled: Path | None
    undo: Path | None

    @property
    def given(self) -> int:
        """How many of them."""
        return sum(path is not None for path in (self.export, self.filled, self.undo))


def ask_people(
    store: Store,
    domain: str,
    options: Mapping[str, str],
    *,
    files: PeopleFiles,
    author: str,
    role: str,
    limit: int | None,
    second_opinions: bool,
    strategy: Strategy,
    random_share: float,
    weak: Callable[[], str | None],
) -> dict[str, Any]:
    """Write a queue, take labels or take them back; without a file say how far people agree."""
    from foretell.flywheel import (
        people_agreement,
        people_queue,
        put_people_labels,
        read_queue,
        take_back_people_labels,
        write_queue,
    )

    if files.given > 1:
        raise InputError("give one of --export, --import and --undo at a time")
    metric = _peoples_metric(store, domain, options)
    result: dict[str, Any] = {"domain": domain, "metric": metric}
    if files.export is not None:
        items = people_queue(
            store,
            domain,
            metric,
            limit or _QUEUE,
            author=author,
            now=time.time(),
            role=_role(role),
            second_opinions=second_opinions,
            strategy=strategy,
            random_share=random_share,
            weak_model=weak(),
        )
        write_queue(files.export, items)
        return {
            **result,
            "exported": len(items),
            "truncated": sum(item.truncated for item in items),
            "file": str(files.export),
        }
    if files.filled is not None:
        filled = read_queue(files.filled)
        counts = put_people_labels(store, domain, filled.labels, metric=metric, author=author)
        return {**result, "blank": filled.blank, **asdict(counts)}
    if files.undo is not None:
        keys = [one.key for one in read_queue(files.undo).labels]
        taken = take_back_people_labels(store, domain, keys, metric=metric, author=author)
        return {**result, "taken_back": taken}
    return {
        **result,
        "agreements": [asdict(one) for one in people_agreement(store, domain, metric)],
    }


def take_callers_feedback(
    store: Store, domain: str, options: Mapping[str, str], *, cap: float
) -> dict[str, Any]:
    """Bring labels up to date with the feedback."""
    from foretell.flywheel import take_feedback, the_vote_metric

    if unknown := sorted(set(options) - {"metric", "votes"}):
        raise InputError(
            f"the labeller 'feedback' has no option {unknown[0]!r}; it has metric (what the labels "
            "are called) and votes (the metric that callers name, where it is another)"
        )
    metric = options.get("metric") or options.get("votes") or the_vote_metric(store, domain)
    counts = take_feedback(
        store, domain, metric=metric, influence_cap=cap, votes_by=options.get("votes")
    )
    return {"domain": domain, **asdict(counts)}


def print_people(result: Mapping[str, Any]) -> None:
    """What came of people's files."""
    if "exported" in result:
        cut = f", {result['truncated']} of them truncated" if result["truncated"] else ""
        out.print(
            f"{result['exported']} answers to judge (metric {result['metric']}{cut}): "
            f"{result['file']}; fill in your_label with right, wrong or skip, then give it to "
            "--import",
            markup=False,
            soft_wrap=True,
        )
        return
    if "taken_back" in result:
        out.print(f"{result['taken_back']} labels taken back")
        return
    if "right" in result:
        out.print(
            f"{result['right']} right, {result['wrong']} wrong, {result['skipped']} skipped, "
            f"{result['blank']} still blank (metric {result['metric']})",
            markup=False,
        )
        for name, words in (
            (
                "truncated",
                "called wrong had been cut at their token limit: not counted as failures",
            ),
            ("unknown", "are about answers that are not stored, or have changed"),
            ("replaced", "replace what the same person had said before"),
        ):
            if result[name]:
                out.print(f"  {result[name]} {words}")
    for one in result["agreements"]:
        first, second = one["authors"]
        out.print(
            f"{first} and {second} agree on {between(one['share'])} of "
            f"{one['share']['n']} answers, "
            f"kappa {between(one['kappa'])}{_named(one['disagreements'])}",
            markup=False,
            soft_wrap=True,
        )
    if not result["agreements"]:
        out.print("no two people have judged the same answer")


def print_feedback(result: Mapping[str, Any]) -> None:
    """What came of callers' feedback."""
    out.print(
        f"{result['labels']} labels by {result['metric']}, of {result['votes']} votes and "
        f"{result['keys']} keys: {result['created']} new, {result['changed']} changed, "
        f"{result['taken_back']} taken back",
        markup=False,
    )
    for name, words in (
        ("superseded", "votes replaced by a later one of the same key"),
        ("overruled", "votes on answers that a more trusted source has judged"),
        ("truncated", "votes against answers cut at their token limit: not counted as failures"),
        ("unstored", "votes on answers of which nothing is kept"),
        ("forged", "votes on requests of other keys: dropped"),
    ):
        if result[name]:
            out.print(f"  {result[name]} {words}")
    for key, count in result["over_cap"].items():
        out.print(
            f"  {count} votes of key {key or '(none)'} set aside: it gave too many", markup=False
        )
    for name, words in (
        ("contradicted", "requests on which keys contradict each other"),
        ("mistaken", "requests on which a caller contradicts a more trusted source"),
    ):
        if ids := result[name]:
            out.print(f"  {len(ids)} {words}{_named(ids)}", markup=False, soft_wrap=True)
    for metric, count in result["other_metrics"].items():
        out.print(f"  {count} votes by {metric} left alone", markup=False)


def _named(ids: list[str] | tuple[str, ...]) -> str:
    if not ids:
        return ""
    more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
    return f": {', '.join(ids[:_SHOWN])}{more}"


def _peoples_metric(store: Store, domain: str, options: Mapping[str, str]) -> str:
    """Named, or the one that the domain is labelled by, so that people's word comes first."""
    if unknown := sorted(set(options) - {"metric"}):
        raise InputError(f"the labeller 'people' has no option {unknown[0]!r}; it has metric")
    if "metric" in options:
        return options["metric"]
    known = store.metrics(domain)
    if len(known) > 1:
        raise InputError(
            f"domain {domain!r} is labelled by several metrics: {', '.join(known)}; choose one "
            "with --option metric=…"
        )
    return known[0] if known else "right"


def _role(name: str) -> Role:
    if name == "weak":
        return "weak"
    if name == "strong":
        return "strong"
    raise InputError(f"--role is {name!r}; wanted weak or strong")
