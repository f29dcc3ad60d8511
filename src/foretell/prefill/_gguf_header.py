"""The header of a GGUF file: enough to refuse a damaged one, and to find its tensors.

llama.cpp aborts the process on some damaged files, so they are looked at before it sees them.
The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import NoReturn

from foretell.errors import EngineUnavailableError, ModelFileError

_VERSIONS = (2, 3)
_DEFAULT_ALIGNMENT = 32
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALAR_BYTES = MappingProxyType(
    {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
)


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """One tensor: where its data lies, and where the header says so.

    ``start`` and ``end`` are positions in the file; they coincide for a type that is newer than
    the installed gguf package. ``type_position`` is where the header keeps the type (uint32),
    followed by the offset (uint64).
    """

    name: str
    shape: tuple[int, ...]
    type: int
    start: int
    end: int
    type_position: int


@dataclass(frozen=True, slots=True)
class GgufHeader:
    """What a GGUF file says of itself; ``settings`` maps its keys to where their values lie."""

    architecture: str
    alignment: int
    data_start: int
    settings: MappingProxyType[str, int]
    tensors: tuple[TensorEntry, ...]


def read_gguf_header(path: Path) -> GgufHeader:
    """The header of ``path``, having checked that the file holds all the data it promises.

    Raises ``ModelFileError`` for anything but a whole GGUF file of version 2 or 3.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] != b"GGUF":
            raise ModelFileError(
                f"{path} is not a GGUF file: it begins with {start[:4]!r}, wanted b'GGUF'; give "
                "the path of a .gguf file"
            )
        if size < len(start) + 16:
            _refuse_truncated(path, size, "its header")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                header = _Reader(path, data).header()
            except (struct.error, IndexError, OverflowError):
                _refuse_truncated(path, size, "its header")
            except UnicodeDecodeError as error:
                raise _damaged(path, "a name in its header is not text") from error
    for tensor in header.tensors:
        if tensor.end > size:
            _refuse_truncated(path, size, f"tensor {tensor.name!r}, which ends at {tensor.end}")
    return header


def _refuse_truncated(path: Path, size: int, what: str) -> NoReturn:
    raise ModelFileError(
        f"{path} is cut short: its {size} bytes end before {what} does; fetch the file again"
    )


def _damaged(path: Path, why: str) -> ModelFileError:
    return ModelFileError(f"{path} is a damaged GGUF file: {why}; fetch the file again")


def _type_sizes() -> dict[int, tuple[int, int]]:
    try:
        from gguf import GGML_QUANT_SIZES
    except ImportError as error:
        raise EngineUnavailableError(
            "GGUF weights are read with the gguf package, which is not installed; "
            "pip install 'foretell[llamacpp]'"
        ) from error
    return {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items()}


class _Reader:
    """Walks once through a header, remembering positions instead of values."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._position = 4  # after the magic

    def header(self) -> GgufHeader:
        version = self._number("<I")
        if version not in _VERSIONS:
            raise ModelFileError(
                f"{self._path} is GGUF version {version}, wanted 2 or 3 (little-endian); convert "
                "it with a current llama.cpp"
            )
        n_tensors, n_settings = self._number("<Q"), self._number("<Q")
        settings: dict[str, int] = {}
        kinds: dict[str, int] = {}
        for _ in range(n_settings):
            key = self._text()
            kinds[key] = self._number("<I")
            settings[key] = self._position
            self._skip(kinds[key])
        entries = [self._tensor_entry() for _ in range(n_tensors)]
        end_of_header = self._position
        alignment = self._setting(settings, "general.alignment", _DEFAULT_ALIGNMENT)
        if alignment < 1:
            raise _damaged(self._path, f"its alignment is {alignment}")
        if kinds.get("general.architecture") != _STRING:
            raise _damaged(self._path, "it does not name its architecture")
        data_start = -(-end_of_header // alignment) * alignment
        self._position = settings["general.architecture"]
        return GgufHeader(
            architecture=self._text(),
            alignment=alignment,
            data_start=data_start,
            settings=MappingProxyType(settings),
            tensors=self._placed(entries, data_start),
        )

    def _placed(
        self, entries: list[tuple[str, tuple[int, ...], int, int, int]], data_start: int
    ) -> tuple[TensorEntry, ...]:
        sizes = _type_sizes()
        tensors: list[TensorEntry] = []
        for name, shape, kind, offset, type_position in entries:
            # A type newer than the installed package: llama.cpp decides.
            values_per_block, block_bytes = sizes.get(kind, (1, 0))
            start = data_start + offset
            end = start + prod(shape) // values_per_block * block_bytes
            tensors.append(TensorEntry(name, shape, kind, start, end, type_position))
        return tuple(tensors)

    def _setting(self, settings: dict[str, int], key: str, default: int) -> int:
        if key not in settings:
            return default
        (value,) = struct.unpack_from("<I", self._data, settings[key])
        return int(value)

    def _tensor_entry(self) -> tuple[str, tuple[int, ...], int, int, int]:
        name = self._text()
        dimensions = self._number("<I")
        if dimensions > _MOST_DIMENSIONS:
            raise _damaged(self._path, f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(self._number("<Q") for _ in range(dimensions))
        type_position = self._position
        return name, shape, self._number("<I"), self._number("<Q"), type_position

    def _number(self, form: str) -> int:
        (value,) = struct.unpack_from(form, self._data, self._position)
        self._position += struct.calcsize(form)
        return int(value)

    def _text(self) -> str:
        length = self._number("<Q")
        start = self._position
        self._advance(length)
        return self._data[start : self._position].decode()

    def _advance(self, length: int) -> None:
        self._position += length
        if self._position > len(self._data):
            raise IndexError(self._position)

    def _skip(self, kind: int) -> None:
        if kind == _STRING:
            self._advance(self._number("<Q"))
        elif kind == _ARRAY:
            item, count = self._number("<I"), self._number("<Q")
            if item == _STRING:
                self._skip_texts(count)
            else:
                self._advance(count * self._scalar_bytes(item))
        else:
            self._advance(self._scalar_bytes(kind))

    def _skip_texts(self, count: int) -> None:
        # Vocabularies have some hundred thousand entries, so this loop is the whole cost.
        length_at, data, position = struct.Struct("<Q").unpack_from, self._data, self._position
        for _ in range(count):
            position += 8 + length_at(data, position)[0]
        self._position = position
        self._advance(0)

    def _scalar_bytes(self, kind: int) -> int:
        if kind not in _SCALAR_BYTES:
            raise _damaged(self._path, f"it has a value of the unknown type {kind}")
        return _SCALAR_BYTES[kind]
