"""A decoder of the usual make, small enough to read: RMSNorm, RoPE, SwiGLU, in float64."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ConfigError

Array = NDArray[np.float64]

HEADS = 4
_EPSILON = 1e-6
_ROPE_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class Block:
    """Weights of one decoder block; vectors are rows, so each maps from its first axis."""

    query: Array
    key: Array
    value: Array
    output: Array
    gate: Array
    up: Array
    down: Array


@dataclass(slots=True)
class KeysAndValues:
    """The KV cache of one sequence: (tokens, heads, width of a head) for each layer."""

    keys: list[Array]
    values: list[Array]

    @classmethod
    def empty(cls, layers: int, width: int) -> KeysAndValues:
        """Room for no token yet."""
        nothing = np.empty((0, HEADS, width // HEADS))
        return cls([nothing] * layers, [nothing] * layers)

    def first(self, tokens: int) -> KeysAndValues:
        """Those of the first ``tokens``; arrays are never written to, so they are shared."""
        return KeysAndValues([k[:tokens] for k in self.keys], [v[:tokens] for v in self.values])

    def __len__(self) -> int:
        return len(self.keys[-1])


class Decoder:
    """Weights drawn from a seed; ``n_inputs`` tokens go in, ``n_outputs`` can come out."""

    def __init__(
        self, *, seed: int, layers: int, width: int, n_inputs: int, n_outputs: int
    ) -> None:
        if layers < 1 or width < 2 * HEADS or width % (2 * HEADS):
            raise ConfigError(
                f"a tiny model cannot have {layers} layers of width {width}; wanted at least 1 "
                f"layer and a width that {2 * HEADS} divides"
            )
        rng = np.random.default_rng(seed)

        def drawn(rows: int, columns: int) -> Array:
            return rng.standard_normal((rows, columns)) / np.sqrt(rows)

        hidden = 2 * width
        self.width = width
        self.embedding = drawn(n_inputs, width) * np.sqrt(n_inputs)
        self.blocks = [
            Block(
                query=drawn(width, width),
                key=drawn(width, width),
                value=drawn(width, width),
                output=drawn(width, width),
                gate=drawn(width, hidden),
                up=drawn(width, hidden),
                down=drawn(hidden, width),
            )
            for _ in range(layers)
        ]
        self.head = drawn(width, n_outputs) * 3  # sharp enough that answers do not wander

    def sha256(self) -> str:
        """Hash of the weights."""
        digest = hashlib.sha256(self.embedding.tobytes())
        for block in self.blocks:
            for name in Block.__slots__:
                digest.update(getattr(block, name).tobytes())
        digest.update(self.head.tobytes())
        return digest.hexdigest()

    def run(self, tokens: tuple[int, ...], cache: KeysAndValues) -> Iterator[tuple[int, Array]]:
        """Evaluate ``tokens`` after those in ``cache``, a layer at each step.

        Yields (layer, residual stream as it leaves the block, (tokens, width)). Whoever stops
        asking stops the computation: the layers after it are never evaluated, and the cache
        lacks these tokens there.
        """
        stream = self.embedding[list(tokens)]
        positions = np.arange(len(cache), len(cache) + len(tokens))
        for layer, block in enumerate(self.blocks):
            stream = stream + self._attend(layer, block, _normed(stream), positions, cache)
            normed = _normed(stream)
            gate = normed @ block.gate
            stream = stream + (gate / (1 + np.exp(-gate)) * (normed @ block.up)) @ block.down
            yield layer, stream

    def logits(self, stream: Array) -> Array:
        """Of the token to come, from the last layer's residual stream at one token."""
        return _normed(stream) @ self.head

    def _attend(
        self,
        layer: int,
        block: Block,
        normed: Array,
        positions: NDArray[np.int64],
        cache: KeysAndValues,
    ) -> Array:
        split = (len(normed), HEADS, self.width // HEADS)
        queries = _rotated((normed @ block.query).reshape(split), positions)
        keys = _rotated((normed @ block.key).reshape(split), positions)
        keys = cache.keys[layer] = np.concatenate([cache.keys[layer], keys])
        values = np.concatenate([cache.values[layer], (normed @ block.value).reshape(split)])
        cache.values[layer] = values
        scores = np.einsum("qhd,khd->hqk", queries, keys) / np.sqrt(split[-1])
        scores[:, positions[:, np.newaxis] < np.arange(len(keys))] = -np.inf
        weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("hqk,khd->qhd", weights, values).reshape(len(normed), -1) @ block.output


def _normed(stream: Array) -> Array:
    return stream / np.sqrt((stream**2).mean(axis=-1, keepdims=True) + _EPSILON)


def _rotated(vectors: Array, positions: NDArray[np.int64]) -> Array:
    half = vectors.shape[-1] // 2
    turns = positions[:, np.newaxis, np.newaxis] * _ROPE_BASE ** (-np.arange(half) / half)
    first, second = vectors[..., :half], vectors[..., half:]
    return np.concatenate(
        [
            first * np.cos(turns) - second * np.sin(turns),
            second * np.cos(turns) + first * np.sin(turns),
        ],
        axis=-1,
    )
