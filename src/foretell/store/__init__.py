"""Durable observations, outcomes, requests, vectors; the files that queries and labels come in."""

from foretell.store._api_keys import key_sha256
from foretell.store._check import StoreCheck
from foretell.store._compaction import Compacted
from foretell.store._config_versions import ConfigVersion
from foretell.store._domains import DomainCounts, TenantCounts
from foretell.store._encryption import store_key
from foretell.store._erasure import Erased
from foretell.store._files import load_outcomes, load_queries
from foretell.store._imports import CSV_FIELDS, BadRow, Imported, LogFormat, import_logs
from foretell.store._keys import model_key
from foretell.store._ledger import Spent
from foretell.store._recorder import Recorder
from foretell.store._splits import check_splits, split_of
from foretell.store._store import Store
from foretell.store._traffic import RecentVectors
from foretell.store._trust import TRUST

__all__ = [
    "CSV_FIELDS",
    "TRUST",
    "BadRow",
    "Compacted",
    "ConfigVersion",
    "DomainCounts",
    "Erased",
    "Imported",
    "LogFormat",
    "RecentVectors",
    "Recorder",
    "Spent",
    "Store",
    "StoreCheck",
    "TenantCounts",
    "check_splits",
    "import_logs",
    "key_sha256",
    "load_outcomes",
    "load_queries",
    "model_key",
    "split_of",
    "store_key",
]
