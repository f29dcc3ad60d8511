"""Choosing the next token from logits, with llama.cpp's own samplers."""

from __future__ import annotations

import ctypes as c
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.prefill.engines.llamacpp._capi import LlamaLibrary, TokenDataArray
from foretell.records import Sampling

_TOKEN_DATA: Final = np.dtype([("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
_RANDOM_SEED: Final = 0xFFFFFFFF  # llama.cpp's word for "seed yourself"


class Sampler:
    """Greedy at temperature 0; else temperature, then top_p, then a draw."""

    def __init__(self, library: LlamaLibrary, sampling: Sampling) -> None:
        self._library = library
        self._chain: int | None = None
        if sampling.temperature > 0:
            seed = _RANDOM_SEED if sampling.seed is None else sampling.seed & 0x7FFFFFFF
            self._chain = library.llama_sampler_chain_init(
                library.llama_sampler_chain_default_params()
            )
            for link in (
                library.llama_sampler_init_temp(sampling.temperature),
                library.llama_sampler_init_top_p(sampling.top_p, 1),
                library.llama_sampler_init_dist(seed),
            ):
                library.llama_sampler_chain_add(self._chain, link)

    def choose(self, logits: NDArray[np.float32]) -> int:
        """The next token."""
        if self._chain is None:
            return int(np.argmax(logits))
        candidates = np.empty(len(logits), dtype=_TOKEN_DATA)
        candidates["id"] = np.arange(len(logits), dtype=np.int32)
        candidates["logit"] = logits
        candidates["p"] = 0
        view = TokenDataArray(candidates.ctypes.data, len(logits), -1, False)
        self._library.llama_sampler_apply(self._chain, c.byref(view))
        # The chain may have shortened and reordered the array in place.
        token = int(candidates["id"][view.selected])
        self._library.llama_sampler_accept(self._chain, token)
        return token

    def close(self) -> None:
        """Free the chain; safe to call twice."""
        if self._chain is not None:
            self._library.llama_sampler_free(self._chain)
            self._chain = None
