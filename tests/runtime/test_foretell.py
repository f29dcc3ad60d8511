from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from foretell import Decision, Foretell, Reply, Sampling
from foretell.errors import ConfigError, EngineClosedError, InputError, ProbeMismatchError
from foretell.prefill.engines.tiny import TinyEngine
from foretell.runtime import serving_probe
from toy_project import CONFIG, changed, foretell, write_config, write_project

NORTH = [{"role": "user", "content": "Which town in the north is nr 3?"}]
SOUTH = [{"role": "user", "content": "Which town in the south is nr 1?"}]
FOUR = Sampling(max_tokens=4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    write_project(folder)
    for command in (
        "collect --domain toy --input queries.jsonl --with-strong --max-tokens 4",
        "label --domain toy --labeller import --option file=outcomes.jsonl",
        "train --domain toy --no-nested",
    ):
        assert foretell(folder, command).code == 0
    return folder


@pytest.fixture
def project(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the trained project, which is also the working directory."""
    copy = Path(shutil.copytree(trained, tmp_path / "project"))
    monkeypatch.chdir(copy)
    return copy


@pytest.mark.usefixtures("project")
def test_the_example_of_the_contract():
    with Foretell.from_config("foretell.yaml") as ft:
        decision = ft.route(NORTH)
        reply = ft.chat(NORTH, sampling=FOUR)
    assert isinstance(decision, Decision)
    assert isinstance(reply, Reply)
    assert decision.action == reply.decision.action == "keep"
    assert decision.p_success == reply.decision.p_success
    assert reply.cost_usd > 0


def test_text_and_decision_are_told_as_they_come(project):
    pieces: list[str] = []
    decisions: list[Decision] = []
    with Foretell.from_config(project / "foretell.yaml") as ft:
        reply = ft.chat(
            SOUTH, route="auto", sampling=FOUR, on_text=pieces.append, on_decision=decisions.append
        )
    assert "".join(pieces) == reply.text == "town q001"
    assert decisions == [reply.decision]


@pytest.mark.usefixtures("project")
def test_serving_foretells_what_training_foretold():
    """The probe on a stored query's own prefill gives the chance that it gives on the store."""
    with Foretell.from_config("foretell.yaml") as ft, ft.open_store() as store:
        data = store.load_routing_data("toy", split="test")
        probe = serving_probe(Path("probes"), "toy").probe
        stored = probe.chances(data)
        by_id = {query.id: query for query in store.queries("toy")}
        decisions = [ft.route(by_id[query_id].messages) for query_id in data.ids]
    # An early probe stopped the others, so theirs is its estimate.
    whole = [
        i for i, d in enumerate(decisions) if d.stopped_at in (None, probe.read_points[-1].layer)
    ]
    assert len(whole) > 20
    served = [decisions[i].p_success for i in whole]
    assert served == pytest.approx(stored[whole].tolist(), abs=0.02)  # vectors are kept as float16


@pytest.mark.usefixtures("project")
def test_a_route_is_opened_once():
    with Foretell.from_config("foretell.yaml") as ft:
        assert ft.open_route() is ft.open_route("auto")
        assert ft.open_engine("small") is ft.open_engine("small")
        assert ft.open_model("large") is ft.open_model("large")
        assert ft.route_config().weak == "small"


@pytest.mark.usefixtures("project")
def test_closing_frees_the_engines_and_may_be_done_twice():
    ft = Foretell.from_config("foretell.yaml")
    engine = ft.open_engine("small")
    ft.close()
    ft.close()
    with pytest.raises(EngineClosedError):
        engine.prefill(engine.render(NORTH))


def test_a_route_must_be_named_when_there_are_several(project):
    two = changed(CONFIG, routes__other=CONFIG["routes"]["auto"])
    write_config(project, two)
    with Foretell.from_config("foretell.yaml") as ft:
        with pytest.raises(ConfigError, match=r"2 routes \(auto, other\)"):
            ft.route(NORTH)
        assert ft.route(NORTH, route="other").action == "keep"


def test_a_route_without_a_domain_takes_the_only_trained_one(project):
    write_config(project, changed(CONFIG, routes__auto__domain=None))
    with Foretell.from_config("foretell.yaml") as ft:
        assert ft.route(NORTH).router == "probe toy@1"


def test_the_serving_probe_serves(project):
    assert foretell(project, "train --domain toy --no-nested --seed 1").code == 0
    with Foretell.from_config("foretell.yaml") as ft:
        assert ft.route(NORTH).router == "probe toy@2"


@pytest.mark.usefixtures("project")
def test_a_probe_of_other_weights_is_refused(monkeypatch):
    monkeypatch.setattr(
        "foretell.prefill.engines.tiny.TinyEngine", lambda: TinyEngine(seed=1), raising=True
    )
    with (
        Foretell.from_config("foretell.yaml") as ft,
        pytest.raises(ProbeMismatchError, match="toy@1 was fitted on tiny"),
    ):
        ft.route(NORTH)


def test_a_threshold_goal_is_the_bar(project):
    write_config(project, changed(CONFIG, routes__auto__goal={"threshold": 1.0}))
    with Foretell.from_config("foretell.yaml") as ft:
        decision = ft.route(NORTH)
    assert (decision.action, decision.keep_at) == ("escalate", 1.0)


def test_a_goal_of_quality_is_met_from_the_held_out_labels(project):
    goal = {"quality": 0.5, "confidence": 0.9}
    write_config(project, changed(CONFIG, routes__auto__goal=goal))
    with Foretell.from_config("foretell.yaml") as ft:
        bar = ft.open_route().bar
        assert ft.route(NORTH).action == "keep"
    assert 0 < bar.keep_at < 1


def test_a_budget_becomes_a_share_of_strong_calls(project):
    # The strong answers cost 20 x 2.5 + 4 x 10 = 90 millionths; 45 of 1,000 queries are 0.045.
    write_config(project, changed(CONFIG, routes__auto__goal={"usd_per_1k": 0.045}))
    with Foretell.from_config("foretell.yaml") as ft:
        bar = ft.open_route().bar
    assert bar.reason.startswith("0.045 USD per 1,000 queries; sends 4")
    assert 0 < bar.keep_at < 1


def test_no_budget_keeps_everything_and_a_large_one_escalates_everything(project):
    actions = []
    for budget in (0, 1000):
        write_config(project, changed(CONFIG, routes__auto__goal={"usd_per_1k": budget}))
        with Foretell.from_config("foretell.yaml") as ft:
            actions.append({ft.route(asked).action for asked in (NORTH, SOUTH)})
    assert actions == [{"keep"}, {"escalate"}]


@pytest.mark.parametrize("router", ["tfidf", "length", "keyword", "random", "embedding"])
def test_a_router_that_reads_the_text_serves_without_a_prefill(project, router):
    if router == "embedding":
        pytest.importorskip("tokenizers")
    write_config(project, changed(CONFIG, routes__auto__router=router))
    with Foretell.from_config("foretell.yaml") as ft:
        decision = ft.route(NORTH)
        reply = ft.chat(NORTH, sampling=FOUR)
    assert decision.router == router
    assert decision.prefill_ms is None
    assert decision.p_success is not None
    assert reply.model == {"weak": "small", "strong": "large"}[reply.decision.serve]


def test_tfidf_learns_the_direction(project):
    write_config(project, changed(CONFIG, routes__auto__router="tfidf"))
    with Foretell.from_config("foretell.yaml") as ft:
        assert ft.route(NORTH).p_success > ft.route(SOUTH).p_success


@pytest.mark.parametrize("router", ["weak", "strong"])
def test_a_route_may_always_take_one_model(project, router):
    write_config(project, changed(CONFIG, routes__auto__router=router))
    with Foretell.from_config("foretell.yaml") as ft:
        assert {ft.route(asked).serve for asked in (NORTH, SOUTH)} == {router}


def test_what_the_text_would_keep_is_declined_when_it_does_not_fit(project):
    write_config(project, changed(CONFIG, routes__auto__router="weak"))
    examples = [{"role": "user", "content": "Good morning."}] * 40
    decisions: list[Decision] = []
    # The strong one's recordings have no answer to it either.
    with Foretell.from_config("foretell.yaml") as ft, pytest.raises(InputError, match="recording"):
        ft.chat([*examples, *NORTH], on_decision=decisions.append)
    (decision,) = decisions
    assert (decision.action, decision.serve) == ("declined", "strong")
    assert "the context holds 512" in decision.reason


@pytest.mark.parametrize(("classifier", "said"), [(None, "context"), ("large", "recording")])
def test_the_router_llm_asks_the_weak_model_unless_another_is_named(project, classifier, said):
    settings = {"routes__auto__router": "llm"}
    if classifier is not None:
        settings["routes__auto__classifier"] = classifier
    write_config(project, changed(CONFIG, **settings))
    # Neither toy can answer such a question, and each says so in its own words.
    with Foretell.from_config("foretell.yaml") as ft, pytest.raises(InputError, match=said):
        ft.route(NORTH)
