"""What callers' votes are worth, and that no single caller can bend the labels."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.flywheel import feedback_outcomes
from foretell.flywheel._votes import allowance
from foretell.records import Vote


def vote(request_id, value=1.0, key_id="k1", *, at=0.0, role="weak", domain="geo"):
    return Vote(
        request_id=request_id,
        domain=domain,
        role=role,
        key_id=key_id,
        metric="thumbs",
        value=value,
        source="human",
        author="somebody",
        note="my own words",
        at=at,
    )


def weigh(votes, *, cap=1.0, **more):
    return feedback_outcomes(votes, metric="right", influence_cap=cap, **more)


VOTES = st.lists(
    st.builds(
        vote,
        st.sampled_from([f"r{i}" for i in range(8)]),
        st.sampled_from([0.0, 0.5, 1.0]),
        st.sampled_from(["", "k1", "k2", "k3"]),
        at=st.integers(0, 3).map(float),
        role=st.just("weak"),
    ),
    max_size=30,
)


def test_an_outcome_is_a_clients_whatever_the_vote_says_and_repeats_none_of_its_words():
    (outcome,) = weigh([vote("r1", 0.0)]).outcomes
    assert (outcome.source, outcome.author, outcome.metric) == ("client", "k1", "right")
    assert (outcome.value, outcome.note) == (0.0, "feedback")


def test_the_last_vote_of_a_key_on_a_request_counts():
    weighed = weigh([vote("r1", 1.0, at=2), vote("r1", 0.0, at=1), vote("r1", 0.5, at=1)])
    assert [one.value for one in weighed.outcomes] == [1.0]
    assert weighed.superseded == 2


def test_of_votes_at_the_same_time_the_later_in_the_list_counts():
    assert weigh([vote("r1", 1.0), vote("r1", 0.0)]).outcomes[0].value == 0.0


def test_votes_on_other_keys_requests_are_dropped():
    weighed = weigh(
        [vote("r1", key_id="thief"), vote("r1", key_id="owner"), vote("r1", key_id="")],
        owners={"r1": "owner"},
    )
    assert [one.author for one in weighed.outcomes] == ["", "owner"]
    assert weighed.forged == 1


def test_keys_that_contradict_each_other_are_told_and_both_kept():
    weighed = weigh(
        [vote("r1", 1.0, "a"), vote("r1", 0.0, "b"), vote("r2", 1.0, "a"), vote("r2", 0.5, "b")]
    )
    assert weighed.contradicted == ("r1",)
    assert [one.value for one in weighed.outcomes if one.query_id == "r1"] == [1.0, 0.0]


def test_votes_against_a_truncated_answer_are_no_failures():
    weighed = weigh([vote("r1", 0.0), vote("r2", 1.0)], cut={"r1", "r2"})
    assert [(one.value, one.note) for one in weighed.outcomes] == [
        (None, "feedback; truncated"),
        (1.0, "feedback"),
    ]
    assert weighed.truncated == 1


def test_a_more_trusted_source_overrules_and_contradictions_with_it_are_told():
    trusted = {("weak", "r1"): 1.0, ("weak", "r2"): 0.0, ("strong", "r3"): 0.0}
    weighed = weigh([vote("r1", 0.0), vote("r2", 0.0), vote("r3", 1.0)], trusted=trusted)
    assert [one.query_id for one in weighed.outcomes] == ["r3"]
    assert (weighed.overruled, weighed.mistaken) == (2, ("r1",))


def test_a_key_gives_at_most_its_share_of_the_labels():
    # 98 labels of others and n votes: n <= 0.02 (98 + n) holds up to n = 2.
    trusted = {("weak", f"t{i}"): 1.0 for i in range(98)}
    weighed = weigh([vote(f"r{i}", 0.0) for i in range(50)], cap=0.02, trusted=trusted)
    assert len(weighed.outcomes) == 2
    assert weighed.over_cap == {"k1": 48}


def test_a_lone_key_without_other_labels_gives_none_unless_the_cap_lets_it():
    votes = [vote(f"r{i}") for i in range(50)]
    assert weigh(votes, cap=0.5).outcomes == ()
    assert len(weigh(votes, cap=1.0).outcomes) == 50


def test_which_votes_count_is_not_the_keys_choice_and_stays_as_more_arrive():
    trusted = {("weak", f"t{i}"): 1.0 for i in range(90)}
    votes = [vote(f"r{i:02}", at=float(i)) for i in range(40)]

    def counting(votes, salt=b"secret"):
        weighed = weigh(votes, cap=0.1, trusted=trusted, salt=salt)
        return {one.query_id for one in weighed.outcomes}

    assert len(counting(votes)) == 10
    assert counting(votes) == counting(votes[::-1])
    assert counting(votes) != counting(votes, salt=b"another")
    assert counting(votes) != {one.request_id for one in votes[:10]}
    kept = counting(votes[:39])
    assert len(kept - counting(votes)) <= 1


def test_each_role_is_reckoned_on_its_own():
    trusted = {("weak", f"t{i}"): 1.0 for i in range(98)}
    votes = [vote(f"s{i}", role="strong") for i in range(5)] + [vote("r1")]
    weighed = weigh(votes, cap=0.02, trusted=trusted)
    assert [one.role for one in weighed.outcomes] == ["weak"]


@given(VOTES, st.floats(0.01, 1), st.integers(0, 100))
def test_no_key_is_ever_above_its_share_and_every_vote_is_accounted_for(votes, cap, others):
    trusted = {("weak", f"t{i}"): 1.0 for i in range(others)}
    weighed = weigh(votes, cap=cap, trusted=trusted)
    labels = len(weighed.outcomes)
    for key in {one.author for one in weighed.outcomes}:
        own = sum(one.author == key for one in weighed.outcomes)
        assert own <= cap * (others + labels) + 1e-6
    assert len(votes) == labels + weighed.superseded + sum(weighed.over_cap.values())
    assert len({(one.query_id, one.author) for one in weighed.outcomes}) == labels


@given(st.lists(st.integers(1, 30), max_size=6), st.integers(0, 60), st.floats(0.01, 1))
def test_the_allowance_is_the_largest_that_fits(counts, others, cap):
    def fits(n):
        return n <= cap * (others + sum(min(count, n) for count in counts)) + 1e-9

    expected = max(n for n in range(max(counts, default=0) + 1) if fits(n))
    assert allowance(counts, others, cap) == expected


@pytest.mark.parametrize("cap", [0.0, -0.1, 1.1])
def test_a_cap_out_of_range_is_refused(cap):
    with pytest.raises(InputError, match="wanted above 0 and up to 1"):
        weigh([vote("r1")], cap=cap)


def test_votes_of_several_domains_are_refused():
    with pytest.raises(InputError, match="geo, maths"):
        weigh([vote("r1"), vote("r2", domain="maths")])
