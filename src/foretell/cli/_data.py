"""Verbs about what is stored: stats, check, export, import, delete, retain, compact."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table

from foretell.cli._console import err, out, print_json
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, DomainName, JsonFlag
from foretell.errors import InputError

if TYPE_CHECKING:
    from foretell.config import Config
    from foretell.store import Erased, Store

data = typer.Typer(
    help="Look at what is stored; bring it in and out; erase it.", no_args_is_help=True
)

OneDomain = Annotated[str | None, typer.Option("--domain", help="only this one")]

_TOLD = 10
"""Bad rows that are named; with --json it is all of them."""


@data.command()
def stats(config: ConfigPath = DEFAULT_CONFIG, as_json: JsonFlag = False) -> None:
    """How much is stored, by domain and by tenant, and how large it is.

    Example: foretell data stats -c foretell.yaml
    """
    with _opened(config) as (_, store):
        domains, tenants, size = store.domains(), store.tenants(), store.size()
    if as_json:
        print_json(
            {
                "domains": [asdict(row) for row in domains],
                "tenants": [asdict(row) for row in tenants],
                "bytes": size,
            }
        )
        return
    table = Table("domain", "queries", "weak", "strong", "outcomes", box=None, pad_edge=False)
    for row in domains:
        table.add_row(
            row.domain, str(row.queries), str(row.weak), str(row.strong), str(row.outcomes)
        )
    out.print(table if domains else "nothing is stored yet; run foretell collect")
    if tenants:
        table = Table("tenant", "queries", "requests", box=None, pad_edge=False)
        for one in tenants:
            table.add_row(one.tenant or "(no key)", str(one.queries), str(one.requests))
        out.print(table)
    out.print(f"{size / 1e6:.1f} MB")


@data.command()
def check(
    config: ConfigPath = DEFAULT_CONFIG,
    repair: Annotated[
        bool, typer.Option("--repair", help="remove what crashes left, list what is not listed")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Compare the database with the files of vectors, their checksums and their manifest.

    Ends with 1 when vectors are missing or damaged.

    Example: foretell data check --repair
    """
    with _opened(config) as (_, store):
        found = store.check(repair=repair)
    if as_json:
        print_json({"ok": found.ok, **asdict(found)})
    else:
        for names, what in (
            (found.missing, "is missing: restore it, or erase its domain and collect again"),
            (found.damaged, "is damaged: restore it, or erase its domain and collect again"),
            (found.orphaned, "is named by no row: a crash left it, or it is just being written"),
            (found.unfinished, "is half-written: a crash left it, or it is just being written"),
            (found.unlisted, "is not in the manifest"),
            (found.removed, "was left by a crash, and is removed"),
        ):
            for name in names:
                out.print(f"{name} {what}", markup=False, soft_wrap=True)
        out.print(f"{found.shards} files of vectors, {'all well' if found.ok else 'not all well'}")
    if not found.ok:
        raise typer.Exit(1)


@data.command("export")
def export_data(
    folder: Annotated[Path, typer.Argument(help="where to; made, or empty")],
    config: ConfigPath = DEFAULT_CONFIG,
    domain: OneDomain = None,
    kind: Annotated[
        Literal["parquet", "jsonl"], typer.Option("--format", help="jsonl leaves vectors out")
    ] = "parquet",
    as_json: JsonFlag = False,
) -> None:
    """Write what is stored to files that DuckDB, pandas or Polars read; decrypted, if it was.

    Example: foretell data export backup --domain support
    """
    with _opened(config) as (_, store):
        paths = store.export(folder, domain=domain, format=kind)
    if as_json:
        print_json({"files": [str(path) for path in paths]})
    else:
        out.print(f"{len(paths)} files in {folder}", markup=False)


@data.command("import")
def import_data(
    file: Annotated[Path, typer.Argument(help="a log, one row a request")],
    domain: DomainName,
    kind: Annotated[
        Literal["openai", "jsonl", "csv"],
        typer.Option("--format", help="requests and responses, queries with answers, or a table"),
    ],
    config: ConfigPath = DEFAULT_CONFIG,
    model: Annotated[
        str | None, typer.Option(help="who answered, where a row does not say")
    ] = None,
    tenant: Annotated[str, typer.Option(help="whose they are, to be erased with")] = "",
    inputs: Annotated[
        Path | None, typer.Option(help="the Batch API's input, when FILE is its output")
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(help="of a CSV file, as prompt=question; again for more"),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Take over what was asked, and what the strong model answered, from logs there are.

    Rows that cannot be read are named and left out. Then 'foretell collect' can ask the weak
    model the same.

    Example: foretell data import requests.jsonl --format openai --domain support
    """
    from foretell.store import import_logs

    found = import_logs(
        file,
        format=kind,
        domain=domain,
        model=model,
        tenant=tenant,
        inputs=inputs,
        columns=_columns(column or []),
    )
    with _opened(config) as (_, store):
        new = store.append(found.observations)
    if as_json:
        print_json(
            {
                "domain": domain,
                "answers": len(found.observations),
                "new": new,
                "estimated_tokens": found.estimated,
                "bad": [asdict(row) for row in found.bad],
            }
        )
        return
    out.print(f"{new} answers imported, {len(found.observations) - new} were there already")
    if found.estimated:
        out.print(f"{found.estimated} came without counts of tokens: estimated from the text")
    for row in found.bad[:_TOLD]:
        err.print(f"line {row.line} is left out: {row.reason}", markup=False, soft_wrap=True)
    if len(found.bad) > _TOLD:
        err.print(f"and {len(found.bad) - _TOLD} more lines")


@data.command()
def delete(
    config: ConfigPath = DEFAULT_CONFIG,
    domain: OneDomain = None,
    tenant: Annotated[
        str | None, typer.Option(help="id of an API key, as keys ls shows it; '' is who had none")
    ] = None,
    request: Annotated[
        list[str] | None, typer.Option(help="id of a request; again for more")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
    as_json: JsonFlag = False,
) -> None:
    """Erase all that is stored of a domain, a tenant or requests: texts, vectors, labels.

    Given together, what all of them hold for. What a judge said goes for all domains: its replies
    may quote the answers. Probes that were trained on it stay.

    Example: foretell data delete --tenant key-8d1c2a
    """
    what = [
        *([] if domain is None else [f"domain {domain!r}"]),
        *([] if tenant is None else [f"tenant {tenant!r}"]),
        *([] if request is None else [f"{len(request)} requests"]),
    ]
    if not what:
        raise InputError("say what to erase: --domain, --tenant or --request")
    if not yes:
        typer.confirm(f"erase everything of {' and '.join(what)}?", abort=True)
    with _opened(config) as (settings, store):
        erased = store.erase(domain=domain, tenant=tenant, request_ids=request)
        _forget_verdicts(settings)
    _print_erased(erased, as_json)


@data.command()
def retain(
    config: ConfigPath = DEFAULT_CONFIG,
    days: Annotated[
        float | None, typer.Option(help="keep requests for so long; store.retention.days if absent")
    ] = None,
    max_gb: Annotated[
        float | None, typer.Option(help="keep so much; store.retention.max_gb if absent")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Erase traffic that is old, then the oldest while there is too much.

    What was collected or imported stays.

    Example: foretell data retain --days 30
    """
    with _opened(config) as (settings, store):
        limits = settings.store.retention
        days = limits.days if days is None else days
        max_gb = limits.max_gb if max_gb is None else max_gb
        if days is None and max_gb is None:
            raise InputError(
                "no limit is set; give --days or --max-gb, or set store.retention in the "
                "configuration"
            )
        erased = store.retain(days=days, max_bytes=None if max_gb is None else int(max_gb * 1e9))
        if erased.queries:
            _forget_verdicts(settings)
    _print_erased(erased, as_json)


@data.command()
def compact(config: ConfigPath = DEFAULT_CONFIG, as_json: JsonFlag = False) -> None:
    """Merge small files of vectors, which traffic makes many of.

    Example: foretell data compact
    """
    with _opened(config) as (_, store):
        done = store.compact()
    if as_json:
        print_json(asdict(done))
    else:
        out.print(f"{done.merged} files of vectors became {done.into}")


@contextmanager
def _opened(config: Path) -> Generator[tuple[Config, Store]]:
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        yield ft.config, store


def _columns(named: list[str]) -> dict[str, str]:
    columns: dict[str, str] = {}
    for text in named:
        field, equals, column = text.partition("=")
        if not equals or not field or not column:
            raise InputError(f"column {text!r} is not field=column; write --column prompt=question")
        columns[field] = column
    return columns


def _forget_verdicts(config: Config) -> None:
    from foretell.flywheel import forget_verdicts

    forget_verdicts(config.store.vectors)


def _print_erased(erased: Erased, as_json: bool) -> None:
    if as_json:
        print_json({f"{name}_erased": count for name, count in asdict(erased).items()})
    else:
        out.print(
            f"{erased.queries} queries erased, with {erased.vectors} vectors and "
            f"{erased.outcomes} labels; {erased.requests} requests, with {erased.feedback} feedback"
        )


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.add_typer(data, name="data")
