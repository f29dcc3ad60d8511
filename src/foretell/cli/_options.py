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
DEFAULT_CONFIG = Path("foretell.yaml")
