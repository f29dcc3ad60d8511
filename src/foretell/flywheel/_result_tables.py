"""When two results of SQL are the same."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from decimal import Decimal
from typing import Any, Final

Row = tuple[Hashable, ...]
"""Values of one row; a ``float`` is compared to a tolerance, everything else exactly."""

_NUMBER: Final = "any number"
_MOST_TO_MATCH: Final = 1_000
"""Rows alike but for their numbers; of more, only the pairing in the order of those is tried."""


def same_rows(
    left: Sequence[Row], right: Sequence[Row], *, ordered: bool, tolerance: float
) -> bool:
    """Whether two results hold the same rows: as lists when ``ordered``, else as multisets.

    Where a column holds a ``float`` on either side, its numbers may differ by ``tolerance``,
    absolutely or relative to the larger; NaN is NaN. As multisets they agree when the rows can be
    paired one to one, each with one that it agrees with. All rows have equally many values.
    """
    if len(left) != len(right):
        return False
    loose = _loose_columns([*left, *right])

    def agree(one: Row, other: Row) -> bool:
        return _key(one, loose) == _key(other, loose) and all(
            _close(one[column], other[column], tolerance) for column in loose
        )

    if ordered:
        return all(map(agree, left, right))
    groups = defaultdict[Row, tuple[list[Row], list[Row]]](lambda: ([], []))
    for side, rows in enumerate((left, right)):
        for row in rows:
            groups[_key(row, loose)][side].append(row)
    return all(
        len(ours) == len(theirs) and (not loose or _pair_up(ours, theirs, loose, agree))
        for ours, theirs in groups.values()
    )


def _loose_columns(rows: Sequence[Row]) -> list[int]:
    width = len(rows[0]) if rows else 0
    return [column for column in range(width) if any(isinstance(r[column], float) for r in rows)]


def _is_number(value: Hashable) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _key(row: Row, loose: Sequence[int]) -> Row:
    """What must be equal: a row without the numbers that need only be close."""
    # True equals 1 in Python, not in a result.
    exact = [(isinstance(value, bool), value) for value in row]
    for column in loose:
        if _is_number(row[column]):
            exact[column] = (False, _NUMBER)
    return tuple(exact)


def _close(one: Any, other: Any, tolerance: float) -> bool:
    if not (_is_number(one) and _is_number(other)):
        return True  # their equality was seen to
    one, other = float(one), float(other)
    if math.isnan(one) or math.isnan(other):
        return math.isnan(one) and math.isnan(other)
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)


def _pair_up(
    left: list[Row], right: list[Row], loose: Sequence[int], agree: Callable[[Row, Row], bool]
) -> bool:
    """Whether the rows can be paired: in the order of their numbers, else by augmenting paths."""

    def by_numbers(row: Row) -> list[tuple[bool, float]]:
        numbers = [float(row[i]) if _is_number(row[i]) else 0.0 for i in loose]  # type: ignore[arg-type]
        return [(math.isnan(number), 0.0 if math.isnan(number) else number) for number in numbers]

    left, right = sorted(left, key=by_numbers), sorted(right, key=by_numbers)
    if all(map(agree, left, right)):
        return True
    # With one such column the sorted pairing is the best there is.
    return len(loose) > 1 and _can_be_matched(left, right, agree)


def _can_be_matched(
    left: Sequence[Row], right: Sequence[Row], agree: Callable[[Row, Row], bool]
) -> bool:
    """Whether a perfect matching exists (Kuhn's algorithm, without its recursion)."""
    if len(left) > _MOST_TO_MATCH:
        return False
    fits = [[at for at, other in enumerate(right) if agree(row, other)] for row in left]
    owner_of, place_of = dict[int, int](), dict[int, int]()
    for start in range(len(left)):
        came_from = dict[int, int]()
        waiting, free = [start], None
        while waiting and free is None:
            row = waiting.pop()
            for at in fits[row]:
                if at not in came_from:
                    came_from[at] = row
                    if at not in owner_of:
                        free = at
                        break
                    waiting.append(owner_of[at])
        # Along the path back every row moves to the place it was looked at for.
        while free is not None:
            row = came_from[free]
            owner_of[free] = row
            place_of[row], free = free, place_of.get(row)
        if start not in place_of:
            return False
    return True
