"""Settings: read once from a YAML file and the environment, checked, and passed on as values.

Environment variables override the file: ``FORETELL_SERVER__PORT=9000`` is ``server.port``.
Secrets stand in neither; a setting whose name ends in ``_env`` names the variable that
holds one, and ``secret`` reads it when it is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from foretell.errors import ConfigError

RouterName = Literal[
    "auto",
    "probe",
    "embedding",
    "knn",
    "mf",
    "sw_ranking",
    "text_classifier",
    "tfidf",
    "keyword",
    "length",
    "llm",
    "random",
    "weak",
    "strong",
]


def _variable_name(name: str) -> str:
    # A key pasted here by mistake has lower-case letters or dashes. It must not be repeated in
    # the error.
    if not re.fullmatch(r"[A-Z_][A-Z0-9_]*", name):
        raise PydanticCustomError(
            "variable_name",
            "must be the name of an environment variable in capitals, such as LARGE_KEY; "
            "the secret itself belongs in that variable",
        )
    return name


def _model_reference(reference: str) -> str:
    if not re.fullmatch(r"(hf|file|pypi):.+", reference):
        raise PydanticCustomError(
            "model_reference",
            "must look like 'hf:org/name', 'file:path' or 'pypi:distribution'",
        )
    return reference


def _without_password(url: str) -> str:
    if re.match(r"[^/]*//[^/@]*:[^/]*@", url):
        raise PydanticCustomError(
            "password", "must hold no password; PostgreSQL takes it from PGPASSWORD or ~/.pgpass"
        )
    return url


_VariableName = Annotated[str, AfterValidator(_variable_name)]
_ModelReference = Annotated[str, AfterValidator(_model_reference)]
_Share = Annotated[float, Field(ge=0, le=1)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Price(_Section):
    """What a model costs, in USD per million tokens."""

    input: float = Field(ge=0, description="USD per million prompt tokens")
    output: float = Field(ge=0, description="USD per million generated tokens")
    cached_input: float | None = Field(
        default=None, ge=0, description="USD per million cached prompt tokens; as input when absent"
    )


class Capabilities(_Section):
    """What a model can take; a request that needs more goes to another one."""

    tools: bool | None = Field(default=None, description="calls tools")
    images: bool | None = Field(default=None, description="reads pictures and files")
    audio: bool | None = Field(default=None, description="hears, or speaks")
    json_schema: bool | None = Field(default=None, description="answers in a given JSON form")
    context_tokens: int | None = Field(
        default=None, ge=16, description="most tokens of a prompt and its answer"
    )


class _Model(_Section):
    price: Price | None = Field(
        default=None, description="absent: the published one of a model behind an API, if any"
    )
    capabilities: Capabilities = Field(
        default=Capabilities(),
        description="absent: all of them behind an API, text alone on an engine here",
    )


class LlamacppModel(_Model):
    """A GGUF file served inside this process by llama.cpp."""

    engine: Literal["llamacpp"]
    model: _ModelReference = Field(description="hf:…, file:… or pypi:…")
    threads: int | None = Field(
        default=None, ge=1, description="CPU threads; cores less one when absent"
    )
    context_tokens: int = Field(
        default=2048, ge=16, description="most tokens of one prompt and answer"
    )
    parallel: int = Field(default=4, ge=1, description="requests served at the same time")
    requantise: bool = Field(
        default=True, description="convert weights without a fast CPU kernel once, on the first run"
    )


class TransformersModel(_Model):
    """A model served inside this process by Hugging Face transformers."""

    engine: Literal["transformers"]
    model: _ModelReference = Field(description="hf:… or file:…")


class VllmModel(_Model):
    """A model served by vLLM with foretell's plugin."""

    engine: Literal["vllm"]
    model: str = Field(min_length=1, description="the name it is served under")
    base_url: str = Field(pattern=r"^https?://", description="up to and including /v1")
    api_key_env: _VariableName | None = Field(
        default=None, description="variable that holds the key"
    )


class UpstreamDeadlines(_Section):
    """Limits of one call, in seconds."""

    connect_s: float = Field(default=5.0, gt=0, description="to find and reach the host")
    first_byte_s: float = Field(default=60.0, gt=0, description="until the answer begins")
    idle_s: float = Field(default=60.0, gt=0, description="between two pieces of the answer")
    total_s: float = Field(default=600.0, gt=0, description="all of it, attempts and waits too")


class UpstreamRetries(_Section):
    """Calls in all, before the answer's first byte; the wait doubles from one to the next."""

    attempts: int = Field(default=2, ge=1, description="1 does not try again")
    first_wait_s: float = Field(default=0.25, ge=0)
    longest_wait_s: float = Field(default=4.0, ge=0)
    budget: float = Field(
        default=0.2, ge=0, le=1, description="most retries as a share of recent calls"
    )


class BreakerConfig(_Section):
    """When a target that fails is left alone, and for how long."""

    failures: int = Field(default=5, ge=1, description="in a row, before it is left alone")
    open_s: float = Field(default=15.0, gt=0, description="until one call may try it again")


class OpenAIModel(_Model):
    """A model behind an OpenAI-compatible API; it exposes no activations."""

    engine: Literal["openai"]
    model: str = Field(min_length=1, description="the name the API knows it by")
    base_url: str = Field(pattern=r"^https?://", description="up to and including /v1")
    api_key_env: _VariableName | None = Field(
        default=None, description="variable that holds the key"
    )
    deadlines: UpstreamDeadlines = UpstreamDeadlines()
    retries: UpstreamRetries = UpstreamRetries()
    breaker: BreakerConfig = BreakerConfig()


class RecordedModel(_Model):
    """Recorded activations and answers, replayed."""

    engine: Literal["recorded"]
    path: Path = Field(description="the recording")
    model: str | None = Field(default=None, description="the name to answer under")


class TinyModel(_Model):
    """A deterministic decoder of a few layers with made-up weights, for trying things out."""

    engine: Literal["tiny"]
    model: str = Field(default="tiny", description="the name to answer under")


ModelConfig = Annotated[
    LlamacppModel | TransformersModel | VllmModel | OpenAIModel | RecordedModel | TinyModel,
    Field(discriminator="engine"),
]


class QualityGoal(_Section):
    """Hold this share of the strong model's quality, with this confidence, at the least cost."""

    quality: _Share
    confidence: float = Field(default=0.9, gt=0, lt=1)


class StrongShareGoal(_Section):
    """Send this share of the queries to the strong model."""

    strong_share: _Share


class CostGoal(_Section):
    """Spend at most this many USD per 1,000 queries."""

    usd_per_1k: float = Field(ge=0)


class DailyCostGoal(_Section):
    """Spend at most this many USD a day (UTC): what is left is spread over the rest of the day.

    A hard stop: a call that might cost more than is left is not made.
    """

    usd_per_day: float = Field(ge=0)


class RiskGoal(_Section):
    """Lose at most this share of answers that the strong model would have got right.

    An expectation over new queries and over the labels the threshold is chosen on (conformal risk
    control), not a promise with a confidence.
    """

    risk: _Share


class ThresholdGoal(_Section):
    """Keep when ``p_success`` is at least this."""

    threshold: _Share


class DomainFromHeader(_Section):
    """The domain stands in a header of each request."""

    header: str = Field(pattern=r"^[A-Za-z0-9-]+$")


_GOALS = ("quality", "strong_share", "usd_per_1k", "usd_per_day", "risk", "threshold")


def _goal_tag(goal: Any) -> str | None:
    keys = [
        key for key in _GOALS if (key in goal if isinstance(goal, Mapping) else hasattr(goal, key))
    ]
    return f"<{keys[0]}>" if len(keys) == 1 else None


def _domain_tag(domain: Any) -> str:
    return "<header>" if isinstance(domain, Mapping | DomainFromHeader) else "<name>"


Goal = Annotated[
    Annotated[QualityGoal, Tag("<quality>")]
    | Annotated[StrongShareGoal, Tag("<strong_share>")]
    | Annotated[CostGoal, Tag("<usd_per_1k>")]
    | Annotated[DailyCostGoal, Tag("<usd_per_day>")]
    | Annotated[RiskGoal, Tag("<risk>")]
    | Annotated[ThresholdGoal, Tag("<threshold>")],
    Discriminator(
        _goal_tag,
        custom_error_type="goal",
        custom_error_message=f"must have exactly one of {', '.join(_GOALS)}",
    ),
]
_Domain = Annotated[
    Annotated[str, Field(min_length=1), Tag("<name>")]
    | Annotated[DomainFromHeader, Tag("<header>")],
    Discriminator(_domain_tag),
]


class ProbeDeadline(_Section):
    """How long a decision may take; a slower one is declined."""

    floor_ms: float = Field(default=150.0, gt=0, description="never less than this")
    times_p95: float = Field(
        default=3.0, ge=1, description="times the 95th percentile of prefills of that length"
    )


class ConversationConfig(_Section):
    """What holds from turn to turn."""

    switch_margin: float = Field(
        default=0.1,
        ge=0,
        le=1,
        description="how far past the bar p_success must be before the model is changed",
    )
    ttl_s: float = Field(default=3600.0, gt=0, description="a silent conversation is forgotten")


class ExploreConfig(_Section):
    """How much is left to chance, so that outcomes are known on both sides of the bar.

    The share is ``floor + (start - floor) * 2 ** (-decisions / half_life)``. Of it, the part
    ``aimed`` goes to queries near the bar, where an outcome teaches most; the rest to all alike.
    """

    start: _Share = Field(default=0.1, description="share at the first decision")
    floor: _Share = Field(default=0.02, description="share that it falls to")
    half_life: int = Field(default=2000, ge=1, description="decisions until half the way down")
    aimed: float = Field(
        default=0.0,
        ge=0,
        le=0.9,
        description="part of the share that is near the bar; the rest must be seen, too",
    )

    @model_validator(mode="after")
    def _falls(self) -> ExploreConfig:
        if self.start < self.floor:
            raise PydanticCustomError("explore", "start must not be below floor")
        return self


class ShadowRunsConfig(_Section):
    """Asking the other model some of what one served, afterwards and off the request's path.

    Only where both answers are known does a request say what a quality goal is held by.
    """

    share: _Share = Field(default=0.02, description="of the requests the weak model did not serve")
    tokens_per_day: int = Field(
        default=200_000, ge=0, description="most tokens of the weak model a day (UTC), prompts too"
    )
    strong_share: _Share = Field(
        default=0.0, description="of the requests the weak model served; a strong call each"
    )
    usd_per_day: float = Field(
        default=1.0, ge=0, description="no such strong call is made once a day's have cost this"
    )
    max_waiting: int = Field(default=64, ge=1, description="more are dropped, and counted")


def _explore_tag(explore: Any) -> str:
    return "<schedule>" if isinstance(explore, Mapping | ExploreConfig) else "<share>"


class RouteConfig(_Section):
    """A weak model, the strong ones behind it, and what to decide between them by."""

    weak: str = Field(description="model tried first; foretell must be able to read it")
    strong: tuple[str, ...] = Field(min_length=1, description="in order: fallbacks")
    pool: tuple[str, ...] = Field(
        default=(),
        description="models to choose from besides the weak and the first strong one, each by a "
        "chance of its own from the one prefill",
    )
    router: RouterName = "probe"
    classifier: str | None = Field(
        default=None, description="model that router llm asks for a difficulty; the weak one"
    )
    goal: Goal = QualityGoal(quality=0.95)
    domain: _Domain | None = Field(default=None, description="absent: the nearest trained domain")
    explore: Annotated[
        Annotated[float, Field(ge=0, le=1), Tag("<share>")]
        | Annotated[ExploreConfig, Tag("<schedule>")],
        Discriminator(_explore_tag),
    ] = Field(default=0.0, description="random share that keeps labels honest, or how it falls")
    shadow_runs: ShadowRunsConfig | None = Field(
        default=None, description="ask the weak model some of what was escalated, afterwards"
    )
    on_decline: Literal["strong", "weak"] = Field(
        default="strong", description="who answers without a usable estimate"
    )
    deadline: ProbeDeadline = ProbeDeadline()
    conversation: ConversationConfig = ConversationConfig()
    weak_as_last_resort: bool = Field(
        default=True, description="the weak model answers when every strong one fails"
    )


class TrafficConfig(_Section):
    """What is kept of the requests that are served, beside the ledger.

    Vectors are as telling as the text they were read from: it can be recovered from them.
    """

    text: bool = Field(default=False, description="keep what was asked and answered")
    vectors: Literal["subspace", "full", "none"] = Field(
        default="subspace",
        description="of activations: the few directions that the probe reads, all, or none",
    )


class RetentionConfig(_Section):
    """How long traffic is kept; what was collected or imported stays."""

    days: float | None = Field(default=None, gt=0, description="older requests are erased")
    max_gb: float | None = Field(
        default=None, gt=0, description="the oldest are erased while the store is larger"
    )


class StoreConfig(_Section):
    """Where observations, outcomes and vectors are kept."""

    url: Annotated[str, AfterValidator(_without_password)] = "sqlite:///foretell.db"
    vectors: Path = Path("vectors")
    traffic: TrafficConfig = TrafficConfig()
    retention: RetentionConfig = RetentionConfig()
    encryption_key_env: _VariableName | None = Field(
        default=None,
        description="variable that holds a key of 32 bytes in base64, by which texts and vectors "
        "are encrypted",
    )


class AdminConfig(_Section):
    """The listener of those who run the gateway, apart from the callers' own."""

    host: str = "127.0.0.1"
    port: int = Field(ge=0, le=65535, description="0 takes any free one")
    token_env: _VariableName = Field(
        description="variable that holds 'role:token' pairs separated by commas; the roles are "
        "viewer and admin"
    )


class ServerConfig(_Section):
    """The gateway."""

    host: str = "127.0.0.1"
    port: int = Field(default=8400, ge=0, le=65535, description="0 takes any free one")
    api_keys_env: _VariableName | None = Field(
        default=None, description="variable that holds the callers' keys, separated by commas"
    )
    stored_keys: bool = Field(
        default=False, description="also accept the keys made by 'foretell keys create'"
    )
    max_body_mb: float = Field(default=8, gt=0)
    max_concurrent: int = Field(default=1024, ge=1, description="requests served at a time")
    header_timeout_s: float = Field(
        default=30.0, gt=0, description="until a request's headers and body are there"
    )
    drain_s: float = Field(default=30.0, ge=0, description="how long answers may go on at the end")
    admin: AdminConfig | None = None
    traces: bool = Field(
        default=False, description="OpenTelemetry traces, sent as the OTEL_ variables say"
    )
    record: bool = Field(default=True, description="keep a ledger of requests in the store")


class ProbesConfig(_Section):
    """Where trained probes are kept."""

    dir: Path = Path("probes")
    max_age_days: float | None = Field(
        default=None, gt=0, description="an older probe is not used; its route declines"
    )


class LabellerConfig(_Section):
    """A labeller of one domain's traffic."""

    name: str = Field(min_length=1, description="as foretell label --labeller takes it")
    options: dict[str, str] = Field(default_factory=dict[str, str])


class RefitConfig(_Section):
    """When a new probe is trained; whichever comes first."""

    every_h: float | None = Field(default=24.0, gt=0, description="hours since the last one")
    new_labels: int | None = Field(default=500, ge=1, description="labels since the last one")
    on_drift: bool = Field(default=True, description="when an alarm is raised")
    shadow_labels: int = Field(
        default=100, ge=0, description="labels a candidate must foretell in shadow before it serves"
    )
    confidence: float = Field(default=0.95, gt=0.5, lt=1, description="of the gain's lower bound")


class DriftConfig(_Section):
    """What is watched, and where it becomes an alarm."""

    window: int = Field(default=500, ge=50, description="requests that are compared")
    confidence: float = Field(default=0.99, gt=0.5, lt=1, description="of each alarm")
    psi: float = Field(default=0.25, gt=0, description="population stability index of the scores")
    ece: float = Field(default=0.1, gt=0, lt=1, description="calibration error that is too large")
    escalation: float = Field(
        default=0.15, gt=0, lt=1, description="change of the strong share that is too large"
    )


class FlywheelConfig(_Section):
    """The loop from traffic to a better probe."""

    worker: Literal["in_process", "apart", "off"] = Field(
        default="off",
        description="who does the work: foretell serve, machines that run "
        "'foretell flywheel work', or nobody",
    )
    every_s: float = Field(default=60.0, gt=0, description="how often the worker looks")
    labellers: dict[str, LabellerConfig] = Field(
        default_factory=dict[str, LabellerConfig], description="by domain"
    )
    trusted: tuple[Literal["human", "code", "judge", "client"], ...] = Field(
        default=("human", "code"), description="sources of labels a probe may be judged by"
    )
    influence_cap: float = Field(
        default=0.02, gt=0, le=1, description="most of a domain's labels that one key may give"
    )
    refit: RefitConfig = RefitConfig()
    drift: DriftConfig = DriftConfig()
    webhook: str | None = Field(
        default=None, pattern=r"^https?://", description="told of alarms, promotions and rollbacks"
    )
    webhook_token_env: _VariableName | None = Field(
        default=None, description="variable that holds the webhook's bearer token"
    )


class Config(BaseSettings):
    """All settings of foretell; relative paths start at the working directory."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="FORETELL_",
        env_nested_delimiter="__",
        nested_model_default_partial_update=True,
    )

    schema_version: Literal[1] = 1
    models: dict[str, ModelConfig] = Field(min_length=1)
    routes: dict[str, RouteConfig] = Field(default_factory=dict[str, RouteConfig])
    store: StoreConfig = StoreConfig()
    server: ServerConfig = ServerConfig()
    probes: ProbesConfig = ProbesConfig()
    flywheel: FlywheelConfig = FlywheelConfig()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],  # noqa: ARG003 (the caller passes it by name)
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The environment before the file, whose values ``load_config`` passes in."""
        return env_settings, init_settings

    @model_validator(mode="after")
    def _routes_fit_models(self) -> Config:
        if problems := [
            problem
            for name, route in self.routes.items()
            for problem in _route_problems(name, route, self.models)
        ]:
            raise ConfigError("\n".join(problems))
        return self


def load_config(path: str | Path) -> Config:
    """Read and check ``foretell.yaml``.

    Raises ``ConfigError`` with one line per problem, each naming the path of its field, such as
    ``models.small.threads``. Values are not repeated: one of them may be a secret.
    """
    path = Path(path)
    try:
        settings: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror or error}; name your configuration with --config"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text; save it as UTF-8") from error
    except ValueError as error:  # a date such as 2026-13-40
        raise ConfigError(f"{path}: not valid YAML: {error}; put quotes around it") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "unreadable"
        raise ConfigError(f"{path}{where}: not valid YAML: {problem}") from None
    return parse_config(settings, where=str(path))


def parse_config(settings: object, *, where: str) -> Config:
    """Check settings as they were read from YAML or JSON; ``where`` begins each problem's line."""
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"{where} must hold settings by name, such as 'models:' and 'routes:'")
    try:
        return Config(**settings)
    except ConfigError as error:
        raise ConfigError(_located(where, str(error).splitlines())) from None
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        raise ConfigError(_located(where, [_problem(detail) for detail in details])) from None
    except SettingsError as error:
        raise ConfigError(f"an environment variable FORETELL_… cannot be used: {error}") from None


def config_json_schema() -> dict[str, Any]:
    """The JSON Schema of ``foretell.yaml``, for editors."""
    return Config.model_json_schema()


def secret(variable: str) -> str:
    """The secret that an environment variable holds, as named by a setting ``…_env``.

    Raises ``ConfigError`` when the variable is not set or empty.
    """
    if value := os.environ.get(variable):
        return value
    raise ConfigError(f"the environment variable {variable} is not set; export it and try again")


def _route_problems(name: str, route: RouteConfig, models: Mapping[str, ModelConfig]) -> list[str]:
    known = f"known are {', '.join(sorted(models))}"
    problems: list[str] = []
    if name in models:
        problems.append(
            f"routes.{name}: a model has this name, too; callers could not tell them apart"
        )
    if route.weak not in models:
        problems.append(f"routes.{name}.weak: no model is called {route.weak!r}; {known}")
    elif models[route.weak].engine == "openai":
        problems.append(
            f"routes.{name}.weak: {route.weak!r} is behind an API, which exposes no activations; "
            "use a model on another engine"
        )
    if route.classifier is not None and route.classifier not in models:
        problems.append(
            f"routes.{name}.classifier: no model is called {route.classifier!r}; {known}"
        )
    for position, member in enumerate(route.pool):
        where = f"routes.{name}.pool.{position}"
        if member not in models:
            problems.append(f"{where}: no model is called {member!r}; {known}")
        elif member in (route.weak, *route.strong[:1], *route.pool[:position]):
            problems.append(f"{where}: {member!r} is in the pool already")
    for position, strong in enumerate(route.strong):
        where = f"routes.{name}.strong.{position}"
        if strong not in models:
            problems.append(f"{where}: no model is called {strong!r}; {known}")
        elif strong == route.weak:
            problems.append(f"{where}: {strong!r} is the weak model, too; escalating needs another")
        elif strong in route.strong[:position]:
            problems.append(f"{where}: {strong!r} is in the list already")
    return problems


def _located(where: str, problems: list[str]) -> str:
    return "\n".join(f"{where}: {problem}" for problem in problems)


def _problem(detail: ErrorDetails) -> str:
    """One sentence about what pydantic found."""
    location = [str(part) for part in detail["loc"]]
    if location[0] == "models" and len(location) > 3:
        del location[2]  # which engine's settings were tried: no key of the file
    field = ".".join(part for part in location if not part.startswith("<"))
    match detail["type"]:
        case "extra_forbidden" if re.search(r"key$|secret|token$|password", location[-1]):
            return f"{field} is unknown; name the variable that holds a secret in api_key_env"
        case "extra_forbidden":
            return f"{field} is unknown; remove it, or correct its spelling"
        case "missing":
            return f"{field} is missing"
        case "union_tag_not_found":
            return f"{field}.engine is missing"
        case "union_tag_invalid":
            expected = detail.get("ctx", {}).get("expected_tags", "")
            return f"{field}.engine is unknown; use one of {expected}"
        case "goal" | "variable_name" | "model_reference" | "password":
            return f"{field} {detail['msg']}"
        case _:
            return f"{field}: {detail['msg'][:1].lower()}{detail['msg'][1:]}"
