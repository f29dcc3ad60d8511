"""Feedback: one piece for each request, metric, source and author, of whoever asked."""

from __future__ import annotations

import math

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.records import Feedback
from foretell.store import Recorder


def said(request_id="a", *, metric="good", value=1.0, source="human", author="", note=""):
    return Feedback(
        request_id=request_id, metric=metric, value=value, source=source, author=author, note=note
    )


feedbacks = st.builds(
    said,
    st.sampled_from("ab"),
    metric=st.sampled_from(["good", "kind"]),
    value=st.floats(0, 1),
    source=st.sampled_from(["human", "client"]),
    author=st.sampled_from(["", "ann"]),
    note=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=5),
)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.tuples(st.booleans(), feedbacks), max_size=15))
def test_feedback_is_put_replaced_and_deleted_as_in_a_dictionary(any_store, served, steps):
    any_store.delete_requests(before=math.inf)
    any_store.append_requests([served("a"), served("b")])
    expected: dict[tuple[str, ...], Feedback] = {}
    for puts, feedback in steps:
        place = (feedback.request_id, feedback.metric, feedback.source, feedback.author)
        if puts:
            outcome = any_store.put_feedback(feedback, key_id="key-1")
            assert outcome == ("replaced" if place in expected else "created")
            expected[place] = feedback
        else:
            was_there = any_store.delete_feedback(
                feedback.request_id,
                metric=feedback.metric,
                source=feedback.source,
                author=feedback.author,
                key_id="key-1",
            )
            assert was_there == (expected.pop(place, None) is not None)
    for name in "ab":
        assert any_store.feedback(name) == [
            expected[place] for place in sorted(expected) if place[0] == name
        ]


def test_another_keys_request_is_as_unknown_as_one_that_never_was(any_store, served):
    any_store.append_requests([served("theirs", key_id="key-2")])
    refusals = []
    for name in ("theirs", "absent"):
        with pytest.raises(InputError) as refused:
            any_store.put_feedback(said(name), key_id="key-1")
        refusals.append(str(refused.value).replace(name, "…"))
    assert refusals[0] == refusals[1]
    assert "wanted the x-request-id of an answer to the same API key" in refusals[0]
    assert any_store.put_feedback(said("theirs"), key_id="key-2") == "created"
    mine = {"metric": "good", "source": "human"}
    assert not any_store.delete_feedback("theirs", **mine, key_id="key-1")
    assert any_store.feedback("theirs") == [said("theirs")]
    assert any_store.delete_feedback("theirs", **mine, key_id="key-2")


def test_without_a_key_one_may_speak_of_any_request(any_store, served):
    any_store.append_requests([served("theirs", key_id="key-2"), served("a", key_id="")])
    assert any_store.put_feedback(said("theirs"), key_id="") == "created"
    assert any_store.put_feedback(said("a"), key_id="") == "created"
    with pytest.raises(InputError, match="no request 'b' is known"):
        any_store.put_feedback(said("b"), key_id="")
    with pytest.raises(InputError, match="no request 'a' is known"):
        any_store.put_feedback(said("a"), key_id="key-2")


@pytest.mark.parametrize("field", ["request_id", "metric", "author", "note"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800"])
def test_characters_that_no_database_takes_are_bad_input(any_store, served, field, text):
    any_store.append_requests([served("a")])
    with pytest.raises(InputError, match=f"{field} of the feedback holds a character"):
        any_store.put_feedback(said(**{field: text}), key_id="")
    place = {"request_id": "a", "metric": "good", "source": "human", "author": "", "key_id": ""}
    assert any_store.feedback(text) == []
    assert any_store.request(text) is None
    if field != "note":
        assert not any_store.delete_feedback(**{**place, field: text})


def test_feedback_on_a_request_that_is_still_queued_is_taken_after_a_flush(any_store, served):
    with Recorder(any_store, interval_s=60) as recorder:
        recorder.put(served("a"))
        with pytest.raises(InputError, match="no request 'a' is known"):
            any_store.put_feedback(said("a"), key_id="key-1")
        assert recorder.flush()
        assert any_store.put_feedback(said("a"), key_id="key-1") == "created"
