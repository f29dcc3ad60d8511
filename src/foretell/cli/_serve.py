"""The verb that serves: foretell serve."""

from __future__ import annotations

import json
import logging
from functools import partial
from typing import Annotated, Literal

import typer

from foretell.cli._concerns import concerns
from foretell.cli._console import err
from foretell.cli._options import DEFAULT_CONFIG, ConfigPath, JsonFlag
from foretell.config import Config, ServerConfig, load_config
from foretell.errors import ConfigError

_logger = logging.getLogger(__name__)

LogLevelOption = Annotated[
    Literal["debug", "info", "warning", "error"],
    typer.Option("--log-level", help="least severe log lines to write"),
]


def serve(
    config: ConfigPath = DEFAULT_CONFIG,
    host: Annotated[str | None, typer.Option(help="listen here; server.host when absent")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="server.port when absent; 0 takes any")
    ] = None,
    log_level: LogLevelOption = "info",
    as_json: JsonFlag = False,
) -> None:
    """Serve an OpenAI-compatible API that routes; ends on SIGTERM or Ctrl-C.

    Example: foretell serve -c foretell.yaml
    """
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}

    def read() -> Config:
        settings = load_config(config)
        server = ServerConfig.model_validate(settings.server.model_dump() | changes)
        return settings.model_copy(update={"server": server})

    settings = read()
    try:
        from foretell.cli._beside import FlywheelBeside
        from foretell.gateway import configure_logs, secret_values
        from foretell.gateway import serve as run
    except ImportError as error:
        raise ConfigError(
            f"serving needs the package {error.name!r}, which is not installed; install it: "
            "pip install 'foretell[serve]'"
        ) from None
    secrets = set(secret_values(settings))

    def mask(changed: Config) -> None:
        # Those of before stay masked: a request under way may still be using them.
        secrets.update(secret_values(changed))
        configure_logs(log_level, secrets=secrets)

    mask(settings)
    for concern in concerns(settings):
        _logger.warning("%s", concern)
    run(
        settings,
        read=read,
        on_listening=partial(_tell, as_json=as_json),
        on_config=mask,
        beside=FlywheelBeside,
    )


def _tell(url: str, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"url": url}), flush=True)
    else:
        err.print(f"foretell serves on {url}", highlight=False)


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(serve)
