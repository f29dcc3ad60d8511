"""llama.cpp's C API through ctypes: the one file that knows struct layouts.

Two libraries carry the API: the prebuilt ``xllamacpp`` wheel (the default) and
``llama-cpp-python`` (other platforms, GPUs). Both are pinned, because the layout of the
parameter structs moves between llama.cpp builds and a wrong offset corrupts memory in silence.
Each layout is therefore checked when the library is loaded: the size the library writes (where
the calling convention lets us see it) and the value of every default must be the expected ones.
"""

from __future__ import annotations

import ctypes as c
from typing import Final

EvalCallback: Final = c.CFUNCTYPE(c.c_bool, c.c_void_p, c.c_bool, c.c_void_p)
LogCallback: Final = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)

# ggml_tensor: type, buffer, ne[4], nb[4], op, op_params[16], flags, src[10], view_src, view_offs,
# data, name[64]. Only these four are read, and `check_tensor_layout` proves them on a live tensor.
_TENSOR_TYPE_AT: Final = 0
TENSOR_NE_AT: Final = 16
TENSOR_NB_AT: Final = 48
TENSOR_DATA_AT: Final = 248
TENSOR_NAME_AT: Final = 256


class ModelParams(c.Structure):
    _fields_ = [
        ("devices", c.c_void_p),
        ("tensor_buft_overrides", c.c_void_p),
        ("n_gpu_layers", c.c_int32),
        ("split_mode", c.c_int32),
        ("load_mode", c.c_int32),
        ("lazy_mode", c.c_int32),
        ("main_gpu", c.c_int32),
        ("tensor_split", c.c_void_p),
        ("progress_callback", c.c_void_p),
        ("progress_callback_user_data", c.c_void_p),
        ("kv_overrides", c.c_void_p),
        ("vocab_only", c.c_bool),
        ("check_tensors", c.c_bool),
        ("use_extra_bufts", c.c_bool),
        ("no_host", c.c_bool),
        ("no_alloc", c.c_bool),
        ("load_mtp", c.c_bool),
    ]


_CONTEXT_HEAD: Final = [
    ("n_ctx", c.c_uint32),
    ("n_batch", c.c_uint32),
    ("n_ubatch", c.c_uint32),
    ("n_seq_max", c.c_uint32),
    ("n_rs_seq", c.c_uint32),
    ("n_outputs_max", c.c_uint32),
    ("n_outputs_max_per_seq", c.c_uint32),
    ("n_threads", c.c_int32),
    ("n_threads_batch", c.c_int32),
    ("ctx_type", c.c_int32),
    ("rope_scaling_type", c.c_int32),
    ("pooling_type", c.c_int32),
    ("attention_type", c.c_int32),
    ("flash_attn_type", c.c_int32),
    ("rope_freq_base", c.c_float),
    ("rope_freq_scale", c.c_float),
    ("yarn_ext_factor", c.c_float),
    ("yarn_attn_factor", c.c_float),
    ("yarn_beta_fast", c.c_float),
    ("yarn_beta_slow", c.c_float),
    ("yarn_orig_ctx", c.c_uint32),
    ("defrag_thold", c.c_float),
    ("cb_eval", c.c_void_p),
    ("cb_eval_user_data", c.c_void_p),
    ("type_k", c.c_int32),
    ("type_v", c.c_int32),
]
_CONTEXT_TAIL: Final = [
    ("abort_callback", c.c_void_p),
    ("abort_callback_data", c.c_void_p),
    ("embeddings", c.c_bool),
    ("offload_kqv", c.c_bool),
    ("no_perf", c.c_bool),
    ("op_offload", c.c_bool),
    ("swa_full", c.c_bool),
    ("kv_unified", c.c_bool),
    ("samplers", c.c_void_p),
    ("n_samplers", c.c_size_t),
    ("ctx_other", c.c_void_p),
]


class ContextParams(c.Structure):
    """Layout of llama-cpp-python 0.3.36."""

    _fields_ = [*_CONTEXT_HEAD, *_CONTEXT_TAIL]


class ContextParamsXllamacpp(c.Structure):
    """Layout of llama.cpp b11549: one field more after the cache types (zero by default)."""

    _fields_ = [*_CONTEXT_HEAD, ("reserved", c.c_void_p), *_CONTEXT_TAIL]
