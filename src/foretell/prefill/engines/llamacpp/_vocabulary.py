"""Text to tokens and tokens to bytes, with the model's own vocabulary."""

from __future__ import annotations

import ctypes as c
import threading
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np

from foretell.errors import EngineClosedError, InputError
from foretell.prefill._control_texts import ControlTexts, Span
from foretell.prefill.engines.llamacpp._capi import LlamaLibrary

# LLAMA_TOKEN_ATTR_UNKNOWN and _CONTROL: what llama.cpp looks for in text only when told to.
_CONTROL: Final = 1 << 0 | 1 << 3


class Vocabulary:
    """One model's vocabulary. Any thread may tokenise; pieces are the engine thread's business."""

    def __init__(self, library: LlamaLibrary, model: int) -> None:
        self._library = library
        self._vocab = library.llama_model_get_vocab(model)
        self.size: int = library.llama_vocab_n_tokens(self._vocab)
        self.bos_text = self._special_text(library.llama_vocab_bos(self._vocab))
        self.eos_text = self._special_text(library.llama_vocab_eos(self._vocab))
        self._adds_bos: bool = library.llama_vocab_get_add_bos(self._vocab)
        self.control_texts = tuple(
            self._special_text(token)
            for token in range(self.size)
            if library.llama_vocab_get_attr(self._vocab, token) & _CONTROL
        )
        self._controls = ControlTexts(self.control_texts)
        self._pieces: dict[int, bytes] = {}
        self._texts: dict[int, str] = {}
        self._in_use = threading.Lock()
        self._closed = False

    def tokenise(self, text: str, *, literal: Sequence[Span] = ()) -> tuple[int, ...]:
        """Tokens of a rendered prompt; control tokens written in it are recognised.

        Those in the ``literal`` ranges of characters (in order) are not: they stay text.

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
        stretches = self._controls.stretches(text, literal) if literal else [(text, True)]
        tokens: list[int] = []
        with self._in_use:
            self._refuse_when_closed()
            for stretch, controls in stretches:
                tokens += self._tokens(stretch.encode(), add_bos and not tokens, controls)
        return tuple(tokens)

    def texts(self, tokens: Iterable[int]) -> tuple[str, ...]:
        """Each token's text, control tokens as they are written; U+FFFD for parts of characters."""
        with self._in_use:
            self._refuse_when_closed()
            return tuple(self._text(token) for token in tokens)

    def piece(self, token: int) -> bytes:
        """Bytes of one token; control tokens have none. Often not a whole character."""
        if token not in self._pieces:
            self._pieces[token] = self._bytes(token, controls=False)
        return self._pieces[token]

    def close(self) -> None:
        """Refuse to work from now on; waits for those that do, for the model is freed next."""
        with self._in_use:
            self._closed = True

    def ends_answer(self, token: int) -> bool:
        """Whether the model means to stop with this token."""
        return self._library.llama_vocab_is_eog(self._vocab, token)

    def _refuse_when_closed(self) -> None:
        if self._closed:
            raise EngineClosedError("the engine is closed; open another one")

    def _tokens(self, data: bytes, add_bos: bool, controls: bool) -> list[int]:
        room = len(data) + 2
        tokens = np.empty(room, dtype=np.int32)
        count = self._library.llama_tokenize(
            self._vocab, data, len(data), tokens.ctypes.data, room, add_bos, controls
        )
        if count < 0:
            raise InputError(f"the prompt could not be tokenised ({-count} tokens, {room} wanted)")
        return tokens[:count].tolist()

    def _text(self, token: int) -> str:
        if token not in self._texts:
            self._texts[token] = self._bytes(token, controls=True).decode(errors="replace")
        return self._texts[token]

    def _bytes(self, token: int, *, controls: bool) -> bytes:
        to_piece = self._library.llama_token_to_piece
        buffer = c.create_string_buffer(256)
        size = to_piece(self._vocab, token, buffer, 256, 0, controls)
        if size < 0:
            buffer = c.create_string_buffer(-size)
            size = to_piece(self._vocab, token, buffer, -size, 0, controls)
        return buffer.raw[:size]

    def _special_text(self, token: int) -> str:
        if token < 0:
            return ""
        return (self._library.llama_vocab_get_text(self._vocab, token) or b"").decode()
