"""AES-256-GCM with a key that the store never holds."""

from __future__ import annotations

import base64
import binascii
import os
from typing import Final

from foretell.errors import StoreError

KEY_BYTES: Final = 32
_NONCE_BYTES: Final = 12


class Cipher:
    """Seals bytes so that only the same key, told the same context, opens them.

    Each sealing draws a nonce of 96 random bits. By the bound of NIST SP 800-38D a key should seal
    no more than 2^32 values.
    """

    def __init__(self, key: bytes) -> None:
        """Raises ``StoreError`` for a key of another length, or without the extra ``encrypt``."""
        try:
            from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        except ImportError as error:
            raise StoreError(
                "the store is to be encrypted, which needs the package cryptography; install it: "
                "pip install 'foretell[encrypt]'"
            ) from error
        if len(key) != KEY_BYTES:
            raise StoreError(f"the store's key has {len(key)} bytes; wanted {KEY_BYTES}")
        self._aead = AESGCM(key)

    def seal(self, content: bytes, context: str) -> bytes:
        """Nonce, ciphertext and tag; ``context`` is not in it, but needed to open it."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._aead.encrypt(nonce, content, context.encode())

    def open(self, sealed: bytes, context: str) -> bytes:
        """What was sealed; raises ``StoreError`` for another key or context, or damage."""
        from cryptography.exceptions import InvalidTag

        try:
            nonce, content = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
            return self._aead.decrypt(nonce, content, context.encode())
        except (InvalidTag, ValueError) as error:
            raise StoreError(
                f"{context} cannot be decrypted: it was sealed with another key, or is damaged; "
                "give the key that the store was made with"
            ) from error

    def seal_text(self, text: str, context: str) -> str:
        """As base64."""
        sealed = self.seal(text.encode("utf-8", "surrogatepass"), context)
        return base64.b64encode(sealed).decode()

    def open_text(self, sealed: str, context: str) -> str:
        """The text of ``seal_text``; errors as in ``open``."""
        try:
            content = base64.b64decode(sealed, validate=True)
        except (binascii.Error, ValueError) as error:
            raise StoreError(f"{context} is not encrypted as it should be; restore it") from error
        return self.open(content, context).decode("utf-8", "surrogatepass")
