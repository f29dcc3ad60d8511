"""llama.cpp without a callback and without the engine: what a prefill costs when nobody looks."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from foretell.prefill.engines.llamacpp._batch import BatchRows
from foretell.prefill.engines.llamacpp._capi import load_library


class PlainContext:
    """One model in a context set up as the engine's is, but for the callback."""

    def __init__(self, path: Path, *, threads: int, tokens: int = 4096) -> None:
        self._library = library = load_library()
        self._model = library.load_model(path)
        self._context = library.new_context(
            self._model,
            n_ctx=tokens,
            n_batch=512,
            n_ubatch=512,
            n_seq_max=24,
            n_outputs_max=64,
            n_outputs_max_per_seq=0,
            n_threads=threads,
            n_threads_batch=threads,
            kv_unified=True,
            no_perf=True,
        )
        self._memory = library.llama_get_memory(self._context)
        self._rows = BatchRows(512)

    def prefill(self, tokens: Sequence[int]) -> float:
        """Seconds of one prefill up to its last token's logits."""
        start = time.perf_counter()
        self._rows.clear()
        self._rows.add(tokens, 0, 0, outputs="last")
        assert self._library.llama_decode(self._context, self._rows.batch()) == 0
        assert self._library.llama_get_logits_ith(self._context, len(tokens) - 1)
        seconds = time.perf_counter() - start
        self._library.llama_memory_seq_rm(self._memory, 0, -1, -1)
        return seconds

    def close(self) -> None:
        self._library.llama_free(self._context)
        self._library.llama_model_free(self._model)
