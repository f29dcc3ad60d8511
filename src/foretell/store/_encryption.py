"""Whether a store is encrypted, and with which key."""

from __future__ import annotations

import base64
import binascii
from typing import Final

from sqlalchemy import Connection, exists, insert, select

from foretell.config import StoreConfig, secret
from foretell.errors import ConfigError, StoreError
from foretell.store._cipher import KEY_BYTES, Cipher
from foretell.store._tables import feedback, queries, store_facts

_FACT: Final = "encryption"
_CHECK: Final = "foretell"
_CONTEXT: Final = "the store"
_SEALED: Final = (queries, feedback)
"""Tables with sealed columns; answers and outcomes are there only of queries."""


def store_key(config: StoreConfig) -> bytes | None:
    """The key that the configuration names; ``None`` where texts and vectors are not encrypted.

    Raises:
        ConfigError: The variable is not set, or holds no 32 bytes in base64.
    """
    variable = config.encryption_key_env
    if variable is None:
        return None
    try:
        key = base64.b64decode(secret(variable), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != KEY_BYTES:
        raise ConfigError(
            f"the environment variable {variable} holds no key of {KEY_BYTES} bytes in base64; "
            f"make one: openssl rand -base64 {KEY_BYTES}"
        )
    return key


def require_key(connection: Connection, cipher: Cipher | None) -> None:
    """Refuse to open a store with another key than the one it was made with.

    A store in which no text is kept yet takes whichever key it is opened with from then on.

    Args:
        connection: In a write transaction.
        cipher: Of the key that was given, if any.

    Raises:
        StoreError: They do not belong together.
    """
    known = select(store_facts.c.value).where(store_facts.c.name == _FACT)
    check = connection.scalar(known)
    if check is None and cipher is None:
        return
    if check is not None and cipher is None:
        raise StoreError(
            "the store is encrypted and no key was given; name the variable that holds it in "
            "store.encryption_key_env"
        )
    if check is not None and cipher is not None:
        cipher.open_text(check, _CONTEXT)
    elif cipher is not None:
        if any(connection.scalar(select(exists().select_from(table))) for table in _SEALED):
            raise StoreError(
                "the store was made without encryption, and a key was given; leave out "
                "store.encryption_key_env, or begin an encrypted store elsewhere: bring the data "
                "there by 'foretell data export' and 'foretell data import'"
            )
        fact = {"name": _FACT, "value": cipher.seal_text(_CHECK, _CONTEXT)}
        connection.execute(insert(store_facts), fact)
