"""A domain: queries that share a probe, and how their answers are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foretell.errors import InputError
from foretell.records import Query, Sampling


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
