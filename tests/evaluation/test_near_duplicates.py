"""Near-duplicates are found by what tells texts apart, not by what all of them share."""

from dataclasses import replace

import numpy as np
import pytest

from foretell.evaluation._near_duplicates import find_near_duplicates

SUMS = (
    "Ann had {} marbles in a bag and lost some of them in the park. If she counts 9 now, how many "
    "marbles did she lose?",
    "A baker filled {} trays with rolls for the market, 12 on each tray. How many rolls did the "
    "baker bring along?",
)


def found(train, test, *texts, of_train=None):
    if of_train is not None:
        train = replace(
            train.take(np.arange(len(of_train))),
            texts=tuple(of_train),
        )
    return find_near_duplicates(train, replace(test.take(np.arange(len(texts))), texts=texts))


def test_case_space_and_punctuation_make_no_difference(train, test_set):
    copies = tuple(f"  {text.upper().replace('?', ' !')} " for text in train.texts[:7])
    pairs = found(train, test_set, *copies, "Who wrote this sentence, and why?")
    assert [pair.test_id for pair in pairs] == sorted(test_set.ids[:7])
    assert {pair.train_id for pair in pairs} == set(train.ids[:7])
    assert all(pair.similarity == pytest.approx(1) for pair in pairs)


def test_a_template_alone_does_not_make_near_duplicates(train, test_set):
    assert find_near_duplicates(train, test_set) == ()


def test_however_long_a_template_is_it_counts_for_nothing(train, test_set):
    prefix = "You are a helpful assistant who knows every place on Earth. " * 40
    sets = (train.take(np.arange(60)), test_set.take(np.arange(60)))
    long = [replace(data, texts=tuple(prefix + t for t in data.texts)) for data in sets]
    assert find_near_duplicates(*long) == ()


def test_a_sum_with_another_number_is_a_near_duplicate(train, test_set):
    pairs = found(
        train, test_set, SUMS[0].format(31), "What is 7 times 6?",
        of_train=(SUMS[0].format(35), SUMS[1].format(31), *train.texts[:40]),
    )  # fmt: skip
    (pair,) = pairs
    assert (pair.test_text, pair.train_text) == (SUMS[0].format(31), SUMS[0].format(35))
    assert 0.8 <= pair.similarity < 1


def test_the_likest_come_first(train, test_set):
    pairs = found(
        train, test_set, SUMS[1].format(31), SUMS[0].format(35),
        of_train=(SUMS[0].format(35), SUMS[1].format(38), *train.texts[:40]),
    )  # fmt: skip
    assert [pair.test_text for pair in pairs] == [SUMS[0].format(35), SUMS[1].format(31)]


def test_texts_without_letters_are_no_near_duplicates(train, test_set):
    assert found(train, test_set, "", "?!", of_train=("", "…")) == ()
    assert found(train, test_set, "", of_train=("", "word")) == ()


def test_other_scripts_are_compared_too(train, test_set):
    same = "巴黎在哪个国家?"
    (pair,) = found(train, test_set, same, "东京塔有多高?", of_train=(same, "谁写了红楼梦?"))
    assert pair.train_text == same
