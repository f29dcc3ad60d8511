"""Verbs about trained probes: which there are, which serves, and how it came to."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from getpass import getuser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.table import Table

from foretell.cli._console import out, print_json
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, JsonFlag
from foretell.errors import InputError

if TYPE_CHECKING:
    from foretell.probes import ProbeCard
    from foretell.runtime import Pointers

probes = typer.Typer(help="Look at trained probes, and say which one serves.", no_args_is_help=True)

_HISTORY: Final = ("holdout", "refit", "shadow", "promoted", "refused", "rolled_back")
"""Kinds of events that tell how a domain's probes came and went."""

ProbeName = Annotated[str, typer.Argument(metavar="DOMAIN@VERSION", help="as probes ls shows it")]
Why = Annotated[str, typer.Option(help="goes into the history")]
By = Annotated[
    str | None, typer.Option(help="who says so; goes into the history; your login by default")
]


@probes.command("ls")
def list_probes(config: ConfigPath = DEFAULT_CONFIG, as_json: JsonFlag = False) -> None:
    """Trained probes, newest version last, and which of each domain serves.

    Example: foretell probes ls -c foretell.yaml
    """
    from foretell.config import load_config
    from foretell.runtime import load_pointers, load_version, probe_versions, trained_domains

    folder = load_config(config).probes.dir
    found = [
        (load_version(folder, domain, version).card, load_pointers(folder, domain))
        for domain in trained_domains(folder)
        for version in probe_versions(folder, domain)
    ]
    if as_json:
        print_json({"probes": [_summary(card, pointers) for card, pointers in found]})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("probe", "state", "reads", "queries", "AUROC", "made", "model"):
        table.add_column(heading, overflow="fold")
    for card, pointers in found:
        value = card.metrics["auroc"].value
        table.add_row(
            card.name,
            _state(card, pointers),
            str(card.read_point),
            str(card.n_train),
            "–" if value is None else f"{value:.3f}",
            card.created[:10],
            f"{card.model.source} {card.model.quantisation}",
        )
    out.print(table if found else f"there are no probes in {folder}; run foretell train")


@probes.command("show")
def show_probe(
    probe: Annotated[
        str, typer.Argument(metavar="DOMAIN[@VERSION]", help="without a version, what serves")
    ],
    config: ConfigPath = DEFAULT_CONFIG,
) -> None:
    """A probe's card, as JSON.

    Example: foretell probes show geo@3
    """
    from foretell.config import load_config
    from foretell.runtime import load_version, serving_probe

    folder = load_config(config).probes.dir
    if "@" in probe:
        domain, version = _parsed(probe)
        card = load_version(folder, domain, version).card
    else:
        card = serving_probe(folder, probe).card
    out.print_json((folder / card.domain / str(card.version) / "card.json").read_text("utf-8"))


@probes.command()
def promote(
    probe: ProbeName,
    config: ConfigPath = DEFAULT_CONFIG,
    why: Why = "promoted by hand",
    by: By = None,
    as_json: JsonFlag = False,
) -> None:
    """Serve by this version from now on, whatever the evidence says of it.

    A gateway that runs takes it up by itself within seconds if it works the flywheel, and else
    when its configuration is loaded again.

    Example: foretell probes promote geo@3
    """
    from foretell.flywheel import promote_probe
    from foretell.runtime import Foretell

    domain, version = _parsed(probe)
    with Foretell.from_config(config) as ft, ft.open_store() as store:
        before = promote_probe(
            store,
            domain,
            ft.config.probes.dir,
            version,
            by=by or getuser(),
            now=datetime.now(UTC),
            why=why,
        )
    _tell_change(domain, version, before, as_json=as_json)


@probes.command()
def rollback(
    domain: Annotated[str, typer.Argument(help="whose probe")],
    config: ConfigPath = DEFAULT_CONFIG,
    why: Why = "rolled back by hand",
    by: By = None,
    as_json: JsonFlag = False,
) -> None:
    """Serve by the version that served before; again and again, back to the first.

    Example: foretell probes rollback geo --why "complaints since Monday"
    """
    from foretell.flywheel import roll_back_probe
    from foretell.runtime import Foretell, serving_version

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        folder = ft.config.probes.dir
        before = serving_version(folder, domain)
        version = roll_back_probe(
            store, domain, folder, by=by or getuser(), now=datetime.now(UTC), why=why
        )
    _tell_change(domain, version, before, as_json=as_json)


@probes.command()
def export(
    probe: ProbeName,
    to: Annotated[Path, typer.Option(help="a .zip file, or another folder of probes")],
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: JsonFlag = False,
) -> None:
    """Copy a probe out, to be unpacked into another machine's folder of probes; it is checked.

    Example: foretell probes export geo@3 --to geo-3.zip
    """
    from foretell.config import load_config
    from foretell.runtime import export_probe

    domain, version = _parsed(probe)
    copy = export_probe(load_config(config).probes.dir, domain, version, to)
    if as_json:
        print_json({"probe": probe, "path": str(copy)})
    else:
        out.print(f"{probe} is in {copy}", markup=False, soft_wrap=True)


@probes.command()
def history(
    domain: Annotated[str | None, typer.Argument(help="whose probes; all by default")] = None,
    config: ConfigPath = DEFAULT_CONFIG,
    limit: Annotated[int, typer.Option(min=1, help="the most to show")] = 50,
    as_json: JsonFlag = False,
) -> None:
    """How probes came and went, newest first: who did what when, by which numbers.

    Example: foretell probes history geo
    """
    from dataclasses import asdict

    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        found = [
            event
            for kind in _HISTORY
            for event in store.events(kind=kind, subject=domain, limit=limit)
        ]
    # Of one moment, what comes later in the life of a probe was noted later.
    found.sort(key=lambda event: (event.at, _HISTORY.index(event.kind)), reverse=True)
    if as_json:
        print_json({"events": [asdict(event) for event in found[:limit]]})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("when (UTC)", "domain", "what", "by", "why"):
        table.add_column(heading, overflow="fold")
    for event in found[:limit]:
        table.add_row(
            f"{datetime.fromtimestamp(event.at, UTC):%Y-%m-%d %H:%M}",
            event.subject,
            _happened(event.kind, event.details),
            event.by,
            _reason(event.details),
        )
    out.print(table if found else "nothing was noted yet")


def _parsed(probe: str) -> tuple[str, int]:
    domain, _, version = probe.rpartition("@")
    if not domain or not version.isdecimal() or not version.isascii():
        raise InputError(
            f"{probe!r} is no probe's name; write domain@version, such as geo@3, as foretell "
            "probes ls shows it"
        )
    return domain, int(version)


def _state(card: ProbeCard, pointers: Pointers) -> str:
    if card.version == pointers.serving:
        return "serves"
    if card.version == pointers.shadow:
        return "on trial"
    return "served before" if card.version in pointers.previous else ""


def _summary(card: ProbeCard, pointers: Pointers) -> dict[str, Any]:
    return {
        "probe": card.name,
        "domain": card.domain,
        "version": card.version,
        "serving": card.version == pointers.serving,
        "shadow": card.version == pointers.shadow,
        "read_point": card.read_point.name,
        "train_size": card.n_train,
        "model": str(card.model),
        "auroc": card.metrics["auroc"].value,
        "created": card.created,
    }


def _happened(kind: str, details: Mapping[str, Any]) -> str:
    words = kind.replace("_", " ")
    return f"{words} {details['version']}" if "version" in details else words


def _reason(details: Mapping[str, Any]) -> str:
    if "queries" in details and "success_rate" in details:
        return f"{details['queries']} queries, of which {details['success_rate']:.1%} succeeded"
    return str(details.get("why", details.get("words", "")))


def _tell_change(domain: str, version: int, before: int | None, *, as_json: bool) -> None:
    if as_json:
        print_json({"domain": domain, "serving": version, "before": before})
        return
    instead = "" if before in (None, version) else f" in the place of {domain}@{before}"
    out.print(f"{domain}@{version} serves{instead}", markup=False)


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.add_typer(probes, name="probes")
