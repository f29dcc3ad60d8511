"""Verbs on the keys of a gateway's callers: create, ls, revoke."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from foretell.cli._console import err, out, print_json
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, JsonFlag
from foretell.errors import InputError
from foretell.records import ApiKey, KeyLimits

if TYPE_CHECKING:
    from foretell.config import Config

keys = typer.Typer(help="Make, list and revoke the keys of callers.", no_args_is_help=True)

Routes = Annotated[
    list[str] | None,
    typer.Option("--route", help="a route or model it may ask for; again for more; absent: all"),
]
Rate = Annotated[float | None, typer.Option("--rate", help="requests per minute")]
Concurrent = Annotated[int | None, typer.Option("--concurrent", help="requests at a time")]
UsdPerDay = Annotated[float | None, typer.Option("--usd-per-day", help="USD a day (UTC)")]
EscalationsPerDay = Annotated[
    int | None, typer.Option("--escalations-per-day", help="strong calls a day (UTC)")
]


@keys.command()
def create(
    name: Annotated[str, typer.Argument(help="who or what it is for")],
    config: ConfigPath = DEFAULT_CONFIG,
    routes: Routes = None,
    rate: Rate = None,
    concurrent: Concurrent = None,
    usd_per_day: UsdPerDay = None,
    escalations_per_day: EscalationsPerDay = None,
    as_json: JsonFlag = False,
) -> None:
    """Make a key and show it, once; the store keeps only its hash.

    Example: foretell keys create billing --route auto --usd-per-day 5
    """
    from foretell.runtime import Foretell

    limits = KeyLimits(
        routes=tuple(routes) if routes else None,
        requests_per_minute=rate,
        concurrent=concurrent,
        usd_per_day=usd_per_day,
        escalations_per_day=escalations_per_day,
    )
    with Foretell.from_config(config) as ft:
        _check_routes(limits, ft.config)
        with ft.open_store() as store:
            made, key = store.create_key(name, limits)
        is_served = ft.config.server.stored_keys
    if as_json:
        print_json({**_shown(made), "key": key})
    else:
        print(key)  # alone on stdout, so that a script can take it
        err.print(
            f"{made.id} for {escape(made.name)}. Keep the key now: it cannot be shown again.",
            soft_wrap=True,
        )
    if not is_served:
        err.print(
            f"{config} has to say server.stored_keys: true, or no gateway accepts it",
            markup=False,
            soft_wrap=True,
        )


@keys.command("ls")
def list_keys(config: ConfigPath = DEFAULT_CONFIG, as_json: JsonFlag = False) -> None:
    """All keys with their limits, oldest first; never the keys themselves.

    Example: foretell keys ls
    """
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        found = store.keys()
    if as_json:
        print_json({"keys": [_shown(key) for key in found]})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("id", "name", "may", "made", "revoked"):  # ids are to be copied
        table.add_column(heading, overflow="fold", no_wrap=heading == "id")
    for key in found:
        table.add_row(
            key.id,
            escape(key.name),
            escape(_limits_in_words(key.limits)),
            _day(key.created_at),
            "" if key.revoked_at is None else _day(key.revoked_at),
        )
    out.print(table if found else "there are no keys; run foretell keys create")


@keys.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="as keys ls shows it")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: JsonFlag = False,
) -> None:
    """Make a key useless; a gateway that runs notices within seconds.

    Example: foretell keys revoke key-8d1c2a
    """
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        revoked = store.revoke_key(key_id)
    if as_json:
        print_json(_shown(revoked))
    else:
        out.print(f"{revoked.id} for {revoked.name} is revoked", markup=False, soft_wrap=True)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.add_typer(keys, name="keys")


def _check_routes(limits: KeyLimits, config: Config) -> None:
    known = [*config.routes, *config.models]
    for route in limits.routes or ():
        if route not in known:
            raise InputError(f"no route or model is called {route!r}; known are {', '.join(known)}")


def _shown(key: ApiKey) -> dict[str, Any]:
    fields = asdict(key)
    del fields["sha256"]  # of no use to anybody but the gateway
    return fields


def _limits_in_words(limits: KeyLimits) -> str:
    words = [
        "anything" if limits.routes is None else ", ".join(limits.routes),
        "" if limits.requests_per_minute is None else f"{limits.requests_per_minute:g} a minute",
        "" if limits.concurrent is None else f"{limits.concurrent} at a time",
        "" if limits.usd_per_day is None else f"{limits.usd_per_day:g} USD a day",
        ""
        if limits.escalations_per_day is None
        else f"{limits.escalations_per_day} escalations a day",
    ]
    return "\n".join(word for word in words if word)


def _day(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).date().isoformat()
