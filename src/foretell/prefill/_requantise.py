"""The same weights in a quantisation that the engine has a fast kernel for."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.prefill._cache import appears_whole, cache_folder, file_sha256
from foretell.prefill._gguf_header import TensorEntry, read_gguf_header
from foretell.prefill._weights import Progress, Weights

_Q4_1 = 3
_TYPES = {"q4_0": (2, 2), "q8_0": (8, 7)}  # of a tensor, and general.file_type
_Q4_1_BYTES = 20
_BLOCKS_AT_ONCE = 1 << 15


def requantise(
    weights: Weights,
    to: Literal["q8_0", "q4_0"] = "q8_0",
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Weights:
    """Weights whose Q4_1 tensors are rewritten in another type; unchanged when there are none.

    llama.cpp has no fast kernel for Q4_1. Q8_0 holds its values almost exactly and takes 0.6 of
    the time. Q4_0 takes half, but loses a second time what four bits cannot say: answers get
    worse (``docs/decisions/0008-requantisation.md``). Everything else in the file stays as it
    is, byte for byte, so the same source always gives the same file. It is made once and kept in
    ``cache``.
    """
    tensors = read_gguf_header(weights.path).tensors
    if all(tensor.type != _Q4_1 for tensor in tensors):
        return weights
    cache = cache or cache_folder()
    target = cache / "requantised" / f"{weights.path.stem}-{weights.sha256[:16]}-{to}.gguf"
    if not target.is_file():
        if progress:
            progress(f"requantising {weights.path.name} from Q4_1 to {to.upper()}, once")
        with appears_whole(target) as partial:
            _rewrite(weights.path, partial, to)
    return Weights(
        path=target,
        sha256=file_sha256(target, cache),
        source=weights.source,
        revision=weights.revision,
    )


def _rewrite(source: Path, target: Path, to: str) -> None:
    tensor_type, file_type = _TYPES[to]
    header = read_gguf_header(source)
    data = np.memmap(source, dtype=np.uint8, mode="r")
    head = bytearray(data[: header.data_start].tobytes())
    if position := header.settings.get("general.file_type"):
        struct.pack_into("<I", head, position, file_type)
    with target.open("wb") as out:
        out.write(head)
        for tensor in header.tensors:
            kind = tensor_type if tensor.type == _Q4_1 else tensor.type
            offset = out.tell() - header.data_start
            struct.pack_into("<IQ", head, tensor.type_position, kind, offset)
            _write_tensor(out, tensor, data, tensor_type)
            out.write(bytes(-out.tell() % header.alignment))
        out.seek(0)
        out.write(head)


def _write_tensor(
    out: BinaryIO, tensor: TensorEntry, data: NDArray[np.uint8], tensor_type: int
) -> None:
    old = data[tensor.start : tensor.end]
    if tensor.type != _Q4_1:
        out.write(old.tobytes())
        return
    step = _BLOCKS_AT_ONCE * _Q4_1_BYTES  # bounds the memory of float32 copies
    for first in range(0, len(old), step):
        out.write(_from_q4_1(old[first : first + step], tensor_type).tobytes())


def _from_q4_1(blocks: NDArray[np.uint8], tensor_type: int) -> NDArray[np.uint8]:
    from gguf import GGMLQuantizationType, quants

    row = blocks[np.newaxis]  # gguf works through rows in groups of 16: many small ones are slow
    values = quants.dequantize(row, GGMLQuantizationType.Q4_1)
    return quants.quantize(values, GGMLQuantizationType(tensor_type))
