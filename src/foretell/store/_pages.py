"""Many values in pages: databases limit how many parameters a statement may have."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final, TypeVar

PAGE: Final = 500

T = TypeVar("T")


def pages(values: Iterable[T]) -> Iterator[list[T]]:
    """The values in their order, at most a page of them at a time."""
    rest = iter(values)
    while page := list(islice(rest, PAGE)):
        yield page
