"""Feedback becomes labels, and labels follow the feedback."""

from __future__ import annotations

from dataclasses import replace

import pytest

from foretell.errors import InputError
from foretell.flywheel import take_feedback, the_vote_metric
from foretell.records import Answer, Feedback, Observation, Outcome, Query, RequestRecord, Usage
from foretell.store import Store


@pytest.fixture
def store(tmp_path):
    with Store.open(f"sqlite:///{tmp_path}/a.db", tmp_path / "vectors") as opened:
        yield opened


def served(store, request_id, *, key_id="k1", role="weak", finish="stop", kept=True):
    store.append_requests(
        [
            RequestRecord(
                id=request_id,
                at=100.0,
                key_id=key_id,
                route="auto",
                domain="geo",
                model="m",
                serve=role,
                action="keep" if role == "weak" else "escalate",
                cause=None,
                status=200,
                streamed=False,
                finish_reason=finish,
            )
        ]
    )
    if kept:
        store.append(
            [
                Observation(
                    domain="geo",
                    query=Query(id=request_id, messages=({"role": "user", "content": ""},)),
                    role=role,
                    answer=Answer(
                        text="",
                        model="m",
                        finish_reason=finish,
                        usage=Usage(prompt_tokens=1, completion_tokens=1),
                    ),
                    tenant=key_id,
                    origin="traffic",
                )
            ]
        )


def say(store, request_id, value, *, key_id="k1", metric="thumbs", author=""):
    store.put_feedback(
        Feedback(request_id=request_id, metric=metric, value=value, source="client", author=author),
        key_id=key_id,
    )


def take(store, **options):
    return take_feedback(store, "geo", **{"metric": "thumbs", "influence_cap": 1.0, **options})


def values(store):
    return {
        (one.query_id, one.role, one.author): one.value
        for of_model in store.outcomes("geo").values()
        for one in of_model
    }


def test_votes_become_labels_of_the_model_that_answered(store):
    served(store, "r1")
    served(store, "r2", role="strong")
    say(store, "r1", 1)
    say(store, "r2", 0)
    counts = take(store)
    assert (counts.votes, counts.labels, counts.keys, counts.created) == (2, 2, 1, 2)
    assert values(store) == {("r1", "weak", "k1"): 1.0, ("r2", "strong", "k1"): 0.0}
    assert list(store.outcomes("geo")) == ["m"]
    assert store.load_routing_data("geo").weak.tolist() == [1.0]


def test_taking_again_changes_nothing(store):
    served(store, "r1")
    say(store, "r1", 1)
    take(store)
    again = take(store)
    assert (again.labels, again.created, again.changed, again.taken_back) == (1, 0, 0, 0)


def test_late_changed_and_deleted_feedback_is_followed(store):
    served(store, "r1")
    served(store, "r2")
    say(store, "r1", 1)
    say(store, "r2", 1)
    take(store)
    say(store, "r1", 0)
    store.delete_feedback("r2", metric="thumbs", source="client", key_id="k1")
    counts = take(store)
    assert (counts.changed, counts.taken_back) == (1, 1)
    assert values(store) == {("r1", "weak", "k1"): 0.0}
    store.delete_feedback("r1", metric="thumbs", source="client", key_id="k1")
    assert take(store).taken_back == 1
    assert values(store) == {}


def test_one_vote_a_key_however_many_authors_it_makes_up(store):
    served(store, "r1")
    for number in range(5):
        say(store, "r1", number % 2, author=f"person {number}")
    counts = take(store)
    assert (counts.labels, counts.superseded) == (1, 4)


def test_votes_on_what_was_not_kept_wait_and_other_metrics_are_told(store):
    served(store, "r1", kept=False)
    say(store, "r1", 1)
    say(store, "r1", 1, metric="polite")
    counts = take(store)
    assert (counts.labels, counts.unstored, counts.other_metrics) == (0, 1, {"polite": 1})


def test_votes_by_a_metric_of_the_callers_own_join_the_domains_labels(store):
    served(store, "r1")
    served(store, "r2")
    say(store, "r1", 0)
    say(store, "r2", 1)
    judged = Outcome(
        domain="geo", query_id="r1", role="weak", metric="judge", value=1.0, source="judge"
    )
    store.put_outcomes([judged])
    counts = take(store, metric="judge", votes_by="thumbs")
    assert (counts.labels, counts.overruled, counts.mistaken) == (1, 1, ("r1",))
    assert store.load_routing_data("geo", metric="judge").weak.tolist() == [1.0, 1.0]


def test_a_label_goes_when_a_more_trusted_source_has_judged_since(store):
    served(store, "r1")
    say(store, "r1", 0)
    take(store)
    store.put_outcomes(
        [
            Outcome(
                domain="geo", query_id="r1", role="weak", metric="thumbs", value=1.0,
                source="human", author="ann",
            )
        ]
    )  # fmt: skip
    assert take(store).taken_back == 1
    assert values(store) == {("r1", "weak", "ann"): 1.0}


def test_truncated_answers_are_flagged_and_not_failures(store):
    served(store, "r1", finish="length")
    say(store, "r1", 0)
    counts = take(store)
    assert (counts.labels, counts.truncated) == (0, 1)
    assert values(store) == {("r1", "weak", "k1"): None}


def test_imported_outcomes_of_callers_are_left_alone(store):
    served(store, "r1")
    mine = Outcome(
        domain="geo", query_id="r1", role="weak", metric="thumbs", value=0.0, source="client",
        author="a survey",
    )  # fmt: skip
    store.put_outcomes([mine])
    assert take(store).taken_back == 0
    assert values(store) == {("r1", "weak", "a survey"): 0.0}


def test_one_key_cannot_flood_the_labels(store):
    for number in range(100):
        served(store, f"r{number:02}", key_id="good" if number < 60 else "bad")
    trusted = [
        Outcome(
            domain="geo", query_id=f"r{n:02}", role="weak", metric="thumbs", value=1.0,
            source="code",
        )
        for n in range(60)
    ]  # fmt: skip
    store.put_outcomes(trusted)
    for number in range(60, 100):
        say(store, f"r{number}", 0, key_id="bad")
    counts = take(store, influence_cap=0.05)
    # n <= 0.05 (60 + n) up to n = 3
    assert (counts.labels, counts.over_cap) == (3, {"bad": 37})
    # What the cap lets through follows it.
    assert take(store, influence_cap=0.02).taken_back == 2


def test_the_metric_of_the_votes_is_found_when_there_is_one(store):
    with pytest.raises(InputError, match="no caller has given feedback"):
        the_vote_metric(store, "geo")
    served(store, "r1")
    say(store, "r1", 1)
    assert the_vote_metric(store, "geo") == "thumbs"
    say(store, "r1", 1, metric="polite")
    with pytest.raises(InputError, match="polite, thumbs"):
        the_vote_metric(store, "geo")


def test_votes_of_an_unkeyed_gateway_are_one_key(store):
    served(store, "r1", key_id="")
    say(store, "r1", 1, key_id="")
    assert take(store).labels == 1
    assert take(store, influence_cap=0.5).taken_back == 1


def test_votes_that_the_store_would_not_take_are_dropped_all_the_same(store, monkeypatch):
    served(store, "r1", key_id="owner")
    say(store, "r1", 1, key_id="owner")
    (vote,) = store.votes("geo")
    monkeypatch.setattr(store, "votes", lambda _: [vote, replace(vote, key_id="thief")])
    assert take(store).forged == 1
