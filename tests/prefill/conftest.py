import gguf
import numpy as np
import pytest

pytest.register_assert_rewrite("foretell.prefill.testing")


@pytest.fixture
def write_gguf():
    """Writes a small GGUF file: a Q4_1, a Q4_0 and an F32 tensor, settings of every kind."""

    def write(path, *, seed=0, q4_1=True, alignment=32):
        rng = np.random.default_rng(seed)
        writer = gguf.GGUFWriter(path, "llama")
        writer.add_custom_alignment(alignment)
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_1)
        writer.add_name("tiny é")
        writer.add_rope_freq_base(1e5)
        writer.add_bool("tiny.flag", True)
        writer.add_uint64("tiny.large", 2**40)
        writer.add_token_list([b"a", "é".encode(), b""])
        writer.add_token_scores([0.5, 1.5, -2.0])
        for name, kind in (("first", "Q4_1" if q4_1 else "Q4_0"), ("second", "Q4_0")):
            quantised = gguf.GGMLQuantizationType[kind]
            values = rng.standard_normal((6, 64)).astype(np.float32)
            data = gguf.quants.quantize(values, quantised)
            writer.add_tensor(f"{name}.weight", data, raw_dtype=quantised)
        writer.add_tensor("norm.weight", rng.standard_normal(5).astype(np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        return path

    return write
