"""One configuration, ready to serve: immutable, swapped whole, closed when nobody uses it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Final

import numpy as np

from foretell.config import Config, DomainFromHeader, OpenAIModel, RouteConfig, TrafficConfig
from foretell.errors import RoutingError
from foretell.gateway._control import GoalControl
from foretell.gateway._errors import ApiError
from foretell.gateway._members import LocalMember, Member, RemoteMember, abilities_of
from foretell.gateway._purse import RoutePurse
from foretell.gateway._watched import Watched, watched_of
from foretell.policy import Abilities, PrefillDeadlines
from foretell.prefill import Progress
from foretell.records import Message
from foretell.runtime import EngineShelf, Explainer, Foretell, Route, key_by_config
from foretell.store import model_key
from foretell.upstreams import Target

if TYPE_CHECKING:
    from foretell.gateway._capture import Capture

_logger = logging.getLogger(__name__)

_WARM_UP: tuple[Message, ...] = ({"role": "user", "content": "Good morning. " * 16},)


def config_hash(config: Config) -> str:
    """SHA-256 of the settings, whatever file they came from."""
    text = json.dumps(config.model_dump(mode="json"), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(eq=False, slots=True)
class WeakSide:
    """A route's weak model in one domain: what decides, and what steers its goal.

    ``domain`` is ``None`` where there is none to know anything about. ``weak_key`` is the weak
    model's key in the store, ``watched`` what is looked at beside the decision.
    """

    domain: str | None
    route: Route
    control: GoalControl
    explainer: Explainer
    weak_key: str
    watched: Watched


@dataclass(frozen=True, slots=True)
class NoSide:
    """Why a route cannot read a query: a word for counters, and a sentence."""

    cause: str
    reason: str


LOADING: Final = NoSide("weak_loading", "the weak model is being loaded")


@dataclass(eq=False, slots=True)
class ServedRoute:
    """A route as it is served.

    ``sides`` are empty until the weak model is loaded; ``waits_for`` says what is missing until
    then, or for good when it cannot be loaded. ``nearest`` finds the domain of a query that names
    none, where there are several to choose from. ``purse`` is ``None`` where the goal is no budget.
    """

    name: str
    config: RouteConfig
    strong: tuple[Member, ...]
    pool: Mapping[str, Member]
    weak_abilities: Abilities
    deadlines: PrefillDeadlines
    purse: RoutePurse | None
    sides: dict[str, WeakSide] = field(default_factory=dict[str, WeakSide])
    nearest: WeakSide | None = None
    waits_for: NoSide | None = LOADING

    def side(self, domain: str | None) -> WeakSide | NoSide:
        """The weak side of a domain (``None``: the only one), or why there is none.

        Raises ``ApiError`` for a domain that a caller made up.
        """
        if self.waits_for is not None:
            return self.waits_for
        if domain is not None and domain not in self.sides:
            raise ApiError(
                400,
                f"domain {domain!r} is not served by route {self.name!r}; known are "
                f"{', '.join(sorted(self.sides)) or 'none'}",
                code="unknown_domain",
                param="x-foretell-domain",
            )
        if domain is not None:
            return self.sides[domain]
        if len(self.sides) == 1:
            return next(iter(self.sides.values()))
        return self.nearest or NoSide(
            "no_domain",
            f"the request names none of the domains {', '.join(sorted(self.sides))}; "
            "send it in the header x-foretell-domain",
        )

    @property
    def domain_header(self) -> str | None:
        """The header that holds the domain; ``None`` when it is fixed or ours."""
        domain = self.config.domain
        return domain.header if isinstance(domain, DomainFromHeader) else None


class Snapshot:
    """All that one configuration needs, made by ``build`` and ``load``."""

    def __init__(
        self,
        config: Config,
        shelf: EngineShelf,
        executor: Executor,
        *,
        capture: Capture | None = None,
    ) -> None:
        """``capture`` keeps what requests show; ``None`` where nothing is kept."""
        self.config = config
        self.capture = capture
        self.hash = config_hash(config)
        self.foretell = Foretell(config, engines=shelf)
        self.members: dict[str, Member] = {}
        self.targets: dict[str, Target] = {}
        self.routes: dict[str, ServedRoute] = {}
        self.domain_headers = frozenset(
            route.domain.header.lower()
            for route in config.routes.values()
            if isinstance(route.domain, DomainFromHeader)
        )
        self.users = 0
        self.retired = False
        self._executor = executor
        for name, model in config.models.items():
            self.members[name] = self._member(name, model)
        for name, route in config.routes.items():
            self.routes[name] = self._served(name, route)

    def load(
        self,
        *,
        now: datetime,
        clock: Callable[[], float],
        spent_today: Callable[[str], float],
        decided: Callable[[str, str | None], int],
        previous: Snapshot | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Open the weak models and read the probes; runs long, on a thread.

        What cannot be opened makes its route decline. ``spent_today`` says what a route has cost
        since midnight, ``decided`` how many decisions it has made in a domain; ``previous`` hands
        on what its unchanged routes have learnt.
        """
        for name, served in self.routes.items():
            _open_purse(served, previous, clock, lambda name=name: spent_today(name))
        for name, served in self.routes.items():
            try:
                sides = self._sides(name, served, now, decided, previous, progress)
            except Exception as error:
                why: object = error
                if not isinstance(error, RoutingError):
                    _logger.exception("the weak model of route %r cannot be used", name)
                    why = "a defect, of which the log tells more"
                served.waits_for = NoSide(
                    "weak_unavailable", f"the weak model cannot be used: {why}"
                )
                continue
            served.sides = sides
            served.waits_for = None
        self._load_answering()

    @property
    def loaded(self) -> bool:
        """Whether nothing is being waited for any more."""
        return all(route.waits_for is not LOADING for route in self.routes.values())

    def sides(self) -> Iterator[WeakSide]:
        """Every weak side that is open."""
        for route in self.routes.values():
            yield from route.sides.values()
            if route.nearest is not None:
                yield route.nearest

    def knows(self, name: str) -> bool:
        """Whether a route or a model is called that."""
        return name in self.routes or name in self.members

    def take(self) -> Snapshot:
        """One more request uses it."""
        self.users += 1
        return self

    def put_back(self) -> bool:
        """One fewer; whether it may be closed now."""
        self.users -= 1
        return self.retired and self.users == 0

    def retire(self) -> bool:
        """Another one has taken its place; whether it may be closed now."""
        self.retired = True
        return self.users == 0

    async def aclose_targets(self) -> None:
        """Close the connections."""
        for target in self.targets.values():
            await target.aclose()

    def close_models(self) -> None:
        """Free the models; may take long."""
        self.foretell.close()

    def _member(self, name: str, config: object) -> Member:
        model = self.config.models[name]
        if isinstance(config, OpenAIModel):
            target = self.targets[name] = Target(name=name, config=config)
            return RemoteMember(name, config, target)
        return LocalMember(name, model, lambda: self.foretell.open_configured(name), self._executor)

    def _served(self, name: str, config: RouteConfig) -> ServedRoute:
        return ServedRoute(
            name=name,
            config=config,
            strong=tuple(self.members[strong] for strong in config.strong),
            pool={member: self.members[member] for member in config.pool},
            weak_abilities=abilities_of(self.config.models[config.weak]),
            deadlines=PrefillDeadlines(
                floor_s=config.deadline.floor_ms / 1e3, times=config.deadline.times_p95
            ),
            purse=RoutePurse.of(config.goal),
        )

    def _sides(
        self,
        name: str,
        served: ServedRoute,
        now: datetime,
        decided: Callable[[str, str | None], int],
        previous: Snapshot | None,
        progress: Progress | None,
    ) -> dict[str, WeakSide]:
        old = None if previous is None else previous.routes.get(name)
        domains = self.foretell.domains(name) or (None,)
        sides: dict[str, WeakSide] = {}
        for domain in domains:
            route = self.foretell.open_weak_side(
                name, *([] if domain is None else [domain]), now=now, progress=progress
            )
            before = None if old is None else old.sides.get(domain or "")
            if before is not None and before.control.serves(served.config, route):
                control = before.control
            else:
                control = GoalControl(
                    served.config,
                    route,
                    purse=served.purse,
                    rng=np.random.default_rng(),
                    decisions=(
                        decided(name, domain) if before is None else before.control.decisions
                    ),
                )
            explainer = Explainer.of_route(
                route,
                served.config,
                self.foretell.open_store,
                strong_model=key_by_config(self.config.models[served.config.strong[0]]),
            )
            sides[domain or ""] = self._side(domain, route, control, explainer)
        served.nearest = self._nearest(name, served, sides, now)
        engine = next(iter(sides.values())).route.engine
        served.weak_abilities = abilities_of(
            self.config.models[served.config.weak], engine.context_tokens
        )
        if old is not None and (old.config.weak, old.config.deadline) == (
            served.config.weak,
            served.config.deadline,
        ):
            served.deadlines = old.deadlines
        self._warm_up(served, next(iter(sides.values())).route)
        return sides

    def _nearest(
        self, name: str, served: ServedRoute, sides: Mapping[str, WeakSide], now: datetime
    ) -> WeakSide | None:
        """What decides where a request names none of several domains."""
        if len(sides) < 2 or served.config.router not in ("probe", "auto"):
            return None
        route = self.foretell.open_weak_side(name, *sides, now=now)
        control = GoalControl(served.config, route, purse=served.purse, rng=np.random.default_rng())
        explainer = Explainer.of_route(route, served.config, self.foretell.open_store)
        return self._side(None, route, control, explainer)

    def _side(
        self, domain: str | None, route: Route, control: GoalControl, explainer: Explainer
    ) -> WeakSide:
        traffic = TrafficConfig(vectors="none") if self.capture is None else self.capture.config
        watched = watched_of(route, domain, traffic, self.config.probes.dir)
        route.also_read = watched.read_points
        key = model_key(route.weak_identity)
        return WeakSide(domain, route, control, explainer, key, watched)

    def _load_answering(self) -> None:
        """Open what answers in this process, or its first callers would wait for it."""
        for served in self.routes.values():
            for member in (*served.strong, *served.pool.values()):
                if isinstance(member, LocalMember):
                    try:
                        member.load()
                    except RoutingError as error:
                        _logger.warning("model %r cannot be opened: %s", member.name, error)

    def _warm_up(self, served: ServedRoute, route: Route) -> None:
        """One prefill, so that the first caller neither waits for it nor has no deadline."""
        with suppress(RoutingError), route.prefill(_WARM_UP, answer_tokens=1) as prefill:
            served.deadlines.observe(len(prefill.prompt.tokens), prefill.seconds)


def _open_purse(
    served: ServedRoute,
    previous: Snapshot | None,
    clock: Callable[[], float],
    spent_today: Callable[[], float],
) -> None:
    """Go on with the purse of a route that has the same budget, or find out what is left."""
    if served.purse is None:
        return
    old = None if previous is None else previous.routes.get(served.name)
    if old is not None and old.purse is not None and old.purse.goal == served.purse.goal:
        served.purse = old.purse
    if not served.purse.is_open:
        served.purse.open(clock=clock, spent_usd=spent_today())
