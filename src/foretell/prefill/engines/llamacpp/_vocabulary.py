"""Text to tokens and tokens to bytes, with the model's own vocabulary."""

from __future__ import annotations

import ctypes as c
import threading

import numpy as np

from foretell.errors import EngineClosedError, InputError
from foretell.prefill.engines.llamacpp._capi import LlamaLibrary


class Vocabulary:
    """One model's vocabulary. Any thread may tokenise; pieces are the engine thread's business."""

    def __init__(self, library: LlamaLibrary, model: int) -> None:
        self._library = library
        self._vocab = library.llama_model_get_vocab(model)
        self.size: int = library.llama_vocab_n_tokens(self._vocab)
        self.bos_text = self._special_text(library.llama_vocab_bos(self._vocab))
        self.eos_text = self._special_text(library.llama_vocab_eos(self._vocab))
        self._adds_bos: bool = library.llama_vocab_get_add_bos(self._vocab)
        self._pieces: dict[int, bytes] = {}
        self._in_use = threading.Lock()
        self._closed = False

    def tokenise(self, text: str) -> tuple[int, ...]:
        """Tokens of a rendered prompt; special tokens written in it are recognised.

        The beginning-of-sequence token is added when the model wants one and the template has
        not written it already.
        """
        try:
            data = text.encode()
        except UnicodeEncodeError as error:
            raise InputError(
                f"the prompt has half a surrogate pair ({text[error.start]!a}); send valid Unicode"
            ) from None
        if b"\0" in data:
            raise InputError("the prompt contains a NUL character; remove it")
        add_bos = self._adds_bos and not text.startswith(self.bos_text or "\0")
        room = len(data) + 2
        tokens = np.empty(room, dtype=np.int32)
        with self._in_use:
            if self._closed:
                raise EngineClosedError("the engine is closed; open another one")
            count = self._library.llama_tokenize(
                self._vocab, data, len(data), tokens.ctypes.data, room, add_bos, True
            )
        if count < 0:
            raise InputError(f"the prompt could not be tokenised ({-count} tokens, {room} wanted)")
        return tuple(tokens[:count].tolist())

    def piece(self, token: int) -> bytes:
        """Bytes of one token; control tokens have none. Often not a whole character."""
        if token not in self._pieces:
            buffer = c.create_string_buffer(256)
            size = self._library.llama_token_to_piece(self._vocab, token, buffer, 256, 0, False)
            if size < 0:
                buffer = c.create_string_buffer(-size)
                size = self._library.llama_token_to_piece(
                    self._vocab, token, buffer, -size, 0, False
                )
            self._pieces[token] = buffer.raw[:size]
        return self._pieces[token]

    def close(self) -> None:
        """Refuse to tokenise from now on; waits for those that do, for the model is freed next."""
        with self._in_use:
            self._closed = True

    def ends_answer(self, token: int) -> bool:
        """Whether the model means to stop with this token."""
        return self._library.llama_vocab_is_eog(self._vocab, token)

    def _special_text(self, token: int) -> str:
        if token < 0:
            return ""
        return (self._library.llama_vocab_get_text(self._vocab, token) or b"").decode()
