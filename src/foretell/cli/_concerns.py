"""Settings that are well-formed each, and lead nowhere together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Final

from foretell.config import (
    Config,
    LabellerConfig,
    QualityGoal,
    RiskGoal,
    RouteConfig,
    secret,
)
from foretell.errors import ConfigError, RoutingError

_MUCH_CHANCE: Final = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class Concern:
    """What will not do what it seems to: the setting, why, and what cures it."""

    subject: str
    detail: str
    cure: str

    def __str__(self) -> str:
        return f"{self.subject}: {self.detail}; {self.cure}"


def concerns(config: Config) -> list[Concern]:
    """All there are; nothing is opened or made for it, but secrets are looked up."""
    found = [*_of_secrets(config), *_of_packages(config), *_of_vectors(config)]
    for name, route in config.routes.items():
        found += _of_route(config, name, route)
    for domain, labeller in config.flywheel.labellers.items():
        found += _of_labeller(config, domain, labeller)
    if config.flywheel.worker == "in_process" and not config.server.record:
        found.append(
            Concern(
                subject="flywheel.worker",
                detail="server.record is off, so foretell serve keeps nothing to work on",
                cure="set server.record to true",
            )
        )
    if config.flywheel.worker == "apart" and not _on_postgresql(config):
        found.append(
            Concern(
                subject="flywheel.worker",
                detail="with a store on SQLite, foretell flywheel work can only run on this "
                "machine, and share its folders",
                cure="for several machines, put store.url on PostgreSQL; for one alone, in_process "
                "needs no second command",
            )
        )
    return found


def _of_secrets(config: Config) -> Iterator[Concern]:
    if (variable := config.flywheel.webhook_token_env) is not None:
        try:
            secret(variable)
        except RoutingError as error:
            yield Concern(
                subject="flywheel.webhook_token_env", detail=str(error), cure=f"export {variable}=…"
            )
    if config.store.encryption_key_env is not None:
        from foretell.store import store_key

        try:
            store_key(config.store)
        except RoutingError as error:
            yield Concern(
                subject="store.encryption_key_env",
                detail=f"{error}; until then no store opens",
                cure="export the key that the store was made with",
            )


def _of_packages(config: Config) -> Iterator[Concern]:
    """What is set and needs a package that is not installed."""
    apart = config.flywheel.worker == "apart"
    for subject, is_set, package, extra in (
        (
            "store.encryption_key_env",
            config.store.encryption_key_env is not None,
            "cryptography",
            "encrypt",
        ),
        ("store.url", _on_postgresql(config), "psycopg", "postgres"),
        ("flywheel.worker", apart and _on_postgresql(config), "procrastinate", "postgres"),
    ):
        if is_set and find_spec(package) is None:
            yield Concern(
                subject=subject,
                detail=f"it needs the package {package!r}, which is not installed",
                cure=f"pip install 'foretell[{extra}]'",
            )


def _of_vectors(config: Config) -> Iterator[Concern]:
    """A first probe takes whole vectors, and without one there is no subspace to keep."""
    climbs = [name for name, route in config.routes.items() if route.router == "auto"]
    kept = config.store.traffic.vectors
    if kept == "full" or not climbs or not config.server.record:
        return
    from foretell.runtime import served_domains

    probed = served_domains(config.probes.dir)
    without = [name for name in climbs if config.routes[name].domain not in probed]
    if without and (kept == "none" or not probed):
        yield Concern(
            subject="store.traffic.vectors",
            detail=f"it is {kept}, and before there is a probe nothing is kept by that, so the "
            f"ladder of {', '.join(without)} ends at the step embedding",
            cure="set it to full until a probe serves, or foretell collect and train a first one",
        )


def _of_pairs(config: Config, name: str, route: RouteConfig) -> Iterator[Concern]:
    """A quality and a risk are promised by queries of which both answers are labelled."""
    learns = route.router == "auto" or config.flywheel.worker != "off"
    if not learns or not isinstance(route.goal, QualityGoal | RiskGoal):
        return
    runs = route.shadow_runs
    if runs is None or not (runs.share or runs.strong_share):
        yield Concern(
            subject=f"routes.{name}.shadow_runs",
            detail="its goal compares both models' answers to one query, and no traffic ever gets "
            "both",
            cure="set shadow_runs: {share: 0.05, strong_share: 0.02}, or foretell collect "
            "--with-strong",
        )
    elif not runs.strong_share:
        yield Concern(
            subject=f"routes.{name}.shadow_runs.strong_share",
            detail="its goal compares both models' answers to one query, and what the weak model "
            "serves is hardly ever asked of the strong one",
            cure="set it to 0.02, say; usd_per_day limits what that costs",
        )


def _on_postgresql(config: Config) -> bool:
    return config.store.url.startswith("postgresql")


def _of_route(config: Config, name: str, route: RouteConfig) -> Iterator[Concern]:
    explore = route.explore if isinstance(route.explore, float | int) else route.explore.start
    if explore > _MUCH_CHANCE:
        yield Concern(
            subject=f"routes.{name}.explore",
            detail=f"{explore:.0%} of the decisions are turned round by chance, so most queries go "
            "to the model that was not chosen",
            cure="0.02 to 0.1 is enough",
        )
    if config.server.record:
        yield from _of_pairs(config, name, route)
        return
    learns = {
        "explore": bool(explore),
        "shadow_runs": route.shadow_runs is not None,
        "router": route.router == "auto",
    }
    for setting, is_set in learns.items():
        if is_set:
            yield Concern(
                subject=f"routes.{name}.{setting}",
                detail="server.record is off, so nothing is kept that could be learnt from",
                cure="set server.record to true",
            )


def _of_labeller(config: Config, domain: str, chosen: LabellerConfig) -> Iterator[Concern]:
    subject = f"flywheel.labellers.{domain}"
    served = [route.domain for route in config.routes.values()]
    if domain not in served and all(isinstance(one, str) for one in served):
        names = ", ".join(sorted({str(one) for one in served})) or "none"
        yield Concern(
            subject=subject,
            detail=f"no route serves this domain; they serve {names}",
            cure="correct its name",
        )
    if chosen.name == "feedback":
        return
    try:
        _make(config, chosen)
    except RoutingError as error:
        yield Concern(subject=subject, detail=str(error), cure="nobody labels until then")
    if not config.store.traffic.text:
        yield Concern(
            subject=subject,
            detail="store.traffic.text is off, so it has nothing to read of the traffic",
            cure="turn it on, or leave labelling to feedback",
        )


def _make(config: Config, chosen: LabellerConfig) -> None:
    """Raises ``RoutingError`` for a labeller that cannot be made."""
    from foretell.flywheel import make_labeller

    if chosen.name == "ensemble":
        return  # its judges would have to be lent their models
    if chosen.name != "judge":
        make_labeller(chosen.name, chosen.options)
    elif (model := chosen.options.get("model")) not in config.models:
        known = ", ".join(sorted(config.models))
        raise ConfigError(f"the judge's option model is {model!r}; known models are {known}")
