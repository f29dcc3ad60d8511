"""llama.cpp without the engine: a whole prompt in one call, every layer and every logit copied.

What the engine's tests compare with. It shares the declarations of the C API and nothing else: no
split at the query's own text, no filter in front of the callback, no batching.
"""

from __future__ import annotations

import ctypes as c
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from foretell.prefill.engines.llamacpp._capi import (
    TENSOR_NAME_AT,
    TENSOR_NE_AT,
    Batch,
    EvalCallback,
    load_library,
)


class PlainLlama:
    """One model and one context of 1,024 tokens."""

    def __init__(self, path: Path) -> None:
        self._library = library = load_library()
        self._streams: dict[str, NDArray[np.float32]] = {}
        self._callback = EvalCallback(self._on_node)
        with ExitStack() as stack:
            model = library.load_model(path)
            stack.callback(library.llama_model_free, model)
            self._vocabulary = library.llama_model_get_vocab(model)
            self._layers = library.llama_model_n_layer(model)
            self._context = library.new_context(
                model,
                n_ctx=1024,
                n_batch=1024,
                n_ubatch=1024,
                n_threads=1,
                n_threads_batch=1,
                cb_eval=c.cast(self._callback, c.c_void_p).value,
            )
            stack.callback(library.llama_free, self._context)
            self._release = stack.pop_all()

    def forward(self, tokens: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Residual streams (layers, tokens, width) and logits (tokens, vocabulary) of a prompt."""
        self._library.llama_memory_clear(self._library.llama_get_memory(self._context), True)
        logits = self._decode(tokens, 0)
        streams = [self._streams[f"l_out-{layer}"] for layer in range(self._layers)]
        return np.stack(streams), logits

    def continue_greedily(self, tokens: tuple[int, ...], count: int) -> list[int]:
        """The likeliest ``count`` tokens after a prompt, fewer if the model stops."""
        _, logits = self.forward(tokens)
        answer: list[int] = []
        while len(answer) < count:
            token = int(logits[-1].argmax())
            if self._library.llama_vocab_is_eog(self._vocabulary, token):
                break
            answer.append(token)
            logits = self._decode((token,), len(tokens) + len(answer) - 1)
        return answer

    def close(self) -> None:
        self._release.close()

    def _decode(self, tokens: tuple[int, ...], start: int) -> NDArray[np.float32]:
        n = len(tokens)
        token = np.array(tokens, dtype=np.int32)
        position = np.arange(start, start + n, dtype=np.int32)
        ones = np.ones(n, dtype=np.int32)
        sequence = np.zeros(1, dtype=np.int32)
        sequences = np.full(n, sequence.ctypes.data, dtype=np.uintp)
        wanted = np.ones(n, dtype=np.int8)
        arrays = (position, ones, sequences, wanted)
        batch = Batch(n, token.ctypes.data, None, *(array.ctypes.data for array in arrays))
        assert self._library.llama_decode(self._context, batch) == 0
        size = self._library.llama_vocab_n_tokens(self._vocabulary)
        first = self._library.llama_get_logits_ith(self._context, 0)
        return np.ctypeslib.as_array(c.cast(first, c.POINTER(c.c_float)), (n, size)).copy()

    def _on_node(self, tensor: int, ask: bool, _user: int | None) -> bool:
        name = c.string_at(tensor + TENSOR_NAME_AT).decode()
        if name.startswith("l_out-") and not ask:
            width, rows = (c.c_int64 * 2).from_address(tensor + TENSOR_NE_AT)
            values = np.empty((rows, width), dtype=np.float32)
            self._library.ggml_backend_tensor_get(tensor, values.ctypes.data, 0, values.nbytes)
            self._streams[name] = values
        return name.startswith("l_out-") or not ask
