"""Leaks are refused with counts, near-duplicates counted, shuffled labels tell nothing."""

from dataclasses import replace

import numpy as np
import pytest

from foretell.errors import InputError, ProbeMismatchError
from foretell.evaluation import evaluate_routers
from foretell.evaluation._controls import count_near_duplicates, refuse_leaks, shuffled_auroc
from foretell.routers import ProbeRouter, length_router


def test_a_shared_group_is_refused_with_its_count(train, test_set):
    leaking = replace(test_set, groups=(*train.groups[:6], *test_set.groups[6:]))
    with pytest.raises(InputError, match=r"3 groups are in both .* such as '1-0'"):
        evaluate_routers(train, leaking, [length_router()], np.random.default_rng(0))


def test_a_shared_id_is_refused_with_its_count(train, test_set):
    leaking = replace(test_set, ids=(*train.ids[:4], *test_set.ids[4:]))
    with pytest.raises(InputError, match="4 query ids are in both"):
        refuse_leaks(train, leaking)


def test_a_repeated_id_is_refused_with_its_count(train, test_set):
    with pytest.raises(InputError, match="2 ids come more than once in the test set"):
        refuse_leaks(train, replace(test_set, ids=("a", "a", "a", *test_set.ids[3:])))
    with pytest.raises(InputError, match="1 ids come more than once in the training set"):
        refuse_leaks(replace(train, ids=("a", "a", *train.ids[2:])), test_set)


def test_sets_of_different_models_are_refused(train, test_set):
    assert test_set.model is not None
    other = replace(test_set, model=replace(test_set.model, weights_sha256="c" * 64))
    with pytest.raises(ProbeMismatchError, match="collect both on one model"):
        refuse_leaks(train, other)
    refuse_leaks(train, replace(test_set, model=None))


def near(train, test, *texts):
    rows = test.take(np.arange(len(texts)))
    return count_near_duplicates(train, replace(rows, texts=texts))


def test_texts_that_differ_in_case_and_space_are_near_duplicates(train, test_set):
    copies = tuple(f"  {text.upper()} " for text in train.texts[:7])
    assert near(train, test_set, *copies, "Who wrote this sentence, and why?") == 7


def test_a_template_alone_does_not_make_near_duplicates(train, test_set):
    assert count_near_duplicates(train, test_set) == 0


def test_texts_without_letters_are_no_near_duplicates(train, test_set):
    empty = replace(train, texts=("",) * len(train))
    assert near(empty, test_set, "", "") == 0


def test_shuffled_labels_tell_nothing(train, make_data):
    test = make_data(400, seed=9)
    router = ProbeRouter().fit(train, np.random.default_rng(0))
    # One fit strays by chance, their mean over many fits does not.
    found = [shuffled_auroc(train, test, router, np.random.default_rng(seed)) for seed in range(20)]
    assert np.mean(found) == pytest.approx(0.5, abs=0.06)
    assert shuffled_auroc(train, test, router, np.random.default_rng(0)) == found[0]


def test_shuffling_is_undefined_on_one_class(train, test_set):
    router = ProbeRouter().fit(train, np.random.default_rng(0))
    same = replace(test_set, weak=np.ones(len(test_set)))
    assert shuffled_auroc(train, same, router, np.random.default_rng(0)) is None
