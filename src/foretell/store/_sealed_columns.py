"""Columns that an encrypted store encrypts: whoever reads and writes them need not know."""

from __future__ import annotations

import json
from typing import Any
from weakref import WeakKeyDictionary

from sqlalchemy import JSON, Dialect, String
from sqlalchemy.types import TypeDecorator

from foretell.store._cipher import Cipher

_ciphers: WeakKeyDictionary[Dialect, Cipher] = WeakKeyDictionary()
"""By the dialect object that an engine has to itself: all that SQLAlchemy tells a column's type."""


def encrypt_columns(dialect: Dialect, cipher: Cipher) -> None:
    """Have an engine's sealed columns encrypted from now on."""
    _ciphers[dialect] = cipher


class SealedText(TypeDecorator[str]):
    """Text, encrypted where the store is; ``what`` names it in errors, and is its context."""

    impl = String
    cache_ok = True

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        cipher = _ciphers.get(dialect)
        return value if cipher is None or value is None else cipher.seal_text(value, self.what)

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        cipher = _ciphers.get(dialect)
        return value if cipher is None or value is None else cipher.open_text(value, self.what)


class SealedJson(TypeDecorator[Any]):
    """JSON, encrypted where the store is, then as one JSON string; ``None`` is NULL."""

    impl = JSON
    cache_ok = True

    def __init__(self, what: str) -> None:
        super().__init__(none_as_null=True)
        self.what = what

    def process_bind_param(self, value: Any, dialect: Dialect) -> Any:
        cipher = _ciphers.get(dialect)
        if cipher is None or value is None:
            return value
        return cipher.seal_text(json.dumps(value), self.what)

    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        cipher = _ciphers.get(dialect)
        if cipher is None or value is None:
            return value
        return json.loads(cipher.open_text(value, self.what))
