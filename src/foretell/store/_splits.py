"""Which queries are for training and which for testing."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable

from foretell.errors import InputError
from foretell.records import Query, Split

_TEST_SHARE = 0.3


def split_of(query: Query) -> Split:
    """The split that a query names, else one that follows from its group (else its id).

    The hash is SHA-256, so the same group lands on the same side on every machine, whatever
    else the file holds; about 30 % of the groups are for testing.
    """
    if query.split is not None:
        return query.split
    digest = hashlib.sha256((query.group or query.id).encode("utf-8", "surrogatepass")).digest()
    return "test" if int.from_bytes(digest[:8], "big") < _TEST_SHARE * 2**64 else "train"


def check_splits(queries: Iterable[Query]) -> None:
    """Refuse groups with queries on both sides: a router would be tested on what it has seen.

    Raises ``InputError`` with the number of such groups. Only a given ``split`` can cause it,
    also one that contradicts the hash which places the rest of its group.
    """
    sides: defaultdict[str, set[Split]] = defaultdict(set)
    for query in queries:
        if query.group is not None:
            sides[query.group].add(split_of(query))
    straddling = sorted(group for group, splits in sides.items() if len(splits) > 1)
    if straddling:
        raise InputError(
            f"{len(straddling)} of {len(sides)} groups have queries in both train and test, "
            f"such as {straddling[0]!r}; give every query of a group the same split, or none"
        )
