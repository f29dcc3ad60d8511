import struct
import sys
from contextlib import suppress

import gguf
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from foretell.errors import EngineUnavailableError, ModelFileError
from foretell.prefill._gguf_header import read_gguf_header


@pytest.mark.parametrize("alignment", [32, 64])
def test_the_header_is_what_the_gguf_package_reads(write_gguf, tmp_path, alignment):
    path = write_gguf(tmp_path / "tiny.gguf", alignment=alignment)
    header, reader = read_gguf_header(path), gguf.GGUFReader(path)
    assert header.architecture == "llama"
    assert header.alignment == reader.alignment == alignment
    assert header.data_start == reader.data_offset
    fields = [name for name in reader.fields if not name.startswith("GGUF.")]
    assert list(header.settings) == fields
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.name == theirs.name
        assert ours.shape == tuple(theirs.shape)
        assert ours.type == theirs.tensor_type
        assert (ours.start, ours.end - ours.start) == (theirs.data_offset, theirs.n_bytes)


def test_a_file_cut_anywhere_is_refused(write_gguf, tmp_path):
    data = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "cut.gguf"
    # The last tensor's 20 bytes are padded to 32; without the padding it is still whole.
    for length in range(len(data) - 12):
        path.write_bytes(data[:length])
        with pytest.raises(ModelFileError, match=r"is cut short|is not a GGUF file"):
            read_gguf_header(path)
    path.write_bytes(data[:-12])
    assert read_gguf_header(path).tensors


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_file_with_any_byte_changed_is_read_or_refused(write_gguf, tmp_path, at, value):
    data = bytearray(write_gguf(tmp_path / "tiny.gguf").read_bytes())
    data[at % len(data)] = value
    path = tmp_path / "changed.gguf"
    path.write_bytes(data)
    with suppress(ModelFileError):
        read_gguf_header(path)


@pytest.mark.parametrize(
    ("at", "form", "value", "why"),
    [
        (0, "4s", b"PK\3\4", "begins with .* wanted b'GGUF'"),
        (4, "<I", 1, "version 1, wanted 2 or 3"),
        (4, ">I", 3, "version 50331648"),
        (8, "<Q", 2**60, "is cut short"),
        (16, "<Q", 2**60, "is cut short|unknown type|not text"),
    ],
)
def test_a_file_that_is_no_gguf_of_today_is_refused(write_gguf, tmp_path, at, form, value, why):
    path = write_gguf(tmp_path / "tiny.gguf")
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, at, value)
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=why):
        read_gguf_header(path)


TEXT, NUMBER = struct.Struct("<Q3s"), struct.Struct("<I")


@pytest.mark.parametrize(
    ("settings", "tensors", "why"),
    [
        ([TEXT.pack(3, b"key") + NUMBER.pack(99)], [], "it has a value of the unknown type 99"),
        ([TEXT.pack(3, b"\xff\xff\xff") + NUMBER.pack(4)], [], "a name in its header is not text"),
        ([], [TEXT.pack(3, b"key") + NUMBER.pack(5)], "tensor 'key' has 5 dimensions"),
        (
            [struct.pack("<Q17sII", 17, b"general.alignment", 4, 0)],
            [],
            "its alignment is 0",
        ),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, settings, tensors, why):
    path = tmp_path / "damaged.gguf"
    counts = struct.pack("<IQQ", 3, len(tensors), len(settings))
    path.write_bytes(b"GGUF" + counts + b"".join(settings + tensors) + bytes(8))
    with pytest.raises(ModelFileError, match=f"damaged GGUF file: {why}"):
        read_gguf_header(path)


def test_a_list_longer_than_any_file_is_refused(tmp_path):
    path = tmp_path / "damaged.gguf"
    texts = struct.pack("<Q3sIIQQQ", 3, b"key", 9, 8, 2, 2**63 - 1, 0)
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + texts)
    with pytest.raises(ModelFileError, match="is cut short"):
        read_gguf_header(path)


def test_without_the_gguf_package_its_extra_is_named(write_gguf, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(EngineUnavailableError, match=r"foretell\[llamacpp\]"):
        read_gguf_header(path)


def test_a_file_without_an_architecture_is_refused(tmp_path):
    path = tmp_path / "bare.gguf"
    path.write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(ModelFileError, match="does not name its architecture"):
        read_gguf_header(path)
