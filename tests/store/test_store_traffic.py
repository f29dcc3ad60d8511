"""Traffic as columns: who answered, how it went, how likely it was to be seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from foretell.errors import TrainingDataError
from foretell.records import Feedback, Outcome, ReadPoint, Vote
from foretell.store import model_key

NOW = 1_767_225_600.0
FIRST = (ReadPoint(0),)


def judged(query_id: str, value, role="weak", **others) -> Outcome:
    fields = {"domain": "geo", "metric": "right", "source": "code", **others}
    return Outcome(query_id=query_id, role=role, value=value, **fields)


@pytest.fixture
def serve(any_store, served, observe, identity):
    """Stores a request that one of the models answered, with or without what it showed."""

    def put(name: str, role="weak", *, at=NOW, seen=True, points=FIRST, **others) -> None:
        shown = []
        if seen:
            shown = [observe(name, role, origin="traffic", tenant="key-1", points=points)]
        fields = {"serve": role, "weak_model": model_key(identity), "weak_chance": 0.25, **others}
        any_store.append_traffic([served(name, at=at, **fields)], shown)
        any_store.append_vectors(shown)

    return put


def test_requests_become_columns_oldest_first(any_store, serve, identity):
    serve("2", "strong", at=NOW + 2, action="escalate", p_success=0.1, keep_at=0.5, cost_usd=3.0)
    serve("1", at=NOW + 1, p_success=0.9, probe="geo@3", shadow_probe="geo@4", p_strong=0.5)
    serve("3", at=NOW + 3, weak_chance=None, action="pinned", cause="turn", shadow_p_success=0.5)
    any_store.put_outcomes([judged("1", 1.0), judged("2", 0.0, "strong")])
    log = any_store.traffic("geo")
    assert log.ids == ("1", "2", "3")
    assert log.actions == ("keep", "escalate", "pinned")
    assert log.causes == ("", "", "turn")
    assert log.probes == ("geo@3", "", "")
    assert log.shadow_probes == ("geo@4", "", "")
    assert log.key_ids == ("key-1",) * 3
    assert log.weak_models == (model_key(identity),) * 3
    assert log.served_weak.tolist() == [True, False, True]
    expected = {
        "at": [NOW + 1, NOW + 2, NOW + 3],
        "p_success": [0.9, 0.1, np.nan],
        "p_strong": [0.5, np.nan, np.nan],
        "keep_at": [np.nan, 0.5, np.nan],
        "weak_chance": [0.25, 0.25, np.nan],
        "shadow_p_success": [np.nan, np.nan, 0.5],
        "cost_usd": [np.nan, 3.0, np.nan],
        "always_strong_usd": [np.nan] * 3,
        "weak": [1.0, np.nan, np.nan],
        "strong": [np.nan, 0.0, np.nan],
    }
    for name, column in expected.items():
        np.testing.assert_array_equal(getattr(log, name), column, err_msg=name)


def test_a_domain_without_requests_has_an_empty_log(any_store):
    log = any_store.traffic("geo", metric="right")
    assert len(log) == 0
    assert log.at.dtype == np.float64


def test_only_requests_that_a_model_of_the_route_answered_count(any_store, serve):
    serve("1")
    serve("2", seen=False, status=502)
    serve("3", None, seen=False, action="bypass")
    serve("4", seen=False, domain="maths")
    serve("5", seen=False, domain=None)
    assert any_store.traffic("geo").ids == ("1",)


def test_traffic_is_chosen_by_time_and_route_and_the_newest_are_kept(any_store, serve):
    for n in range(6):
        serve(str(n), at=NOW + n, route="auto" if n % 2 else "other")
    assert any_store.traffic("geo", since=NOW + 2, until=NOW + 5).ids == ("2", "3", "4")
    assert any_store.traffic("geo", route="auto").ids == ("1", "3", "5")
    assert any_store.traffic("geo", limit=2).ids == ("4", "5")
    assert any_store.traffic("geo", limit=2, until=NOW + 3).ids == ("1", "2")
    any_store.put_outcomes([judged("1", 1.0), judged("5", 0.0)])
    np.testing.assert_array_equal(any_store.traffic("geo", limit=2).weak, [np.nan, 0.0])


def test_the_most_trusted_outcome_of_the_model_that_was_foretold_counts(any_store, serve):
    serve("1")
    any_store.put_outcomes(
        [
            judged("1", 0.0, source="client"),
            judged("1", 0.5, source="judge"),
            judged("1", None, source="human"),
        ]
    )
    any_store.put_outcomes([judged("1", 1.0, source="human")], model_key="sha256:other weights")
    assert any_store.traffic("geo").weak.tolist() == [0.5]


def test_one_of_several_metrics_must_be_chosen(any_store, serve):
    serve("1")
    any_store.put_outcomes([judged("1", 1.0), judged("1", 0.0, metric="polite")])
    with pytest.raises(TrainingDataError, match="several metrics: polite, right; choose one"):
        any_store.traffic("geo")
    assert any_store.traffic("geo", metric="polite").weak.tolist() == [0.0]
    assert np.isnan(any_store.traffic("geo", metric="nobody's").weak).all()


def test_training_rows_say_how_likely_they_were_to_be_seen(any_store, serve, observe):
    any_store.append([observe("1"), observe("2", origin="imported")])
    serve("3", points=(ReadPoint(0), ReadPoint(1, "mean")))
    serve("4", weak_chance=None, points=(ReadPoint(0), ReadPoint(1, "mean")))
    any_store.append([observe("5", origin="traffic")])  # its request was erased
    data = any_store.load_routing_data("geo")
    assert data.ids == ("1", "2", "3", "4", "5")
    np.testing.assert_array_equal(data.weak_chance, [1, 1, 0.25, np.nan, np.nan])
    collected = any_store.load_routing_data("geo", origins=["collected", "imported"])
    assert collected.ids == ("1", "2")
    with pytest.raises(TrainingDataError, match=r"no observation of the weak model .*that time"):
        any_store.load_routing_data("geo", origins=["imported"], since=1e12)


def test_training_rows_are_chosen_by_when_they_were_observed(any_store, observe):
    any_store.append([observe("1")])
    any_store._clock = lambda: 2e9
    any_store.append([observe("2"), observe("1", rollout=1, activations={})])
    assert any_store.load_routing_data("geo", since=2e9, read_points=[]).ids == ("1", "2")
    with pytest.raises(TrainingDataError):
        any_store.load_routing_data("geo", since=2e9 + 1)


def test_labels_of_sources_that_do_not_count_are_passed_over(any_store, observe):
    any_store.append([observe("1"), observe("2"), observe("3")])
    any_store.put_outcomes(
        [
            judged("1", 1.0, source="client"),
            judged("1", 0.0, source="judge"),
            judged("2", 1.0, source="client"),
            judged("3", 1.0, source="human", metric="polite"),
        ]
    )

    def weak(*sources, metric="right"):
        return any_store.load_routing_data("geo", metric=metric, sources=sources).weak

    np.testing.assert_array_equal(weak("client"), [1, 1, np.nan])
    np.testing.assert_array_equal(weak("judge", "client"), [0, 1, np.nan])
    np.testing.assert_array_equal(weak("code"), [np.nan] * 3)
    # with what is left there may be no choice to make
    np.testing.assert_array_equal(weak("client", metric=None), [1, 1, np.nan])
    with pytest.raises(TrainingDataError, match="no outcomes by 'terse'"):
        weak("client", metric="terse")


def test_traffic_whose_vectors_were_not_kept_does_not_take_those_of_the_others(
    any_store, serve, observe, caplog
):
    caplog.set_level("INFO")
    any_store.append([observe("1")])
    serve("2", points=())
    serve("3", points=(ReadPoint(0),))
    data = any_store.load_routing_data("geo")
    assert (data.ids, set(data.activations)) == (("1", "3"), {ReadPoint(0)})
    assert "1 requests of domain 'geo'" in caplog.text
    assert any_store.load_routing_data("geo", read_points=[]).ids == ("1", "2", "3")


def test_answers_without_an_outcome_are_found(any_store, observe):
    any_store.append([observe("1"), observe("2"), observe("3"), observe("3", "strong")])
    any_store.put_outcomes([judged("1", 1.0), judged("2", None), judged("3", 1.0, "strong")])
    assert any_store.unlabelled("geo", "right") == {"3"}
    assert any_store.unlabelled("geo", "right", source="human") == {"1", "2", "3"}
    assert any_store.unlabelled("geo", "right", "strong") == set()
    assert any_store.unlabelled("geo", "polite", "strong") == {"3"}
    any_store.append([observe("1", api_model="newer weights")])
    assert any_store.unlabelled("geo", "right") == {"1", "3"}
    assert any_store.unlabelled("maths", "right") == set()


def test_labels_are_counted_by_source(any_store, observe):
    any_store.append([observe("1"), observe("2"), observe("1", "strong")])
    any_store.put_outcomes(
        [
            judged("1", 1.0, source="human", author="ann"),
            judged("1", 0.0, source="human", author="bob"),
            judged("2", 1.0, source="code"),
            judged("1", 1.0, source="code"),
            judged("2", None, source="judge"),
            judged("1", 1.0, "strong", source="client"),
        ]
    )
    assert any_store.label_counts("geo") == {"code": 2, "human": 1}
    assert any_store.label_counts("geo", "strong") == {"client": 1}
    assert any_store.label_counts("maths") == {}


def test_feedback_on_a_domain_becomes_votes_with_their_keys(any_store, serve):
    serve("1")
    serve("2", "strong")
    serve("3", seen=False, domain="maths")
    said = {"metric": "good", "source": "client"}
    any_store._clock = lambda: NOW + 10
    any_store.put_feedback(Feedback(request_id="2", value=0, **said), key_id="key-1")
    any_store.put_feedback(Feedback(request_id="3", value=0, **said), key_id="key-1")
    any_store._clock = lambda: NOW + 20
    any_store.put_feedback(
        Feedback(request_id="1", value=1, author="ann", note="fine", **said), key_id=""
    )
    first = Vote(
        request_id="2", domain="geo", role="strong", key_id="key-1", value=0, at=NOW + 10, **said
    )
    second = Vote(
        request_id="1",
        domain="geo",
        role="weak",
        key_id="",
        value=1,
        author="ann",
        note="fine",
        at=NOW + 20,
        **said,
    )
    assert any_store.votes("geo") == [first, second]
    assert any_store.votes("geo", since=NOW + 15) == [second]
    any_store.put_feedback(Feedback(request_id="1", value=0, author="ann", **said), key_id="key-1")
    assert any_store.votes("geo", since=NOW + 15) == [
        replace(second, key_id="key-1", value=0, note="")
    ]
    any_store.delete_feedback("2", metric="good", source="client", key_id="key-1")
    assert [vote.request_id for vote in any_store.votes("geo")] == ["1"]


def test_the_latest_prefills_come_oldest_first_at_the_points_they_share(any_store, serve, observe):
    both = (ReadPoint(0), ReadPoint(1, "mean"))
    for n in range(1, 5):
        serve(str(n), at=NOW + n, points=both)
    serve("5", "strong", at=NOW + 5, seen=False)  # nothing was read
    stopped_early = replace(
        observe("6", "strong", origin="traffic"),
        activations={ReadPoint(0): np.full(4, 6, np.float32)},
    )
    serve("6", "strong", at=NOW + 6, seen=False)
    any_store.append_traffic([], [stopped_early])
    any_store.append_vectors([stopped_early])
    recent = any_store.recent_vectors("geo", limit=3)
    assert recent.ids == ("3", "4", "6")
    assert recent.at.tolist() == [NOW + 3, NOW + 4, NOW + 6]
    assert set(recent.activations) == {ReadPoint(0)}
    np.testing.assert_array_equal(recent.activations[ReadPoint(0)][:, 0], [3, 4, 6])
    assert any_store.recent_vectors("geo", since=NOW + 6).ids == ("6",)
    empty = any_store.recent_vectors("geo", since=NOW + 7)
    assert (len(empty), empty.activations) == (0, {})


def test_prefills_of_another_weak_model_come_only_when_asked_for(any_store, serve):
    serve("1", at=NOW + 1)
    serve("2", at=NOW + 2, weak_model="sha256:older")
    serve("3", at=NOW + 3)
    assert any_store.recent_vectors("geo").ids == ("1", "3")
    assert any_store.recent_vectors("geo", weak_model="sha256:older").ids == ("2",)
    serve("4", at=NOW + 4, weak_model="sha256:newer", seen=False)
    assert any_store.recent_vectors("geo").ids == ()


def test_of_a_request_that_both_models_answered_the_weak_ones_prefill_counts(
    any_store, serve, observe
):
    shared = {"origin": "traffic", "tenant": "key-1"}
    served_by_strong = replace(
        observe("1", "strong", **shared), activations={ReadPoint(0): np.ones(4, np.float32)}
    )
    in_shadow = observe("1", **shared)
    serve("1", "strong", seen=False)
    for shown in (served_by_strong, in_shadow):
        any_store.append_traffic([], [shown])
        any_store.append_vectors([shown])
    recent = any_store.recent_vectors("geo")
    assert (recent.ids, set(recent.activations)) == (("1",), {ReadPoint(0), ReadPoint(1, "mean")})


def test_observations_keep_their_tenant_and_origin(any_store, observe):
    given = observe("1", tenant="key-1", origin="traffic")
    any_store.append([given])
    any_store.append([observe("1", "strong", tenant="", origin="collected")])
    found = list(any_store.observations("geo"))
    assert {(one.tenant, one.origin) for one in found} == {("key-1", "traffic")}


def test_vectors_are_added_once_and_only_to_what_is_stored(any_store, observe):
    first, second = observe("1"), observe("2", activations={})
    any_store.append_traffic([], [first, second])
    any_store.append_traffic([], [])
    assert any_store.append_vectors([first, first, second, observe("3")]) == 1
    assert any_store.append_vectors([first]) == 0
    data = any_store.load_routing_data("geo", read_points=[ReadPoint(0)])
    assert data.ids == ("1",)
    np.testing.assert_array_equal(data.activations[ReadPoint(0)], [[1, 2, 3, 4]])


def test_chances_of_both_answers_are_comparable_between_rules(any_store, served, observe, identity):
    """While nothing is kept nearly all is seen; that is no reason to thin it by a later rule.

    The rule "@1" sees all with 0.9. "@2" keeps half, of which 0.3 are seen: brought to one smallest
    chance, 0.9 * 0.3/0.9 = 0.3, and 0.9 and 0.3 as they are. Of "@3" there are too few to say.
    """
    chances = {"@1": [0.9] * 50, "@2": [0.9, 0.3] * 25, "@3": [0.8]}
    rows = [(rule, chance) for rule, seen in chances.items() for chance in seen]
    any_store.append_traffic(
        [
            served(
                str(n),
                at=NOW + n,
                serve="strong",
                weak_model=model_key(identity),
                probe=f"geo{rule}",
                pair_chance=chance,
            )
            for n, (rule, chance) in enumerate(rows)
        ],
        [observe(str(n), origin="traffic") for n in range(len(rows))],
    )
    data = any_store.load_routing_data("geo", read_points=[])
    found = dict(zip(data.ids, data.pair_chance, strict=True))
    wanted = [0.3] * 50 + [0.9, 0.3] * 25 + [0.8]
    assert [found[str(n)] for n in range(len(rows))] == pytest.approx(wanted)
