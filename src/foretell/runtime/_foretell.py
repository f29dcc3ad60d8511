"""The whole of foretell from one configuration file, for use as a library."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.config import (
    Config,
    CostGoal,
    DailyCostGoal,
    DomainFromHeader,
    OpenAIModel,
    QualityGoal,
    RecordedModel,
    RiskGoal,
    RouteConfig,
    StrongShareGoal,
    load_config,
)
from foretell.errors import (
    ConfigError,
    ProbeFileError,
    ProbeMismatchError,
    RoutingError,
    TrainingDataError,
)
from foretell.prefill import PrefillEngine, Progress
from foretell.probes import HeldOut, SavedProbe
from foretell.records import Decision, Message, Reply, Role, Sampling
from foretell.routers import make_router
from foretell.runtime._auto import (
    Standing,
    Step,
    fit_step,
    standing_of,
    start_step,
    steps_down_from,
)
from foretell.runtime._estimators import NearestEstimator, OutsideEstimator, ProbeEstimator
from foretell.runtime._goals import Bar, bar_for, early_looks, share_within_budget
from foretell.runtime._later_evidence import with_later_evidence
from foretell.runtime._models import (
    AnsweringModel,
    EngineModel,
    EngineShelf,
    OnText,
    asking,
    open_model,
)
from foretell.runtime._registry import early_probes, served_domains, serving_probe
from foretell.runtime._route import Estimator, NoEstimator, Route
from foretell.store import Store, model_key, store_key
from foretell.upstreams import cost_usd

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Foreteller:
    """What foretells for a route, its bar, and what the bar was chosen on."""

    estimator: Estimator | NoEstimator
    bar: Bar
    held_out: HeldOut | None = None
    saved: SavedProbe | None = None
    bars: Mapping[str, Bar] = field(default_factory=dict[str, Bar])


def _nearest(domains: Sequence[str], found: Sequence[_Foreteller]) -> _Foreteller:
    """One that finds a query's domain by the probes' gates; a probe without one is left out."""
    known = {
        domain: (one.estimator, one.bar)
        for domain, one in zip(domains, found, strict=True)
        if isinstance(one.estimator, ProbeEstimator) and one.estimator.gate is not None
    }
    if not known:
        reason = (
            "the route names no domain, and no probe has a gate to find it by; set domain:, or run "
            "foretell train"
        )
        return _Foreteller(NoEstimator(cause="no_domain", reason=reason), _NO_BAR)
    estimator = NearestEstimator(estimators=tuple(estimator for estimator, _ in known.values()))
    reason = f"each of the domains {', '.join(known)} has its own"
    bar = replace(_NO_BAR, reason=reason)
    return _Foreteller(estimator, bar, bars={domain: bar for domain, (_, bar) in known.items()})


def _stored_lengths(store: Store, domain: str, weak_model: str) -> NDArray[np.int64]:
    """Own tokens of the queries that the weak model has answered."""
    try:
        data = store.load_routing_data(
            domain, read_points=(), weak_model=weak_model, strong_model=""
        )
    except TrainingDataError:
        return np.empty(0, dtype=np.int64)
    return data.lengths


_NO_BAR: Final = Bar(keep_at=1.0, reason="there is nothing to compare with a bar")
_CAUSES: Final = (
    (ProbeFileError, "no_probe"),
    (ProbeMismatchError, "probe_mismatch"),
    (ConfigError, "goal"),
)


class Foretell:
    """Routes queries as ``foretell.yaml`` says. Models are loaded when a route first needs them.

    Example:
        >>> with Foretell.from_config("foretell.yaml") as ft:  # doctest: +SKIP
        ...     reply = ft.chat([{"role": "user", "content": "In which country is Lyon?"}])
    """

    def __init__(self, config: Config, *, engines: EngineShelf | None = None) -> None:
        """``engines`` lends those that another ``Foretell`` may be using, too."""
        self.config = config
        self._shelf = engines or EngineShelf()
        self._routes: dict[str, Route] = {}
        self._engines: dict[str, PrefillEngine] = {}
        self._models: dict[str, AnsweringModel] = {}
        self._release = ExitStack()

    @classmethod
    def from_config(cls, config: str | Path | Config) -> Foretell:
        """Read the configuration; raises ``ConfigError`` for what is wrong in it."""
        return cls(config if isinstance(config, Config) else load_config(config))

    def route(self, messages: Sequence[Message], *, route: str | None = None) -> Decision:
        """What would be done with this query; nothing is generated."""
        return self.open_route(route).decide(messages)

    def chat(
        self,
        messages: Sequence[Message],
        *,
        route: str | None = None,
        sampling: Sampling | None = None,
        on_text: OnText | None = None,
        on_decision: Callable[[Decision], None] | None = None,
    ) -> Reply:
        """One routed answer; ``on_text`` is told it piece by piece."""
        return self.open_route(route).chat(
            messages, sampling or Sampling(), on_text=on_text, on_decision=on_decision
        )

    def route_config(self, name: str | None = None) -> RouteConfig:
        """A route's settings by name; the only one's when ``name`` is ``None``."""
        return self.config.routes[self._route_name(name)]

    def open_route(self, name: str | None = None, *, progress: Progress | None = None) -> Route:
        """A route by name (the only one when ``None``), ready to serve.

        ``progress`` is told in words what slow thing begins.
        """
        name = self._route_name(name)
        if name not in self._routes:
            config = self.config.routes[name]
            weak = self.open_engine(config.weak, progress=progress)
            foreteller = self._foreteller_of_all(name, self._domains(config), weak)
            strong = [self.open_model(strong, progress=progress) for strong in config.strong]
            self._routes[name] = self._assembled(name, config, weak, strong, foreteller)
        return self._routes[name]

    def domains(self, name: str | None = None) -> tuple[str, ...]:
        """The domains that a route serves: its own, or all that have a probe.

        A route that finds its own router serves all that something is stored of, too, where the
        request names the domain.
        """
        config = self.route_config(name)
        if isinstance(config.domain, str):
            return (config.domain,)
        trained = served_domains(self.config.probes.dir)
        if config.router != "auto" or not isinstance(config.domain, DomainFromHeader):
            return tuple(trained)
        with self.open_store() as store:
            stored = [counts.domain for counts in store.domains()]
        return tuple(sorted({*trained, *stored}))

    def open_weak_side(
        self, name: str, *domains: str, now: datetime, progress: Progress | None = None
    ) -> Route:
        """A route without its strong models, for a server that asks those itself.

        What is wrong with the probe, the router or the evidence for the goal is no error here: the
        route then declines every query, with that as the reason. So does one without a domain;
        of several, the nearest decides. Raises only when the weak model itself cannot be opened.
        """
        config = self.config.routes[name]
        weak = self.open_engine(config.weak, progress=progress)
        found = [self._foreteller_or_why(name, domain, weak, now) for domain in domains]
        foreteller = found[0] if len(found) == 1 else _nearest(domains, found)
        return self._assembled(name, config, weak, (), foreteller)

    def open_engine(self, name: str, *, progress: Progress | None = None) -> PrefillEngine:
        """The engine of a model that is read."""
        if name not in self._engines:
            config = self.config.models[name]
            engine = self._shelf.take(config, progress=progress)
            self._release.callback(self._shelf.put_back, config)
            self._engines[name] = engine
        return self._engines[name]

    def open_model(self, name: str, *, progress: Progress | None = None) -> AnsweringModel:
        """A model that answers."""
        if name not in self._models:
            model = open_model(name, self.config.models[name], progress=progress)
            self._release.callback(model.close)
            self._models[name] = model
        return self._models[name]

    def open_configured(self, name: str) -> AnsweringModel:
        """A model that answers, of any kind; an engine that is open is not opened twice.

        Raises ``ConfigError`` when no model has that name.
        """
        if name not in self.config.models:
            raise ConfigError(
                f"no model is called {name!r}; known are {', '.join(sorted(self.config.models))}"
            )
        config = self.config.models[name]
        if name not in self._engines and isinstance(config, OpenAIModel | RecordedModel):
            return self.open_model(name)
        return EngineModel(name, self.open_engine(name), config.price)

    def open_store(self) -> Store:
        """The configured store; the caller closes it."""
        store = self.config.store
        return Store.open(store.url, store.vectors, key=store_key(store))

    def close(self) -> None:
        """Free all models; safe to call twice."""
        self._release.close()

    def __enter__(self) -> Foretell:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _route_name(self, name: str | None) -> str:
        routes = self.config.routes
        known = ", ".join(routes) or "none"
        if name is None and len(routes) != 1:
            raise ConfigError(f"there are {len(routes)} routes ({known}); name one of them")
        if name is not None and name not in routes:
            raise ConfigError(f"no route is called {name!r}; known are {known}")
        return name or next(iter(routes))

    def _assembled(
        self,
        name: str,
        config: RouteConfig,
        weak: PrefillEngine,
        strong: Sequence[AnsweringModel],
        foreteller: _Foreteller,
    ) -> Route:
        return Route(
            name=name,
            weak_name=config.weak,
            weak=weak,
            strong=strong,
            estimator=foreteller.estimator,
            bar=foreteller.bar,
            bars=foreteller.bars,
            held_out=foreteller.held_out,
            saved=foreteller.saved,
            on_decline=config.on_decline,
            explore=config.explore,
            weak_price=self.config.models[config.weak].price,
            rng=np.random.default_rng(),
        )

    def _foreteller_or_why(
        self, name: str, domain: str, weak: PrefillEngine, now: datetime
    ) -> _Foreteller:
        try:
            found = self._foreteller(name, domain, weak)
        except RoutingError as error:
            cause = next((word for kind, word in _CAUSES if isinstance(error, kind)), "router")
            return _Foreteller(NoEstimator(cause=cause, reason=str(error)), _NO_BAR)
        most = self.config.probes.max_age_days
        if most is None or found.saved is None:
            return found
        age = (now - datetime.fromisoformat(found.saved.card.created)).total_seconds() / 86_400
        if age <= most:
            return found
        reason = (
            f"probe {found.saved.card.name} is {age:.0f} days old, and probes.max_age_days is "
            f"{most:g}; train it again"
        )
        return replace(found, estimator=NoEstimator(cause="probe_stale", reason=reason))

    def _domains(self, config: RouteConfig) -> tuple[str, ...]:
        if isinstance(config.domain, str):
            return (config.domain,)
        trained = served_domains(self.config.probes.dir)
        held = f"the route names no domain, and {self.config.probes.dir} holds "
        if not trained:
            raise ConfigError(f"{held}no probe to find it by; set domain:, or run foretell train")
        if len(trained) > 1 and config.router not in ("probe", "auto"):
            raise ConfigError(f"{held}probes for {', '.join(trained)}; set domain: to one of them")
        return tuple(trained)

    def _foreteller_of_all(
        self, name: str, domains: Sequence[str], weak: PrefillEngine
    ) -> _Foreteller:
        found = [self._foreteller(name, domain, weak) for domain in domains]
        return found[0] if len(found) == 1 else _nearest(domains, found)

    def _foreteller(self, name: str, domain: str, weak: PrefillEngine) -> _Foreteller:
        config = self.config.routes[name]
        if config.router == "auto":
            return self._on_the_ladder(name, domain, weak)
        if config.router in ("weak", "strong"):
            chance = 1.0 if config.router == "weak" else 0.0
            reason = f"the route always takes the {config.router} model"
            constant = OutsideEstimator.constant(config.router, chance, domain)
            return _Foreteller(constant, Bar(keep_at=0.5, reason=reason))
        if config.router != "probe":
            outside, held_out = self._trained_outside(config, domain)
            return _Foreteller(outside, self._bar(config, held_out, domain), held_out)
        return self._by_probe(config, domain, weak)

    def _by_probe(
        self, config: RouteConfig, domain: str, weak: PrefillEngine, store: Store | None = None
    ) -> _Foreteller:
        """By the probe that serves; a ``store`` adds what was labelled since it was trained."""
        folder = self.config.probes.dir
        saved = serving_probe(folder, domain)
        saved.card.check_serves(weak.identity, domain)
        early, evidence = early_probes(folder, saved), saved.held_out
        if store is not None and isinstance(config.goal, QualityGoal | RiskGoal):
            evidence = with_later_evidence(
                saved, early, store, strong_model=self._stored_strong(config)
            )
        bar = self._bar(config, evidence, domain)
        looks = early_looks(saved.held_out, early, bar)
        return _Foreteller(ProbeEstimator.of(saved, looks), bar, saved.held_out, saved)

    def _on_the_ladder(self, name: str, domain: str, weak: PrefillEngine) -> _Foreteller:
        """By the step in force, or else by the highest one below it that can be taken."""
        config = self.config.routes[name]
        with self.open_store() as store:
            standing = standing_of(store, name, domain, model_key(weak.identity))
            missing = "nothing is labelled enough yet"
            for step in steps_down_from(standing.step):
                try:
                    if step == "probe":
                        return self._by_probe(config, domain, weak, store)
                    return self._by_step(store, step, standing, config, domain, weak)
                except RoutingError as error:
                    missing = f"step {step} cannot be taken, since {error}"
                    _logger.warning("route %r in domain %r: %s", name, domain, missing)
            lengths = _stored_lengths(store, domain, model_key(weak.identity))
        router, bar = start_step(config.goal, lengths, missing)
        return _Foreteller(OutsideEstimator(router, domain), bar)

    def _by_step(
        self,
        store: Store,
        step: Step,
        standing: Standing,
        config: RouteConfig,
        domain: str,
        weak: PrefillEngine,
    ) -> _Foreteller:
        router, held_out = fit_step(
            step,
            store,
            domain,
            config.goal,
            weak_model=model_key(weak.identity),
            metric=standing.metric,
            strong_model=self._stored_strong(config),
        )
        bar = self._bar(config, held_out, domain)
        return _Foreteller(OutsideEstimator(router, domain), bar, held_out)

    def _stored_strong(self, config: RouteConfig) -> str | None:
        """The store's key of the first strong model, where its name tells."""
        strong = self.config.models[config.strong[0]]
        return model_key(strong.model) if isinstance(strong, OpenAIModel) else None

    def _trained_outside(
        self, config: RouteConfig, domain: str
    ) -> tuple[OutsideEstimator, HeldOut]:
        """A baseline as the router: fitted at start on the domain's training queries.

        Its threshold is chosen on the domain's test queries, which the fit has not seen.
        """
        ask = None
        if config.router == "llm":
            ask = asking(self.open_configured(config.classifier or config.weak))
        unfitted = make_router(config.router, ask=ask)
        if unfitted.sees not in ("nothing", "query"):
            raise ConfigError(
                f"router {config.router!r} must see the {unfitted.sees}, which this route cannot "
                "show it before deciding; use probe, or one that reads the text"
            )
        with self.open_store() as store:
            train = store.load_routing_data(domain, split="train", read_points=())
            test = store.load_routing_data(domain, split="test", read_points=())
        fitted = unfitted.fit(train, np.random.default_rng(0))
        known = test.take(np.isfinite(test.weak)) if test.weak.size else test
        held_out = HeldOut(
            p_success=fitted.p_success(known),
            weak=known.weak,
            strong=known.strong if known.strong.size else np.full(len(known), np.nan),
        )
        return OutsideEstimator(fitted, domain), held_out

    def _bar(self, config: RouteConfig, held_out: HeldOut, domain: str) -> Bar:
        match config.goal:
            case CostGoal():
                return self._bar_within_budget(config, config.goal, held_out, domain)
            case DailyCostGoal():
                # Where to begin; what a day may cost is kept to while it passes.
                bar = bar_for(StrongShareGoal(strong_share=0.5), held_out)
                return replace(bar, reason=f"{config.goal.usd_per_day:g} USD a day")
            case _:
                return bar_for(config.goal, held_out)

    def _bar_within_budget(
        self, config: RouteConfig, goal: CostGoal, held_out: HeldOut, domain: str
    ) -> Bar:
        """The share of strong calls that a budget allows, at the mean costs seen in collection."""
        costs: dict[Role, float] = {}
        models: dict[Role, str] = {"weak": config.weak, "strong": config.strong[0]}
        with self.open_store() as store:
            for role, model in models.items():
                price = self.config.models[model].price
                seen = [cost_usd(o.answer.usage, price) for o in store.observations(domain, role)]
                known = [cost for cost in seen if cost is not None]
                if not known:
                    raise ConfigError(
                        f"goal usd_per_1k needs the price of {model!r} and answers of it to "
                        f"domain {domain!r}; set models.{model}.price and collect --with-strong"
                    )
                costs[role] = fmean(known)
        share = share_within_budget(
            goal.usd_per_1k / 1000, weak_usd=costs["weak"], strong_usd=costs["strong"]
        )
        bar = bar_for(StrongShareGoal(strong_share=share), held_out)
        return replace(bar, reason=f"{goal.usd_per_1k:g} USD per 1,000 queries; {bar.reason}")
