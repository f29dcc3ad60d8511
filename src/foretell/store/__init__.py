"""Durable observations, outcomes, requests, vectors; the files that queries and labels come in."""

from foretell.store._api_keys import key_sha256
from foretell.store._config_versions import ConfigVersion
from foretell.store._domains import DomainCounts
from foretell.store._files import load_outcomes, load_queries
from foretell.store._keys import model_key
from foretell.store._ledger import Spent
from foretell.store._recorder import Recorder
from foretell.store._splits import check_splits, split_of
from foretell.store._store import Store

__all__ = [
    "ConfigVersion",
    "DomainCounts",
    "Recorder",
    "Spent",
    "Store",
    "check_splits",
    "key_sha256",
    "load_outcomes",
    "load_queries",
    "model_key",
    "split_of",
]
