"""Every metric of the gateway, by its name; no label ever holds what a caller sent."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from foretell.records import Action, MeteredUsage, RequestRecord

BreakerState = Literal["closed", "half_open", "open"]

CAUSES: Final = frozenset(
    (
        "audio",
        "budget",
        "content",
        "context",
        "engine_busy",
        "engine_failed",
        "frequency_penalty",
        "goal",
        "images",
        "json_schema",
        "logit_bias",
        "logprobs",
        "n",
        "no_domain",
        "no_estimate",
        "no_probe",
        "outside",
        "presence_penalty",
        "probe_mismatch",
        "probe_slow",
        "probe_stale",
        "prompt",
        "router",
        "tools",
        "weak_loading",
        "weak_unavailable",
        "web_search",
    )
)
"""Why a query is declined (``Decision.cause``): the words of what a request needs and a model
cannot do, and of what keeps a probe from being asked. Any other word is counted as ``other``."""

DIVERSIONS: Final = frozenset(
    (
        *("breaker_open", "broke_off", "busy", "context_window", "error", "refused", "timeout"),
        *("unauthorised", "unreachable"),
        *("context", "engine_busy", "engine_failed", "prompt"),
        *("budget", "escalations"),
    )
)
"""Why a request was served by another model than the one that should (``fallback``), or without
asking the probe (``pinned``): how a call failed, how the weak model did, or what is used up."""

REJECTIONS: Final = frozenset(
    (
        "body_too_large",
        "concurrency_limit_exceeded",
        "host_not_allowed",
        "insufficient_quota",
        "invalid_api_key",
        "invalid_header",
        "invalid_json",
        "invalid_type",
        "invalid_value",
        "keys_unavailable",
        "missing_required_parameter",
        "model_not_allowed",
        "model_not_found",
        "overloaded",
        "previous_response_not_found",
        "price_not_known",
        "rate_limit_exceeded",
        "timeout",
        "unknown_domain",
        "unknown_parameter",
        "unsupported_request",
        "unsupported_value",
    )
)
"""Why a request is refused before it reaches a model (``ApiError.code``); any other word is counted
as ``other``."""

OUTCOMES: Final = frozenset(
    (
        "breaker_open",
        "broke_off",
        "busy",
        "context_window",
        "error",
        "ok",
        "refused",
        "timeout",
        "unauthorised",
        "unreachable",
    )
)
"""How one call of an upstream went; any other word is counted as ``other``."""

SHADOW_RUNS: Final = frozenset(("done", "failed", "dropped", "budget"))
"""What becomes of a shadow run; any other word is counted as ``other``."""

_OTHER: Final = "other"
_ACTIONS: Final = frozenset(get_args(Action))
_SOURCES: Final = frozenset(("client", "code", "human", "judge"))
_BREAKER_VALUES: Final[Mapping[str, int]] = {"closed": 0, "half_open": 1, "open": 2}

_OVERHEAD_S: Final = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0)
_PREFILL_S: Final = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 15.0)
_PROBE_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.05)
_REQUEST_S: Final = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)

# OpenTelemetry's conventions for generative AI (still in development there) give the names, labels
# and bounds of these two; in Prometheus a dot becomes an underscore and the unit a suffix.
_GEN_AI_LABELS: Final = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_response_model")
_GEN_AI_DURATION_S: Final = tuple(0.01 * 2**power for power in range(14))
_GEN_AI_FIRST_TOKEN_S: Final = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreState:
    """How the writing to the store goes.

    ``error`` says why nothing can be written just now, ``None`` when it can. ``waiting`` says by
    kind (rows, vectors) how much is still to be written, ``shed`` by kind (records, observations,
    vectors) how much a full queue has let go of so far.
    """

    error: str | None = None
    waiting: Mapping[str, int] = field(default_factory=dict[str, int])
    shed: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveState:
    """What gauges show, as it is at the moment they are read.

    ``breakers`` has a state per target, ``strong_share`` and ``keep_at`` a number per route,
    ``None`` where there is none now. ``explore`` is the share left to chance, per route.
    ``quality`` is an estimate by route, policy and bound.
    ``alarms`` says by domain and name whether an alarm of the flywheel is raised. ``store`` is
    ``None`` where nothing is to be kept.
    """

    in_flight: int
    config_hash: str
    breakers: Mapping[str, BreakerState] = field(default_factory=dict[str, BreakerState])
    strong_share: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    keep_at: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    explore: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    shadow_waiting: int = 0
    alarms: Mapping[tuple[str, str], bool] = field(default_factory=dict[tuple[str, str], bool])
    quality: Mapping[tuple[str, str, str], float] = field(
        default_factory=dict[tuple[str, str, str], float]
    )
    store: StoreState | None = None


class Metrics:
    """The metrics of one gateway, in a registry of their own.

    Labels hold names of the configuration and words of fixed lists alone; whatever else comes in
    is counted as ``other``, so that no caller can add a series. ``live`` is called at each scrape,
    from whichever thread renders. Everything here may be called from any thread.
    """

    def __init__(
        self, *, routes: Iterable[str], models: Iterable[str], live: Callable[[], LiveState]
    ) -> None:
        self._routes: frozenset[str] = frozenset()
        self._models: frozenset[str] = frozenset()
        self.know(routes=routes, models=models)
        self._registry = CollectorRegistry(auto_describe=False)
        self._requests = self._counter(
            "requests", "Requests served", ("route", "decision", "model", "status_class")
        )
        self._declined = self._counter(
            "declined", "Queries that no usable estimate was made for", ("route", "cause")
        )
        self._diverted = self._counter(
            "diverted",
            "Requests that something else than an estimate decided: a failure, or what is used up",
            ("route", "decision", "cause"),
        )
        self._overhead = self._histogram(
            "overhead_seconds",
            "What of a request was neither the upstream nor the weak model",
            _OVERHEAD_S,
        )
        self._prefill = self._histogram(
            "prefill_seconds", "Prefills of the weak model", _PREFILL_S, ("route",)
        )
        self._probe = self._histogram("probe_seconds", "Applying the probe", _PROBE_S)
        self._seconds = self._histogram("request_seconds", "Whole requests", _REQUEST_S, ("route",))
        self._first_byte = self._histogram(
            "first_byte_seconds", "Until the answer's first byte", _REQUEST_S, ("route",)
        )
        self._attempts = self._counter(
            "upstream_attempts", "Calls of upstreams, retries too", ("target", "outcome")
        )
        self._cost = self._counter(
            "cost_usd",
            "Known cost of requests by the model that answered, weak prefills included",
            ("route", "model"),
        )
        self._unpriced = self._counter(
            "cost_unknown", "Requests whose cost is not known", ("route", "model")
        )
        # A net saving may fall, which a counter must not: it is the first of these less the second.
        self._always_strong = self._counter(
            "always_strong_usd",
            "What requests would have cost at the first strong model, where both costs are known",
            ("route",),
        )
        self._compared = self._counter(
            "compared_usd",
            "What the requests counted in foretell_always_strong_usd_total did cost",
            ("route",),
        )
        self._tokens = self._counter(
            "tokens",
            "Tokens as providers count them: cached ones are part of prompt, "
            "reasoning ones of completion",
            ("route", "model", "kind"),
        )
        self._feedback = self._counter("feedback", "Feedback taken", ("source",))
        self._shadow_runs = self._counter(
            "shadow_runs",
            "Requests for the weak model to answer afterwards, by what became of them",
            ("outcome",),
        )
        self._rejected = self._counter(
            "rejected", "Requests refused before they reached a model", ("reason",)
        )
        self._gen_ai_duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "GenAI server request duration",
            _GEN_AI_LABELS,
            buckets=_GEN_AI_DURATION_S,
            registry=self._registry,
        )
        self._gen_ai_first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "Time to generate the first token of successful responses",
            _GEN_AI_LABELS,
            buckets=_GEN_AI_FIRST_TOKEN_S,
            registry=self._registry,
        )
        self._served: dict[tuple[str, str], _ServedMeters] = {}
        self._outcomes: dict[tuple[str, str, str, str], Counter] = {}
        self._registry.register(_LiveGauges(live))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)
        GCCollector(registry=self._registry)

    def know(self, *, routes: Iterable[str], models: Iterable[str]) -> None:
        """Let these names of a configuration be labels, besides those known before.

        Names that a reload removed stay known: their requests may still be under way, and a
        counter that vanishes looks like a restart.
        """
        self._routes |= frozenset(routes)
        self._models |= frozenset(models)

    def served(
        self, record: RequestRecord, *, probe_s: float | None = None, declined: str | None = None
    ) -> None:
        """Count one request that is over; ``probe_s`` is what applying the probe took.

        ``declined`` is why it was declined first, where the record tells of what came after.
        """
        route = self._route(record.route)
        model = record.model if record.model in self._models else _OTHER
        meters = self._served.get((route, model)) or self._bind(route, model)
        action = record.action if record.action in _ACTIONS else _OTHER
        outcome = (route, action, model, _status_class(record.status))
        (self._outcomes.get(outcome) or self._bind_outcome(outcome)).inc()
        if declined is None and record.action == "declined":
            declined = record.cause or _OTHER
        if declined is not None:
            self._declined.labels(route, declined if declined in CAUSES else _OTHER).inc()
        elif record.cause is not None:
            cause = record.cause if record.cause in DIVERSIONS else _OTHER
            self._diverted.labels(route, outcome[1], cause).inc()
        meters.seconds.observe(record.seconds)
        meters.gen_ai_duration.observe(record.seconds)
        if record.first_byte_s is not None:
            meters.first_byte.observe(record.first_byte_s)
            meters.gen_ai_first_token.observe(record.first_byte_s)
        if record.prefill_s is not None:
            meters.prefill.observe(record.prefill_s)
        if record.overhead_s is not None:
            self._overhead.observe(record.overhead_s)
        if probe_s is not None:
            self._probe.observe(probe_s)
        if record.usage is not None:
            meters.use(record.usage)
        meters.charge(record)

    def attempted(self, target: str, outcome: str) -> None:
        """Count one call of an upstream."""
        self._attempts.labels(
            target if target in self._models else _OTHER,
            outcome if outcome in OUTCOMES else _OTHER,
        ).inc()

    def rejected(self, reason: str) -> None:
        """Count a request that was refused; the ``code`` of an error will do as a reason."""
        self._rejected.labels(reason if reason in REJECTIONS else _OTHER).inc()

    def took_feedback(self, source: str) -> None:
        """Count feedback."""
        self._feedback.labels(source if source in _SOURCES else _OTHER).inc()

    def ran_shadow(self, outcome: str) -> None:
        """Count a shadow run: ``done``, ``failed``, or why there was none."""
        self._shadow_runs.labels(outcome if outcome in SHADOW_RUNS else _OTHER).inc()

    def render(self, accept: str | None = None) -> tuple[bytes, str]:
        """The exposition and its content type: OpenMetrics where ``accept`` names it."""
        # The header itself is not passed on: the library repeats parts of it in the content type.
        open_metrics = "application/openmetrics-text"
        encode, content_type = choose_encoder(
            open_metrics if open_metrics in (accept or "") else ""
        )
        return encode(self._registry), content_type

    def _route(self, route: str | None) -> str:
        """A model that was asked for by its name has no route, an empty label."""
        return "" if route is None else route if route in self._routes else _OTHER

    def _bind(self, route: str, model: str) -> _ServedMeters:
        gen_ai = ("chat", "foretell", model)
        return self._served.setdefault(
            (route, model),
            _ServedMeters(
                seconds=self._seconds.labels(route),
                first_byte=self._first_byte.labels(route),
                prefill=self._prefill.labels(route),
                gen_ai_duration=self._gen_ai_duration.labels(*gen_ai),
                gen_ai_first_token=self._gen_ai_first_token.labels(*gen_ai),
                cost=self._cost.labels(route, model),
                unpriced=self._unpriced.labels(route, model),
                always_strong=self._always_strong.labels(route),
                compared=self._compared.labels(route),
                prompt_tokens=self._tokens.labels(route, model, "prompt"),
                cached_tokens=self._tokens.labels(route, model, "cached"),
                completion_tokens=self._tokens.labels(route, model, "completion"),
                reasoning_tokens=self._tokens.labels(route, model, "reasoning"),
            ),
        )

    def _bind_outcome(self, outcome: tuple[str, str, str, str]) -> Counter:
        return self._outcomes.setdefault(outcome, self._requests.labels(*outcome))

    def _counter(self, name: str, description: str, labels: tuple[str, ...] = ()) -> Counter:
        return Counter(f"foretell_{name}", description, labels, registry=self._registry)

    def _histogram(
        self, name: str, description: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()
    ) -> Histogram:
        return Histogram(
            f"foretell_{name}", description, labels, buckets=buckets, registry=self._registry
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _ServedMeters:
    """Meters of one route and model with their labels bound, which takes longer than counting."""

    seconds: Histogram
    first_byte: Histogram
    prefill: Histogram
    gen_ai_duration: Histogram
    gen_ai_first_token: Histogram
    cost: Counter
    unpriced: Counter
    always_strong: Counter
    compared: Counter
    prompt_tokens: Counter
    cached_tokens: Counter
    completion_tokens: Counter
    reasoning_tokens: Counter

    def use(self, usage: MeteredUsage) -> None:
        self.prompt_tokens.inc(usage.prompt_tokens)
        self.cached_tokens.inc(usage.cached_tokens)
        self.completion_tokens.inc(usage.completion_tokens)
        self.reasoning_tokens.inc(usage.reasoning_tokens)

    def charge(self, record: RequestRecord) -> None:
        if record.cost_usd is None:
            self.unpriced.inc()
            return
        self.cost.inc(record.cost_usd)
        if record.always_strong_usd is not None:
            self.always_strong.inc(record.always_strong_usd)
            self.compared.inc(record.cost_usd)


class _LiveGauges(Collector):
    """Gauges that are read when asked for, so that nobody has to keep them up to date."""

    def __init__(self, live: Callable[[], LiveState]) -> None:
        self._live = live

    def collect(self) -> Iterator[Metric]:
        live = self._live()
        yield GaugeMetricFamily(
            "foretell_in_flight", "Requests being served now", value=live.in_flight
        )
        yield InfoMetricFamily(
            "foretell_config", "The configuration in use", value={"hash": live.config_hash}
        )
        yield _gauge(
            "foretell_breaker_state",
            "0 closed (a target is called), 1 half open (it is tried), 2 open (it is left alone)",
            "target",
            {target: _BREAKER_VALUES[state] for target, state in live.breakers.items()},
        )
        yield _gauge(
            "foretell_strong_share",
            "Share of recent requests that a strong model served",
            "route",
            live.strong_share,
        )
        yield _gauge(
            "foretell_keep_at", "Chance from which the weak model answers", "route", live.keep_at
        )
        yield _gauge(
            "foretell_explore", "Share of decisions that is left to chance", "route", live.explore
        )
        yield GaugeMetricFamily(
            "foretell_shadow_runs_waiting", "Shadow runs that wait", value=live.shadow_waiting
        )
        if live.store is not None:
            yield from _store_gauges(live.store)
        alarms = GaugeMetricFamily(
            "foretell_alarm",
            "1 while an alarm of the flywheel is raised",
            labels=("domain", "alarm"),
        )
        for (domain, name), raised in sorted(live.alarms.items()):
            alarms.add_metric((domain, name), float(raised))
        yield alarms
        quality = GaugeMetricFamily(
            "foretell_success",
            "Estimated share of answers that succeed, with the ends of its 95 % interval",
            labels=("route", "policy", "bound"),
        )
        for labels, value in sorted(live.quality.items()):
            quality.add_metric(labels, value)
        yield quality


def _store_gauges(store: StoreState) -> Iterator[Metric]:
    yield GaugeMetricFamily(
        "foretell_store_failing",
        "1 while nothing can be written to the store",
        value=float(store.error is not None),
    )
    yield _gauge(
        "foretell_store_waiting", "What is still to be written to the store", "kind", store.waiting
    )
    for kind, n in store.shed.items():
        yield CounterMetricFamily(
            f"foretell_{kind}_shed", f"{kind.capitalize()} a full queue let go of", value=n
        )


def _gauge(
    name: str, description: str, label: str, values: Mapping[str, float | None]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, description, labels=(label,))
    for name_in_config, value in values.items():
        if value is not None:
            family.add_metric((name_in_config,), value)
    return family


def _status_class(status: int) -> str:
    return f"{status // 100}xx" if 100 <= status < 600 else _OTHER
