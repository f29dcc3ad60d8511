import gguf
import numpy as np
import pytest

from foretell.prefill import requantise, resolve_weights


@pytest.mark.parametrize(
    ("to", "tensor_type", "file_type"),
    [
        ("q8_0", gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
        ("q4_0", gguf.GGMLQuantizationType.Q4_0, gguf.LlamaFileType.MOSTLY_Q4_0),
    ],
)
def test_only_the_q4_1_tensors_change(write_gguf, tmp_path, to, tensor_type, file_type):
    source = write_gguf(tmp_path / "tiny.gguf")
    weights = resolve_weights(f"file:{source}", cache=tmp_path / "cache")
    made = requantise(weights, to, cache=tmp_path / "cache")
    assert made.sha256 != weights.sha256
    assert (made.source, made.revision) == (weights.source, weights.revision)
    before, after = gguf.GGUFReader(source), gguf.GGUFReader(made.path)
    for old, new in zip(before.tensors, after.tensors, strict=True):
        assert (old.name, *old.shape) == (new.name, *new.shape)
        if old.name == "first.weight":
            assert new.tensor_type == tensor_type
            values = gguf.quants.dequantize(old.data, old.tensor_type)
            wanted = gguf.quants.quantize(values, tensor_type)
            np.testing.assert_array_equal(new.data, wanted)
        else:
            assert old.tensor_type == new.tensor_type
            np.testing.assert_array_equal(old.data, new.data)
    for name, field in before.fields.items():
        if name != "general.file_type":
            assert after.fields[name].contents() == field.contents()
    assert after.fields["general.file_type"].contents() == file_type


def test_q8_0_holds_the_values_of_q4_1_almost_exactly(write_gguf, tmp_path):
    source = write_gguf(tmp_path / "tiny.gguf")
    made = requantise(resolve_weights(f"file:{source}", cache=tmp_path), cache=tmp_path)
    old, new = (
        gguf.quants.dequantize(tensor.data, tensor.tensor_type)
        for tensor in (gguf.GGUFReader(source).tensors[0], gguf.GGUFReader(made.path).tensors[0])
    )
    # Half a step of 1/127 of the largest value of a block.
    assert np.abs(old - new).max() <= np.abs(old).max() / 127 * 0.51


def test_the_same_source_gives_the_same_bytes(write_gguf, tmp_path):
    weights = resolve_weights(f"file:{write_gguf(tmp_path / 'tiny.gguf')}", cache=tmp_path)
    one, other = (requantise(weights, cache=tmp_path / name) for name in ("one", "other"))
    assert one.path != other.path
    assert one.sha256 == other.sha256


def test_it_is_made_once(write_gguf, tmp_path):
    weights = resolve_weights(f"file:{write_gguf(tmp_path / 'tiny.gguf')}", cache=tmp_path)
    told = []
    one, other = (requantise(weights, cache=tmp_path, progress=told.append) for _ in range(2))
    assert one == other
    assert told == ["requantising tiny.gguf from Q4_1 to Q8_0, once"]


def test_two_sources_of_one_name_are_kept_apart(write_gguf, tmp_path):
    paths = []
    for seed in (1, 2):
        source = write_gguf(tmp_path / "tiny.gguf", seed=seed)
        weights = resolve_weights(f"file:{source}", cache=tmp_path)
        paths.append(requantise(weights, cache=tmp_path).path)
    assert len(set(paths)) == 2


def test_weights_without_such_tensors_are_returned_as_they_are(write_gguf, tmp_path):
    source = write_gguf(tmp_path / "tiny.gguf", q4_1=False)
    weights = resolve_weights(f"file:{source}", cache=tmp_path)
    assert requantise(weights, cache=tmp_path) is weights
