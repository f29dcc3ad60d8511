"""Small changes to a query: pure, seeded, and to its own text alone."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import InputError
from foretell.evaluation._perturbations import PERTURBATIONS, append_text, perturb, perturb_query
from foretell.records import Query

TEXT = "In which country is the little town of Casablanca, and which river runs through it?"


def with_seed(text, kind, seed=0):
    return perturb(text, kind, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", PERTURBATIONS)
@given(text=st.text(max_size=60), seed=st.integers(0, 5))
def test_the_same_seed_changes_any_text_the_same_way(kind, text, seed):
    assert with_seed(text, kind, seed) == with_seed(text, kind, seed)


@pytest.mark.parametrize("kind", PERTURBATIONS)
def test_every_kind_changes_a_sentence(kind):
    assert with_seed(TEXT, kind) != TEXT


@given(st.integers(0, 10_000))
def test_typos_change_one_word_of_six_by_one_letter_and_never_its_ends(seed):
    changed = with_seed(TEXT, "typos", seed).split(" ")
    pairs = [(a, b) for a, b in zip(TEXT.split(" "), changed, strict=True) if a != b]
    # 15 words: round(15 / 6) = 2.
    assert len(pairs) == 2
    for word, mistyped in pairs:
        assert len(word) >= 4
        assert (mistyped[0], mistyped[-1]) == (word[0], word[-1])
        dropped = Counter(word) - Counter(mistyped)
        added = Counter(mistyped) - Counter(word)
        assert (dropped.total(), added.total()) in {(0, 0), (1, 0), (0, 1)}


def test_all_three_kinds_of_typo_occur():
    changed = {len(with_seed("wonderful", "typos", seed)) for seed in range(30)}
    assert changed == {8, 9, 10}


def test_short_words_are_not_mistyped():
    assert with_seed("a cat in 1998", "typos") == "a cat in 1998"


@given(st.integers(0, 1_000))
def test_white_space_changes_nothing_but_white_space(seed):
    changed = with_seed(TEXT, "whitespace", seed)
    assert changed.split() == TEXT.split()
    assert changed.endswith("\n")
    # 14 blanks, of which a quarter is 3.
    assert changed.count(" ") == TEXT.count(" ") + 3
    assert with_seed("word", "whitespace") == "word\n"


def test_the_rest_of_the_kinds_do_what_they_say():
    assert with_seed("Where is it?", "lower") == "where is it?"
    assert with_seed("Where is it?", "upper") == "WHERE IS IT?"
    assert with_seed("Where is it?", "punctuation") == "Where is it"
    assert with_seed("Name it", "punctuation") == "Name it."
    assert all("Where is {}?" in with_seed("Where is {}?", "paraphrase", s) for s in range(9))
    assert all(with_seed("Where?", "appended", s).startswith("Where? ") for s in range(9))
    assert len({with_seed("Where?", "paraphrase", seed) for seed in range(40)}) == 7


def test_an_unknown_kind_is_refused():
    with pytest.raises(InputError, match="no perturbation 'rot13'; use one of typos, lower"):
        with_seed("x", "rot13")


def asked(*messages):
    return Query(id="q", messages=messages, group="g", attributes={"a": 1}, reference="r")


def test_only_the_querys_own_text_changes_and_a_beginning_of_the_answer_stays():
    query = asked(
        {"role": "user", "content": "example?"},
        {"role": "assistant", "content": "answer"},
        {"role": "user", "content": "Where is it?", "name": "ann"},
        {"role": "assistant", "content": '{"country": "'},
    )
    changed = perturb_query(query, "upper", np.random.default_rng(0))
    assert changed.text == "WHERE IS IT?"
    assert changed.messages[2]["name"] == "ann"
    assert [changed.messages[i] for i in (0, 1, 3)] == [query.messages[i] for i in (0, 1, 3)]
    assert (changed.id, changed.group, changed.attributes) == ("q", "g", {"a": 1})
    assert query.text == "Where is it?"


def test_text_parts_are_changed_and_other_parts_stay():
    image = {"type": "image_url", "image_url": {"url": "data:,"}}
    parts = [image, {"type": "text", "text": "Where "}, {"type": "text", "text": "is it?"}]
    changed = append_text(asked({"role": "user", "content": parts}), "zzz")
    assert changed.text == "Where is it? zzz"
    assert changed.messages[0]["content"] == [image, {"type": "text", "text": "Where is it? zzz"}]
    only_image = append_text(asked({"role": "user", "content": [image]}), "zzz")
    assert only_image.messages[0]["content"] == [image, {"type": "text", "text": " zzz"}]


def test_appending_nothing_changes_nothing():
    query = asked({"role": "user", "content": "Where?"})
    assert append_text(query, "") == query
    lonely = asked({"role": "assistant", "content": "so"})
    assert append_text(lonely, "x") == lonely
