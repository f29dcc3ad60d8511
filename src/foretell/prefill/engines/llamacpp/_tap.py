"""The scheduler's evaluation callback: reads residual streams, and stops a graph half-way.

llama.cpp calls it for every node of the graph before computing it (``ask``: do you want this
one?) and again after the wanted ones. Returning ``False`` from the second call ends the graph.
On a context that runs on the CPU alone the graph is one piece, so nothing after it is computed.
"""

from __future__ import annotations

import ctypes as c
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from foretell.errors import EngineUnavailableError
from foretell.prefill.engines.llamacpp._capi import (
    TENSOR_NAME_AT,
    TENSOR_NB_AT,
    TENSOR_NE_AT,
    EvalCallback,
    LlamaLibrary,
)
from foretell.prefill.engines.llamacpp._node_filter import NodeFilter

_F32: Final = 0


@dataclass(frozen=True, slots=True)
class LayerRows:
    """The residual stream as it leaves one layer, still in the engine's memory."""

    tensor: int
    rows: int
    width: int
    row_bytes: int
    library: LlamaLibrary

    def read(self, first: int, count: int) -> NDArray[np.float32]:
        """Copy ``count`` rows from row ``first``: shape (count, width)."""
        out = np.empty((count, self.width), dtype=np.float32)
        self.library.ggml_backend_tensor_get(
            self.tensor, out.ctypes.data, first * self.row_bytes, out.nbytes
        )
        return out


OnLayer = Callable[[int, LayerRows], bool]
"""Called as each wanted layer is complete; ``False`` stops the graph."""


class Tap:
    """The callback of one context, which it must outlive."""

    def __init__(self, library: LlamaLibrary, width: int) -> None:
        self._library = library
        self._width = width
        self._wanted: dict[bytes, int] = {}
        self._on_layer: OnLayer | None = None
        self._error: BaseException | None = None
        self._stopped = False
        self.filter = NodeFilter(EvalCallback(self._on_node))

    def arm(self, layers: Collection[int], on_layer: OnLayer) -> None:
        """Read these layers during the next call."""
        self._wanted = {b"l_out-%d" % layer: layer for layer in layers}
        self._on_layer = on_layer
        self.filter.arm(bool(layers))

    def disarm(self) -> bool:
        """Read nothing more; whether the graph was stopped half-way.

        Raises what ``on_layer`` raised inside the callback.
        """
        self.filter.arm(False)
        self._wanted, self._on_layer = {}, None
        error, self._error = self._error, None
        stopped, self._stopped = self._stopped, False
        if error is not None:
            raise error
        return stopped

    def _on_node(self, tensor: int, ask: bool, _user: int | None) -> bool:
        wanted = self._wanted
        if not wanted:
            return False
        layer = wanted.get(c.string_at(tensor + TENSOR_NAME_AT))
        if ask or layer is None or self._on_layer is None:
            return layer is not None
        try:
            goes_on = self._on_layer(layer, self._rows(tensor))
            self._stopped = not goes_on
            return goes_on
        except BaseException as error:  # noqa: BLE001 - must not unwind through C; see `disarm`
            self._error = error
            return False

    def _rows(self, tensor: int) -> LayerRows:
        kind = c.c_int32.from_address(tensor).value
        width, rows = (c.c_int64 * 2).from_address(tensor + TENSOR_NE_AT)
        row_bytes = c.c_size_t.from_address(tensor + TENSOR_NB_AT + c.sizeof(c.c_size_t)).value
        if kind != _F32 or width != self._width or row_bytes != 4 * width:
            raise EngineUnavailableError(
                f"the residual stream is laid out differently than expected (type {kind}, width "
                f"{width}, row of {row_bytes} bytes; wanted float32 of width {self._width}); "
                "reinstall the pinned llama.cpp library: pip install 'foretell[llamacpp]'"
            )
        return LayerRows(tensor, rows, width, row_bytes, self._library)
