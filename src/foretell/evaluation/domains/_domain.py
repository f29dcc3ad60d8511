"""A domain: queries that share a probe, and how their answers are judged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, TypeVar, cast

from foretell.errors import InputError
from foretell.records import Query, Sampling

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain:
    """Queries with references, and everything needed to have them answered and judged.

    Every query has its ``split``; training queries come first. ``labeller`` and
    ``labeller_options`` name how an answer is compared with the query's reference. ``sampling``
    is how the answers are decoded. ``attribution`` is the credit that the data's licence asks
    for, ``""`` when the data is foretell's own.
    """

    name: str
    description: str
    queries: tuple[Query, ...]
    labeller: str
    labeller_options: Mapping[str, Any]
    attribution: str
    sampling: Sampling


def check_sizes(*, train: int, test: int) -> None:
    """Refuse sizes of which no domain can be made."""
    if train < 0 or test < 0 or train + test == 0:
        raise InputError(
            f"a domain of {train} training and {test} test queries was asked for; "
            "wanted no negative number and at least one query"
        )


def deal(hands: Iterable[Iterable[T]]) -> Iterator[T]:
    """One item of each hand in turn, passing over those that have run out."""
    nothing = object()
    for round_ in zip_longest(*hands, fillvalue=nothing):
        yield from (cast("T", item) for item in round_ if item is not nothing)
