"""What a route with ``router: auto`` serves at each step of its ladder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from foretell import Foretell
from foretell.config import Config
from foretell.errors import ConfigError
from foretell.prefill.engines.recorded import write_recording
from foretell.prefill.engines.tiny import TinyEngine
from foretell.records import Outcome, Query
from foretell.runtime import NoEstimator, engine_key, standing_of, train_probe
from foretell.store import Store
from toy_project import CONFIG, changed, strong_observations

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NORTH = [{"role": "user", "content": "Which town in the north is nr 3?"}]
LONG = [{"role": "user", "content": "Which town in the north is nr 3? " * 10}]
KEY = engine_key(TinyEngine())
QUALITY = {"quality": 0.9}

Configure = Callable[..., Config]


@pytest.fixture
def configured(tmp_path: Path, queries: list[Query]) -> Configure:
    """The toy project's route on its ladder, over the store in ``folder``."""
    write_recording(tmp_path / "strong.jsonl.gz", strong_observations(queries))

    def configure(folder: Path | None = None, **changes: Any) -> Config:
        folder = folder or tmp_path
        settings = changed(CONFIG, **{"routes__auto__router": "auto", **changes})
        settings["models"]["large"]["path"] = str(tmp_path / "strong.jsonl.gz")
        settings["store"] = {
            "url": f"sqlite:///{folder / 'foretell.db'}",
            "vectors": str(folder / "vectors"),
        }
        settings["probes"] = {"dir": str(tmp_path / "probes")}
        return Config(**settings)

    return configure


@pytest.fixture
def labelled(labelled_store: Store, tmp_path: Path) -> Path:
    """The folder of a store whose queries are labelled, both models' answers."""
    del labelled_store
    return tmp_path / "labelled"


def take(store: Store, step: str, *, weak_model: str = KEY, metric: str = "right") -> None:
    details = {"step": step, "weak_model": weak_model, "metric": metric}
    store.note("ladder", "auto/toy", by="test", details=details)


@pytest.mark.parametrize("goal", [QUALITY, {"risk": 0.05}, {"threshold": 0.4}])
def test_a_promise_sends_all_to_the_strong_model_until_something_is_foretold(configured, goal):
    with Foretell(configured(routes__auto__goal=goal)) as ft:
        decision = ft.route(NORTH)
    assert (decision.action, decision.serve) == ("escalate", "strong")
    assert (decision.router, decision.p_success, decision.p_weak) == ("start", 0.0, 0.0)


def test_what_is_explored_at_the_start_is_logged_with_its_chance(configured):
    config = configured(routes__auto__goal=QUALITY, routes__auto__explore=0.25)
    with Foretell(config) as ft:
        decisions = [ft.route(NORTH) for _ in range(200)]
    actions = {decision.action for decision in decisions}
    assert actions == {"escalate", "explore"}
    assert {decision.p_weak for decision in decisions} == {0.25}
    explored = [one for one in decisions if one.action == "explore"]
    assert {(one.serve, one.propensity) for one in explored} == {("weak", 0.25)}


def test_a_threshold_of_nothing_keeps_all_from_the_start(configured):
    with Foretell(configured(routes__auto__goal={"threshold": 0.0})) as ft:
        assert ft.route(NORTH).action == "keep"


def test_a_share_is_filled_with_the_longest_queries(configured, labelled, labelled_store):
    with Foretell(configured(labelled)) as ft:
        bar = ft.open_route().bar
        assert ft.route(LONG).action == "escalate"
        lengths = labelled_store.load_routing_data("toy", read_points=()).lengths
    escalated = (1 / (1 + lengths / 64) < bar.keep_at).mean()
    assert 0.2 < escalated <= 0.4
    assert bar.reason.startswith("the longest 40% of the queries go to the strong model: nothing")


def test_a_share_without_a_stored_query_is_a_share_of_the_range(configured):
    with Foretell(configured()) as ft:
        assert ft.open_route().bar.keep_at == 0.4
        assert ft.route(NORTH).p_success > ft.route(LONG).p_success


@pytest.mark.parametrize(("goal", "keep_at"), [({"usd_per_1k": 1.0}, 0), ({"usd_per_day": 1}, 0.5)])
def test_a_budget_begins_where_costs_are_unknown(configured, goal, keep_at):
    with Foretell(configured(routes__auto__goal=goal)) as ft:
        assert ft.open_route().bar.keep_at == keep_at


@pytest.mark.parametrize("step", ["keyword", "length"])
def test_the_step_in_force_is_fitted_on_the_labels_there_are(
    configured, labelled, labelled_store, step
):
    take(labelled_store, step)
    with Foretell(configured(labelled)) as ft:
        route, decision = ft.open_route(), ft.route(NORTH)
    assert decision.router == step
    assert decision.prefill_ms is None
    assert route.held_out is not None
    assert len(route.held_out.p_success) == 60  # the toy project's test queries


def test_the_probe_serves_from_the_registry(configured, labelled, labelled_store):
    config = configured(labelled)
    train_probe(labelled_store, "toy", config.probes.dir, now=NOON, nested=False, kinds=["linear"])
    with Foretell(config) as ft:
        assert ft.route(NORTH).router == "start"  # a probe that nobody compared decides nothing
    take(labelled_store, "probe")
    with Foretell(config) as ft:
        assert ft.route(NORTH).router == "probe toy@1"


def test_a_newer_event_is_picked_up_when_the_route_is_opened_again(
    configured, labelled, labelled_store
):
    config = configured(labelled)
    served = []
    for step in ("keyword", "length", "start"):
        take(labelled_store, step)
        with Foretell(config) as ft:
            served.append(ft.open_weak_side("auto", "toy", now=NOON).decide(NORTH).router)
    assert served == ["keyword", "length", "start"]


def test_a_step_of_another_weak_model_is_not_taken(configured, labelled, labelled_store):
    take(labelled_store, "keyword", weak_model="sha256:other")
    assert standing_of(labelled_store, "auto", "toy", KEY).step == "start"
    assert standing_of(labelled_store, "auto", "toy", "sha256:other").step == "keyword"
    with Foretell(configured(labelled)) as ft:
        assert ft.route(NORTH).router == "start"


def test_an_event_that_this_version_does_not_know_is_passed_over(labelled_store):
    take(labelled_store, "keyword")
    take(labelled_store, "escalator")
    assert standing_of(labelled_store, "auto", "toy", KEY).step == "keyword"


def test_a_step_that_cannot_be_taken_falls_to_the_next_below(
    configured, labelled, labelled_store, caplog, monkeypatch
):
    """No probe was trained, and the encoder is not there: the rules are what is left."""

    def offline() -> None:
        raise ConfigError("there is no encoder")

    monkeypatch.setattr("foretell.routers._embedding.shared_sentence_encoder", offline)
    take(labelled_store, "probe")
    with Foretell(configured(labelled)) as ft:
        assert ft.route(NORTH).router == "keyword"
    assert "step probe cannot be taken, since there is no probe for domain 'toy'" in caplog.text
    assert "step embedding cannot be taken, since there is no encoder" in caplog.text


def test_where_no_step_can_be_taken_the_bar_says_why(configured, labelled, labelled_store, caplog):
    take(labelled_store, "length")
    labelled_store.delete_outcomes(
        outcome for outcomes in labelled_store.outcomes("toy").values() for outcome in outcomes
    )
    with Foretell(configured(labelled)) as ft:
        assert ft.route(NORTH).router == "start"
        assert "step length cannot be taken, since" in ft.open_route().bar.reason
    assert "step length cannot be taken" in caplog.text


def test_a_quality_needs_labels_of_the_strong_model_at_every_step(
    configured, labelled, labelled_store
):
    take(labelled_store, "keyword")
    labelled_store.delete_outcomes(
        outcome
        for outcomes in labelled_store.outcomes("toy").values()
        for outcome in outcomes
        if outcome.role == "strong"
    )
    with Foretell(configured(labelled, routes__auto__goal=QUALITY)) as ft:
        decision = ft.route(NORTH)
        assert (decision.router, decision.action) == ("start", "escalate")
        assert "labelled for both models as this goal needs it" in ft.open_route().bar.reason


def test_the_labels_that_led_to_a_step_train_it(configured, labelled, labelled_store, queries):
    """Another metric came later; the step goes on by its own."""
    take(labelled_store, "keyword")
    labelled_store.put_outcomes(
        Outcome(
            domain="toy", query_id=query.id, role="weak", metric="polite", value=1.0, source="code"
        )
        for query in queries
    )
    with Foretell(configured(labelled)) as ft:
        assert ft.route(NORTH).router == "keyword"


@pytest.mark.parametrize(
    ("domain", "expected"),
    [("toy", ("toy",)), ({"header": "x-domain"}, ("toy",)), (None, ())],
    ids=["fixed", "from a header", "to be found"],
)
def test_domains_that_a_request_may_name_need_no_probe(
    configured, labelled, domain: str | Mapping[str, str] | None, expected
):
    with Foretell(configured(labelled, routes__auto__domain=domain)) as ft:
        assert ft.domains() == expected


def test_without_any_domain_a_served_route_declines_and_says_so(configured):
    with Foretell(configured(routes__auto__domain=None)) as ft:
        side = ft.open_weak_side("auto", now=NOON)
        with pytest.raises(ConfigError, match="set domain:"):
            ft.open_route()
    assert isinstance(side.estimator, NoEstimator)
    assert side.estimator.cause == "no_domain"
