"""The arrays of one ``llama_decode`` call, allocated once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from foretell.prefill.engines.llamacpp._capi import Batch


class BatchRows:
    """Rows of the next call: a token, its position, its sequence, and whether it has logits."""

    def __init__(self, capacity: int) -> None:
        self.count = 0
        self.outputs = 0
        self._tokens = np.zeros(capacity, dtype=np.int32)
        self._positions = np.zeros(capacity, dtype=np.int32)
        self._sequences = np.zeros(capacity, dtype=np.int32)
        self._one_sequence_each = np.ones(capacity, dtype=np.int32)
        self._has_output = np.zeros(capacity, dtype=np.int8)
        # llama_batch.seq_id is an array of pointers, one list of sequences per row.
        self._sequence_of_row = (
            self._sequences.ctypes.data + self._sequences.itemsize * np.arange(capacity)
        ).astype(np.uintp)

    def clear(self) -> None:
        """Begin another call."""
        self.count = self.outputs = 0

    def add(
        self,
        tokens: Sequence[int],
        position: int,
        sequence: int,
        *,
        outputs: Literal["none", "last", "all"],
    ) -> None:
        """Append tokens of one sequence from ``position`` on."""
        first, end = self.count, self.count + len(tokens)
        self._tokens[first:end] = tokens
        self._positions[first:end] = np.arange(position, position + len(tokens))
        self._sequences[first:end] = sequence
        self._has_output[first:end] = outputs == "all"
        if outputs == "last":
            self._has_output[end - 1] = 1
        self.count = end
        self.outputs += {"none": 0, "last": 1, "all": len(tokens)}[outputs]

    def batch(self) -> Batch:
        """The call's arguments; valid until the next ``clear``."""
        return Batch(
            self.count,
            self._tokens.ctypes.data,
            None,
            self._positions.ctypes.data,
            self._one_sequence_each.ctypes.data,
            self._sequence_of_row.ctypes.data,
            self._has_output.ctypes.data,
        )
