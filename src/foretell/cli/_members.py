"""Which models a domain's labels are taken from: named, or those of the routes that serve it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from foretell.config import OpenAIModel, RouteConfig
from foretell.errors import ConfigError
from foretell.records import Role
from foretell.runtime import Foretell, answering_key, engine_key
from foretell.store import Store, model_key


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """Keys in the store, as training asks for them.

    ``weak`` and ``strong`` are ``None`` where there is no choice to make. ``pool`` holds the other
    models to choose from by their names in the configuration.
    """

    weak: str | None = None
    strong: str | None = None
    pool: Mapping[str, str] = field(default_factory=dict[str, str])


def members_of(
    ft: Foretell,
    store: Store,
    domain: str,
    *,
    route: str | None = None,
    weak: str | None = None,
    strong: str | None = None,
) -> Members:
    """The models whose answers to a domain count.

    ``weak`` and ``strong`` name them in the configuration. Left out, and with answers of several in
    the store, they are those of ``route``, or of the first route of the domain. A model is opened
    only where its key cannot be known otherwise.
    """
    routes = routes_of(ft, domain, route)
    first = routes[0] if routes else None
    pool = [name for config in routes for name in config.pool]

    def several(role: Role) -> bool:
        return len(store.answered_by(domain, role)) > 1

    if weak is None and first is not None and several("weak"):
        weak = first.weak
    if strong is None and first is not None and (pool or several("strong")):
        strong = first.strong[0]
    return Members(
        weak=None if weak is None else _engine_key(ft, weak),
        strong=None if strong is None else _answering_key(ft, strong),
        pool={name: _answering_key(ft, name) for name in dict.fromkeys(pool) if name != strong},
    )


def routes_of(ft: Foretell, domain: str, name: str | None) -> list[RouteConfig]:
    """The named route alone, or all that serve a domain: those of that domain before the others."""
    if name is not None:
        return [ft.route_config(name)]
    routes = list(ft.config.routes.values())
    return [
        *(config for config in routes if config.domain == domain),
        *(config for config in routes if not isinstance(config.domain, str)),
    ]


def _engine_key(ft: Foretell, name: str) -> str:
    _require_model(ft, name)
    return engine_key(ft.open_engine(name))


def _answering_key(ft: Foretell, name: str) -> str:
    _require_model(ft, name)
    config = ft.config.models[name]
    if isinstance(config, OpenAIModel):
        return model_key(config.model)
    return answering_key(ft.open_configured(name))


def _require_model(ft: Foretell, name: str) -> None:
    if name not in ft.config.models:
        raise ConfigError(
            f"no model is called {name!r}; known are {', '.join(sorted(ft.config.models))}"
        )
