from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.flywheel import Attributed, Ensemble, Label, Labeller, make_labeller
from foretell.records import Answer, Query, Usage

QUERY = Query(id="1", messages=({"role": "user", "content": "?"},))
ANSWER = Answer(
    text="a", model="m", finish_reason="stop", usage=Usage(prompt_tokens=1, completion_tokens=1)
)
values = st.lists(st.sampled_from([0.0, 0.3, 0.5, 1.0, None]), min_size=2, max_size=6)


class Says:
    metric = "says"

    def __init__(self, label):
        self._label = label

    def check(self, queries):
        pass

    def label(self, query, answer):  # noqa: ARG002
        return self._label


class Opinion(Says):
    source = "judge"
    author = "big-1"


def labelled(said, vote):
    members = {f"m{i}": Says(Label(value, f"reason {i}")) for i, value in enumerate(said)}
    return Ensemble(members, vote=vote).label(QUERY, ANSWER)


@given(values, st.sampled_from(["majority", "all", "any"]))
def test_a_label_is_what_no_missing_vote_could_change(said, vote):
    def with_all_votes(filled):
        yes = sum(value > 0.5 for value in filled)
        return {
            "majority": 2 * yes > len(filled) if 2 * yes != len(filled) else None,
            "all": yes == len(filled),
            "any": yes > 0,
        }[vote]

    def outcomes(filled, rest):
        if not rest:
            return {with_all_votes(filled)}
        first = [rest[0]] if rest[0] not in (None, 0.5) else [0.0, 1.0]
        return set().union(*(outcomes([*filled, value], rest[1:]) for value in first))

    possible = outcomes([], said)
    told = labelled(said, vote).value
    assert (None if told is None else bool(told)) == (
        possible.pop() if len(possible) == 1 else None
    )


@given(values, st.randoms())
def test_the_order_of_members_does_not_matter_and_any_is_easier_than_all(said, random):
    shuffled = list(said)
    random.shuffle(shuffled)
    for vote in ("majority", "all", "any"):
        one, other = labelled(said, vote), labelled(shuffled, vote)
        assert (one.value, one.confidence) == (other.value, other.confidence)
    least, middle, most = (labelled(said, vote).value for vote in ("all", "majority", "any"))
    assert least != 1 or middle == 1
    assert middle != 1 or most == 1


def test_disagreement_is_in_the_reason_of_a_success_too():
    members = {
        "exact": Says(Label(0.0, "another text")),
        "loose": Says(Label(1.0, "")),
        "number": Says(Label(1.0, "")),
    }
    assert Ensemble(members).label(QUERY, ANSWER) == Label(
        1.0, "disagreement: exact against loose, number", 2 / 3, "exact: another text"
    )
    assert Ensemble(members, vote="all").label(QUERY, ANSWER).reason.startswith("disagreement")


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ([Label(0.0, "x"), Label(0.0, "y")], "all say no"),
        ([Label(1.0, ""), Label(1.0, "")], ""),
        ([Label(1.0, ""), Label(None, "no reference")], "too few votes: only m0"),
        ([Label(1.0, ""), Label(None, "truncated")], "truncated"),
        ([Label(None, "truncated"), Label(None, "truncated")], "truncated"),
        ([Label(None, "a"), Label(None, "b")], "nobody could tell"),
        ([Label(1.0, ""), Label(0.0, "x")], "disagreement: m1 against m0"),
    ],
)
def test_the_reason_says_what_kept_it_from_being_simple(said, reason):
    members = {f"m{i}": Says(label) for i, label in enumerate(said)}
    assert Ensemble(members).label(QUERY, ANSWER).reason == reason


def test_an_ensemble_with_a_judge_is_a_judge():
    code = Ensemble({"a": Says(Label(1.0, "")), "b": Says(Label(1.0, ""))})
    mixed = Ensemble({"a": Says(Label(1.0, "")), "b": Opinion(Label(1.0, ""))})
    assert isinstance(code, Labeller)
    assert isinstance(code, Attributed)
    assert (code.source, code.author) == ("code", "")
    assert (mixed.source, mixed.author) == ("judge", "big-1")


def test_members_are_made_by_name_with_options_of_their_own(judge):
    ensemble = make_labeller(
        "ensemble",
        {
            "of": "strict:regex, loose:regex,json_valid",
            "strict.pattern": "^1$",
            "loose.pattern": "1",
            "vote": "majority",
        },
    )
    assert ensemble.metric == "ensemble"
    ensemble.check([QUERY])
    assert judge(ensemble, "1").value == 1
    assert judge(ensemble, "21").reason == "disagreement: strict against loose, json_valid"
    assert judge(ensemble, "x").value == 0
    with pytest.raises(InputError, match="found no number"):
        make_labeller("ensemble", {"of": "numeric,exact"}).check(
            [Query(id="1", messages=QUERY.messages, reference="seven")]
        )


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "'ensemble' needs the option 'of'"),
        ({"of": "exact"}, "needs two labellers or more, got 1"),
        ({"of": "exact,exact"}, "two members of the ensemble are called 'exact'; name them, as in"),
        ({"of": "exact,vibes"}, "no labeller is called 'vibes'"),
        ({"of": "exact,numeric", "vote": "most"}, "option vote is 'most'; wanted majority or all"),
        ({"of": "exact,numeric", "folded": "yes"}, "'ensemble' has no option 'folded'"),
        ({"of": "exact,numeric", "regex.pattern": "a"}, "has no option 'regex.pattern'"),
        ({"of": "exact,numeric", "exact.case": "a"}, "'exact' has no option 'case'"),
    ],
)
def test_options_that_cannot_be_used_say_why(options, problem):
    with pytest.raises(InputError, match=problem):
        make_labeller("ensemble", options)
