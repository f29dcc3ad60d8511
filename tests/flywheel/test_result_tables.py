from __future__ import annotations

import math
from decimal import Decimal
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from foretell.flywheel._result_tables import same_rows

exact = st.sampled_from([None, True, False, 0, 1, Decimal("1.0"), "a", "1", ("a", 1)])
floats = st.sampled_from([0.0, 0.1, 0.2, 0.3, 1.0, -0.1, math.nan, math.inf, -math.inf, None, 1])
rows = st.lists(st.tuples(exact, floats, floats), max_size=5)


def same(left, right, *, ordered=False, tolerance=0.0):
    return same_rows(left, right, ordered=ordered, tolerance=tolerance)


@given(rows, st.randoms())
def test_the_order_of_rows_matters_only_when_asked(table, random):
    shuffled = list(table)
    random.shuffle(shuffled)
    assert same(table, shuffled)
    assert same(table, table, ordered=True)


@given(rows, rows, st.sampled_from([0.0, 0.11, 0.21]), st.booleans())
def test_sameness_has_no_direction(left, right, tolerance, ordered):
    assert same(left, right, tolerance=tolerance, ordered=ordered) == same(
        right, left, tolerance=tolerance, ordered=ordered
    )


@given(rows, rows, st.sampled_from([0.0, 0.11, 0.21]))
def test_rows_agree_as_multisets_when_some_order_makes_them_agree(left, right, tolerance):
    some_order = any(
        same(left, list(order), tolerance=tolerance, ordered=True) for order in permutations(right)
    )
    assert same(left, right, tolerance=tolerance) == some_order


@given(
    st.lists(st.tuples(st.floats(-10, 10), st.floats(-10, 10)), max_size=30),
    st.randoms(),
    st.floats(-1, 1),
)
def test_floats_may_be_off_by_the_tolerance_and_no_more(table, random, sign):
    moved = [(a + sign * 0.009, b - sign * 0.009) for a, b in table]
    random.shuffle(moved)
    assert same(table, moved, tolerance=0.01)
    assert not same([*table, (100.0, 0.0)], [*moved, (102.0, 0.0)], tolerance=0.01)


def test_a_pairing_is_found_where_the_order_of_numbers_misleads():
    left = [(1.00, 5.0), (1.01, 7.0)]
    right = [(1.01, 5.0), (1.00, 7.0)]
    assert same(left, right, tolerance=0.02)
    # the first of the left has only one place to go, which the second must leave to it
    chain = [(0.0, 0.0), (0.1, 0.1), (0.2, 0.2)]
    assert same(chain, [(0.1, 0.1), (0.0, 0.0), (0.3, 0.3)], tolerance=0.11)


def test_values_of_other_kinds_are_never_the_same():
    assert not same([(True,)], [(1,)])
    assert not same([("1",)], [(1,)])
    assert not same([(None,)], [(0,)])
    assert not same([(None, 1.0)], [(0.0, 1.0)])
    assert not same([(math.nan,)], [(None,)])
    assert same([(Decimal("1.50"),)], [(Decimal("1.5"),)])
    assert same([(1,)], [(1.0,)])


def test_how_often_a_row_comes_counts():
    assert not same([("a",), ("a",), ("b",)], [("a",), ("b",), ("b",)])
    assert not same([("a",)], [("a",), ("a",)])
    assert same([], [])
