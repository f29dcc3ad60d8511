from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.flywheel._compare import fold, last_number, same

scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        (" Côte-d'Ivoire.", "cote d ivoire"),
        ("CÔTE D\u2019IVOIRE", "cote d ivoire"),
        ("São  Tomé\nand Príncipe", "sao tome and principe"),
        ("Straße", "strasse"),
        ("İstanbul", "istanbul"),
        ("C++", "c++"),
        ("\uff46\uff55\uff4c\uff4c width", "full width"),
        ("...", "..."),
        ("", ""),
        ("中国。", "中国"),
        ("हिन्दी", "हिन्दी"),
    ],
)
def test_folding_drops_case_accents_punctuation_and_space(text, folded):
    assert fold(text) == folded


@given(st.text())
def test_folding_twice_is_folding_once(text):
    assert fold(fold(text)) == fold(text)


@given(st.text())
def test_white_space_around_a_text_does_not_matter(text):
    assert fold(f" \n{text}\t") == fold(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("The answer is 42.", "42"),
        ("3 + 4 = 7", "7"),
        ("x=-5", "-5"),
        ("\u22125 degrees", "-5"),
        ("pages 3-5", "5"),
        ("10 - 5", "5"),
        ("it costs $1,234.50 in all", "1234.50"),
        ("-$5", "-5"),
        ("$-5", "-5"),
        ("1'000'000", "1000000"),
        ("1\u202f000", "1000"),
        ("1,2,3", "3"),
        ("12,3456", "3456"),
        ("1,234,56", "56"),
        (".5", "0.5"),
        ("so...42", "42"),
        ("3.14.15", "3.14"),
        ("6.02e23 of them", "6.02e23"),
        ("5 apples, H2O and x2", "5"),
        ("50%", "50"),
        ("5km", "5"),
        (r"\boxed{42}", "42"),
        ("**42**", "42"),
        ("007", "7"),
        ("٣", "3"),
    ],
)
def test_the_last_number_of_a_text(text, number):
    assert last_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "H2O", "...", "-", "1e5x"[1:]])
def test_a_text_without_a_number_has_none(text):
    assert last_number(text) is None


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "{:,}", "is {}.", "({:,})", "= {}!"]))
def test_any_way_to_write_an_integer_is_read_back(number, how):
    assert last_number(how.format(number)) == number


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_any_float_is_read_back_as_python_writes_it(number):
    assert float(last_number(str(number))) == number


@given(values)
def test_every_value_is_as_good_as_itself(value):
    assert same(value, value)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("france.", "France"),
        (5, "5"),
        ("1,000", 1000),
        (1.0, 1),
        ("true", True),
        ("null", None),
        ("b", ["a", "B"]),
        (["A", 1], ["a", "1"]),
        ({"a": 1, "more": 2}, {"a": "1"}),
        ({}, {"a": None}),
    ],
)
def test_values_that_are_as_good(value, wanted):
    assert same(value, wanted)


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("Niger", "Nigeria"),
        (-5, 5),
        ("-5", "5"),
        (7, "007"),
        (1, True),
        (0, False),
        (None, ""),
        ("c", ["a", "b"]),
        (["a"], ["a", "b"]),
        (["b", "a"], ["a", "b"]),
        (["a"], "a"),
        ({"a": 1}, 1),
        ("a", {"a": 1}),
        ({"b": 1}, {"a": 1}),
    ],
)
def test_values_that_are_not_as_good(value, wanted):
    assert not same(value, wanted)
