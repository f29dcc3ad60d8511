"""Durable observations, outcomes and vectors; the files that queries and labels come in."""

from foretell.store._files import load_outcomes, load_queries
from foretell.store._keys import model_key
from foretell.store._splits import check_splits, split_of
from foretell.store._store import DomainCounts, Store

__all__ = [
    "DomainCounts",
    "Store",
    "check_splits",
    "load_outcomes",
    "load_queries",
    "model_key",
    "split_of",
]
