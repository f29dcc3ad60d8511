"""Options that several verbs share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[Path, typer.Option("--config", "-c", help="foretell.yaml")]
DomainName = Annotated[str, typer.Option("--domain", help="queries that share a probe")]
JsonFlag = Annotated[bool, typer.Option("--json", help="one JSON object on stdout, nothing else")]
RouteName = Annotated[
    str | None, typer.Option("--route", help="may be left out when there is only one")
]
DomainRoute = Annotated[
    str | None,
    typer.Option("--route", help="whose models count; the first of the domain by default"),
]
WeakName = Annotated[
    str | None,
    typer.Option("--weak", help="weak model whose answers count; the route's by default"),
]
StrongName = Annotated[
    str | None,
    typer.Option("--strong", help="strong model whose answers count; the route's first by default"),
]
DEFAULT_CONFIG = Path("foretell.yaml")
