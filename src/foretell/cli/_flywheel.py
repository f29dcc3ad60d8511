"""Verbs of the flywheel: status, work, refit, drift, ladder, jobs, events."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from getpass import getuser
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from foretell.cli._console import err, out, print_json, tracking
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, DomainName, JsonFlag
from foretell.errors import InputError

if TYPE_CHECKING:
    from foretell.flywheel import DomainStatus
    from foretell.records import Event, Job

flywheel = typer.Typer(
    help="The loop from traffic to a better probe: look at it, and turn it.", no_args_is_help=True
)

_LATER_HELP = "leave it to a worker; by default it is done here and now"
Later = Annotated[bool, typer.Option("--later", help=_LATER_HELP)]
Limit = Annotated[int, typer.Option(min=1, help="the most to show")]


@flywheel.command()
def status(config: ConfigPath = DEFAULT_CONFIG, as_json: JsonFlag = False) -> None:
    """Where each route and domain stands, and what the next step needs.

    Example: foretell flywheel status -c foretell.yaml
    """
    from foretell.flywheel import flywheel_status
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        domains = flywheel_status(store, ft.config, now=time.time())
        worker = ft.config.flywheel.worker
    if as_json:
        print_json({"worker": worker, "domains": [asdict(one) for one in domains]})
        return
    out.print(f"worker: {_WORKERS[worker]}", markup=False)
    if not domains:
        out.print("nothing is stored yet of a domain that a route serves")
    for one in domains:
        _print_status(one)


@flywheel.command()
def work(
    config: ConfigPath = DEFAULT_CONFIG,
    once: Annotated[
        bool, typer.Option("--once", help="do what is due now, and end; for cron")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Do the flywheel's work until SIGTERM or Ctrl-C; on any machine that reaches the store.

    With a store on PostgreSQL and flywheel.worker: apart, any number of machines may work; they
    share the jobs by procrastinate.

    Example: foretell flywheel work -c foretell.yaml
    """
    from foretell.config import load_config
    from foretell.flywheel import Worker, make_worker

    settings = load_config(config)
    with _stopping() as stop:
        if once:
            done = Worker(settings).tick(stop)
            if as_json:
                print_json({"jobs": [asdict(job) for job in done]})
            else:
                _print_jobs(done, nothing="nothing was due")
            return
        worker = make_worker(settings)
        err.print(f"worker {worker.name} begins", markup=False)
        worker.run(stop)
        err.print(f"worker {worker.name} ends", markup=False)


@flywheel.command()
def refit(
    domain: DomainName,
    config: ConfigPath = DEFAULT_CONFIG,
    later: Later = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a new probe and try it: it serves only once it is shown to be better.

    Example: foretell flywheel refit -c foretell.yaml --domain geo
    """
    _do("refit", domain, config, later=later, as_json=as_json)


@flywheel.command()
def drift(
    domain: DomainName,
    config: ConfigPath = DEFAULT_CONFIG,
    later: Later = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare traffic with what the probe was trained on.

    Example: foretell flywheel drift -c foretell.yaml --domain geo
    """
    _do("drift", domain, config, later=later, as_json=as_json)


@flywheel.command()
def ladder(
    domain: DomainName,
    config: ConfigPath = DEFAULT_CONFIG,
    later: Later = False,
    as_json: JsonFlag = False,
) -> None:
    """Move the routes of router: auto up or down, as the labels say; tell what they need.

    Example: foretell flywheel ladder -c foretell.yaml --domain geo
    """
    _do("ladder", domain, config, later=later, as_json=as_json)


@flywheel.command()
def jobs(config: ConfigPath = DEFAULT_CONFIG, limit: Limit = 20, as_json: JsonFlag = False) -> None:
    """Long work that waits, runs, is done or failed, newest first.

    Example: foretell flywheel jobs --limit 5
    """
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        found = store.jobs(limit=limit)
    if as_json:
        print_json({"jobs": [asdict(job) for job in found]})
    else:
        _print_jobs(found, nothing="there are no jobs")


@flywheel.command()
def events(
    config: ConfigPath = DEFAULT_CONFIG,
    kind: Annotated[
        str | None, typer.Option(help="only this kind, such as promoted, refused, drift")
    ] = None,
    subject: Annotated[
        str | None, typer.Option(help="only about this domain, or route/domain")
    ] = None,
    limit: Limit = 20,
    as_json: JsonFlag = False,
) -> None:
    """What was decided and noticed, newest first.

    Example: foretell flywheel events --kind promoted --subject geo
    """
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        found = store.events(kind=kind, subject=subject, limit=limit)
    if as_json:
        print_json({"events": [asdict(event) for event in found]})
        return
    table = _table("when", "what", "about", "by", last="details")
    for event in found:
        table.add_row(_when(event.at), event.kind, event.subject, event.by, in_a_line(event))
    out.print(table if found else "nothing was noted yet")


def in_a_line(event: Event) -> str:
    """What an event says in words, or else its plain details."""
    details = event.details
    for name in ("words", "reason", "why"):
        if said := details.get(name):
            return str(said)
    plain = {name: value for name, value in details.items() if isinstance(value, str | int | float)}
    return ", ".join(f"{name} {value}" for name, value in plain.items())


_WORKERS: Mapping[str, str] = {
    "in_process": "a thread of foretell serve",
    "apart": "whatever machine runs foretell flywheel work",
    "off": "off; nothing happens by itself (flywheel.worker)",
}


def _do(kind: str, domain: str, config: Any, *, later: bool, as_json: bool) -> None:
    """Have a job done, here unless it is left to a worker, and show what came of it."""
    from foretell.flywheel import ask_for, do_here
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        if not any(counts.domain == domain for counts in store.domains()):
            known = ", ".join(counts.domain for counts in store.domains()) or "nothing"
            raise InputError(f"nothing is stored of domain {domain!r}; there is {known}")
        by = getuser()
        if later:
            job = ask_for(store, kind, domain, by=by)
        else:
            with tracking(kind) as show:
                job = do_here(store, ft.config, kind, domain, by=by, on_progress=_shown_by(show))
    if as_json:
        print_json(asdict(job))
    elif later:
        out.print(f"job {job.id} waits for a worker; see foretell flywheel jobs")
    else:
        out.print(str(job.result.get("words", "done")), markup=False, soft_wrap=True)


def _shown_by(show: Callable[..., None]) -> Callable[[float | None, str], None]:
    def progress(share: float | None, words: str) -> None:
        show(int(100 * (share or 0.0)), 100, words)

    return progress


@contextmanager
def _stopping() -> Generator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set; a second Ctrl-C interrupts as usual."""
    stop = threading.Event()

    def ask(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[number])

    numbers = (signal.SIGTERM, signal.SIGINT)
    before: dict[int, Any] = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _print_status(one: DomainStatus) -> None:
    out.print(f"[bold]{one.domain}[/bold]")
    for route in one.routes:
        _line(f"route {route.route}", route.words)
        if route.quality is not None:
            _line(f"quality of {route.route}", route.quality.words)
    counted = ", ".join(f"{count} by {source}" for source, count in one.labels.items())
    _line("labels", counted or "none")
    _line("labelled by", one.labelling)
    _line("refit", one.refit)
    if one.shadow is not None:
        _line("on trial", f"version {one.shadow}")
    if one.judged is not None:
        said = f"{one.judged.kind} {_when(one.judged.at)}: {in_a_line(one.judged)}"
        _line("last decision", said)
    raised = [name for name, alarm in one.alarms.items() if alarm]
    _line("alarms", ", ".join(raised) or "none")
    for job in one.jobs:
        _line(f"job {job.id}", f"{job.kind} {_standing(job)}")


def _line(name: str, said: str) -> None:
    out.print(f"  {name}: {said}", markup=False, soft_wrap=True)


def _print_jobs(found: list[Job], *, nothing: str) -> None:
    table = _table("job", "kind", "domain", "asked for", last="stands")
    for job in found:
        domain = str(job.args.get("domain", ""))
        table.add_row(
            str(job.id),
            job.kind,
            domain or "–",
            _when(job.created_at),
            _standing(job),
        )
    out.print(table if found else nothing)


def _table(*headings: str, last: str) -> Table:
    """A table whose last column takes what room is left."""
    table = Table(box=None, pad_edge=False)
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    table.add_column(last)
    return table


def _standing(job: Job) -> str:
    """How a job stands, in words."""
    match job.state:
        case "done":
            return f"done: {job.result.get('words', '')}"
        case "failed":
            return f"failed: {job.message}"
        case "running":
            share = "" if job.progress is None else f"{job.progress:.0%} "
            return f"running {share}{job.message}"
        case "waiting":
            return f"waiting: {job.message or job.args.get('reason', 'for a worker')}"


def _when(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.add_typer(flywheel, name="flywheel")
