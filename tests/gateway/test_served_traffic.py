"""What is kept of the requests that are served: no more than the settings say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from serving import ESCALATED, KEPT, Served, gateway_config, serving, until, upstream

from foretell.config import Config
from foretell.records import Observation, Role
from foretell.runtime import serving_probe, set_shadow
from foretell.store import model_key
from upstreams.scripted_server import ScriptedServer, answers, truncated_stream

PINNED = {"x_foretell_route": "weak"}


@pytest.fixture(scope="module")
def large() -> Generator[ScriptedServer]:
    with upstream(otherwise=answers) as server:
        yield server


def config_with(project: Path, url: str, traffic: dict[str, Any], **route: Any) -> Config:
    config = gateway_config(project, url, **route)
    settings = config.model_dump(mode="json", exclude_unset=True)
    settings["store"]["traffic"] = traffic
    return type(config)(**settings)


def kept(served: Served, role: Role = "weak") -> list[Observation]:
    """What was observed of traffic in a role, oldest first."""
    served.at_rest()
    recorder, store = served.gateway.recorder, served.gateway.store
    assert recorder is not None
    assert store is not None
    assert recorder.flush(10)
    return [one for one in store.observations("toy", role) if one.origin == "traffic"]


def vectors_of(served: Served, ids: list[str]) -> dict[Any, np.ndarray[Any, Any]]:
    store = served.gateway.store
    assert store is not None
    data = store.load_routing_data("toy", origins=["traffic"])
    rows = np.array([data.ids.index(one) for one in ids])
    return {point: values[rows] for point, values in data.activations.items()}


def test_no_text_is_kept_unless_it_is_asked_for(toy: Path, large: ScriptedServer):
    with serving(gateway_config(toy, large.url)) as served:
        ids = [served.chat(KEPT, max_tokens=4).headers["x-request-id"] for _ in range(2)]
        served.chat(ESCALATED, max_tokens=4)
        weak, strong = kept(served), kept(served, "strong")
        assert [one.query.id for one in weak] == ids
        for one in (*weak, *strong):
            assert one.query.messages == ({"role": "user", "content": ""},)
            assert one.answer.text == ""
        assert len({one.query.group for one in weak}) == 1
        assert strong[0].query.group != weak[0].query.group


def test_the_words_of_a_request_are_nowhere_in_the_store(toy: Path, large: ScriptedServer):
    asked = [{"role": "user", "content": "Which town in the north is nr 39174?"}]
    with serving(gateway_config(toy, large.url)) as served:
        served.chat(asked, max_tokens=2, headers=PINNED)
        served.chat(asked, headers={"x_foretell_route": "strong"})
        assert len(kept(served)) == 1
        assert len(kept(served, "strong")) == 1
    files = [file for file in toy.rglob("*") if file.is_file()]
    assert any(file.suffix == ".db" for file in files)
    assert not [file for file in files if b"39174" in file.read_bytes()]


def test_text_is_kept_where_it_is_asked_for_streamed_or_not(toy: Path, large: ScriptedServer):
    with serving(config_with(toy, large.url, {"text": True})) as served:
        whole = served.chat(KEPT, max_tokens=4).json()["choices"][0]["message"]["content"]
        events = [json.loads(x) for x in served.events(KEPT, max_tokens=4) if x != "[DONE]"]
        pieces = [c["delta"].get("content") or "" for e in events for c in e["choices"]]
        served.chat(ESCALATED)
        served.events(ESCALATED)
        weak, strong = kept(served), kept(served, "strong")
        assert [one.query.messages for one in weak] == [tuple(KEPT)] * 2
        assert [one.answer.text for one in weak] == [whole, "".join(pieces)]
        assert [one.answer.text for one in strong] == ["Hello", "Hello"]
        assert [one.answer.model for one in strong] == ["big-1", "big-1"]


def test_reduced_vectors_foretell_what_the_whole_ones_did(toy: Path, large: ScriptedServer):
    probe = serving_probe(toy / "probes", "toy").probe
    with serving(gateway_config(toy, large.url)) as served:
        replies = [served.chat(KEPT, max_tokens=2) for _ in range(2)]
        assert all(one.activations == {} for one in kept(served))
        found = vectors_of(served, [reply.headers["x-request-id"] for reply in replies])
        score = probe.score(found[probe.read_points[0]])  # type: ignore[union-attr]
        chances = probe.calibration.p(score)
        for reply, chance in zip(replies, np.atleast_1d(chances), strict=True):
            said = float(reply.headers["x-foretell-p-success"])
            assert chance == pytest.approx(said, abs=0.01)


def test_whole_vectors_are_kept_at_all_points_worth_training_on(toy: Path, large: ScriptedServer):
    with serving(config_with(toy, large.url, {"vectors": "full"})) as served:
        request_id = served.chat(KEPT, max_tokens=2).headers["x-request-id"]
        kept(served)
        found = vectors_of(served, [request_id])
        identity = served.engine().identity
        assert len(found) > 2
        assert {len(values[0]) for values in found.values()} == {identity.width}


def test_no_vectors_are_kept_where_none_are_wanted(toy: Path, large: ScriptedServer):
    with serving(config_with(toy, large.url, {"vectors": "none"})) as served:
        request_id = served.chat(KEPT, max_tokens=2).headers["x-request-id"]
        assert [one.query.id for one in kept(served)] == [request_id]
        store = served.gateway.store
        assert store is not None
        assert not store.load_routing_data("toy", origins=["traffic"]).activations


def test_the_record_says_how_likely_the_weak_answer_was_to_be_known(
    toy: Path, large: ScriptedServer
):
    with serving(gateway_config(toy, large.url)) as served:
        served.chat(KEPT, max_tokens=2)
        served.chat(ESCALATED)
        served.chat(KEPT, max_tokens=2, headers=PINNED)
        served.chat(KEPT, max_tokens=2, headers={"x_foretell_route": "off"})
        first, second, pinned, off = served.records()
        key = model_key(served.engine().identity)
        assert {one.weak_model for one in (first, second, pinned, off)} == {key}
        assert [one.weak_chance for one in (first, second, pinned, off)] == [1.0, 0.0, None, None]


def test_exploring_is_part_of_that_chance(toy: Path, large: ScriptedServer):
    with serving(gateway_config(toy, large.url, explore=0.25)) as served:
        for messages in (KEPT, ESCALATED):
            for _ in range(6):
                served.chat(messages, max_tokens=2)
        for record in served.records():
            kept_by_rule = (record.action == "keep") or (
                record.action == "explore" and record.serve == "strong"
            )
            assert record.weak_chance == pytest.approx(0.75 if kept_by_rule else 0.25)


def test_what_is_escalated_is_answered_again_in_the_shadow(toy: Path, large: ScriptedServer):
    runs = {"share": 1.0, "tokens_per_day": 100_000}
    with serving(config_with(toy, large.url, {"text": True}, shadow_runs=runs)) as served:
        reply = served.chat(ESCALATED, max_tokens=3)
        until(lambda: served.metric("foretell_shadow_runs_total", outcome="done") == 1)
        assert served.last().weak_chance == 1.0
        (weak,) = kept(served)
        assert weak.query.id == reply.headers["x-request-id"]
        assert weak.answer.text
        assert weak.answer.usage.completion_tokens <= 3
        (strong,) = kept(served, "strong")
        assert strong.answer.text == "Hello"


def test_shadow_runs_end_with_their_budget(toy: Path, large: ScriptedServer):
    runs = {"share": 1.0, "tokens_per_day": 1}
    with serving(gateway_config(toy, large.url, shadow_runs=runs)) as served:
        served.chat(ESCALATED, max_tokens=3)
        until(lambda: served.metric("foretell_shadow_runs_total", outcome="done") == 1)
        served.chat(ESCALATED, max_tokens=3)
        until(lambda: served.metric("foretell_shadow_runs_total", outcome="budget") == 1)
        assert [one.weak_chance for one in served.records()] == [1.0, 0.0]
        assert len(kept(served)) == 1


def test_a_probe_on_trial_foretells_beside_the_one_that_serves(toy: Path, large: ScriptedServer):
    folder = toy / "probes"
    shutil.copytree(folder / "toy" / "1", folder / "toy" / "2")
    card = folder / "toy" / "2" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "version": 2}))
    set_shadow(folder, "toy", 2)
    with serving(gateway_config(toy, large.url)) as served:
        reply = served.chat(KEPT, max_tokens=2)
        assert reply.headers["x-foretell-probe"] == "toy@1"
        record = served.last()
        assert record.shadow_probe == "toy@2"
        assert record.shadow_p_success == pytest.approx(record.p_success)


def test_an_answer_that_broke_off_is_not_observed(toy: Path):
    with upstream(truncated_stream) as large, serving(gateway_config(toy, large.url)) as served:
        served.events(ESCALATED)
        assert kept(served, "strong") == []


def test_the_strong_model_answers_some_of_what_was_kept_so_that_pairs_are_known(
    toy: Path, large: ScriptedServer
):
    runs = {"share": 0.5, "strong_share": 1.0, "usd_per_day": 0.00006}
    with serving(config_with(toy, large.url, {"text": True}, shadow_runs=runs)) as served:
        reply = served.chat(KEPT, max_tokens=3, stream=True)
        until(lambda: served.metric("foretell_shadow_runs_total", outcome="done") == 1)
        assert (served.last().weak_chance, served.last().pair_chance) == (1.0, 1.0)
        (strong,) = kept(served, "strong")
        assert strong.query.id == reply.headers["x-request-id"]
        assert strong.answer.text == "Hello"
        assert strong.answer.model == "big-1"
        served.chat(KEPT, max_tokens=3)
        until(lambda: served.metric("foretell_shadow_runs_total", outcome="done") == 2)
        served.chat(KEPT, max_tokens=3)
        until(lambda: served.metric("foretell_shadow_runs_total", outcome="budget") == 1)
        assert [one.pair_chance for one in served.records()] == [1.0, 1.0, 0.0]


def test_queries_that_only_begin_alike_are_groups_of_their_own(toy: Path, large: ScriptedServer):
    examples = [
        {"role": "user", "content": "Which town in the west is nr 1?"},
        {"role": "assistant", "content": "Ayr"},
    ]
    with serving(gateway_config(toy, large.url)) as served:
        for number in (5, 6, 5):
            asked = {"role": "user", "content": f"Which town in the west is nr {number}?"}
            served.chat([*examples, asked], max_tokens=2, headers=PINNED)
        first, second, third = (one.query.group for one in kept(served))
        assert first == third != second


def test_an_example_that_was_asked_by_itself_does_not_make_one_group_of_all(
    toy: Path, large: ScriptedServer
):
    examples = [
        {"role": "user", "content": "Which town in the west is nr 1?"},
        {"role": "assistant", "content": "Ayr"},
        {"role": "user", "content": "Which town in the west is nr 2?"},
        {"role": "assistant", "content": "Bute"},
    ]
    with serving(gateway_config(toy, large.url)) as served:
        served.chat(examples[:1], max_tokens=2, headers=PINNED)
        for number in (5, 6):
            asked = {"role": "user", "content": f"Which town in the west is nr {number}?"}
            served.chat([*examples, asked], max_tokens=2, headers=PINNED)
        assert len({one.query.group for one in kept(served)}) == 3
