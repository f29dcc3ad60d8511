"""llama.cpp's C API through ctypes: the one file that knows struct layouts.

Two libraries carry the API: the prebuilt ``xllamacpp`` wheel (the default) and
``llama-cpp-python`` (other platforms, GPUs). Both are pinned, because the layout of the
parameter structs moves between llama.cpp builds and a wrong offset corrupts memory in silence.
Each layout is therefore checked when the library is loaded: the size the library writes (where
the calling convention lets us see it) and the value of every default must be the expected ones.
"""

from __future__ import annotations

import ctypes as c
import importlib.metadata
import importlib.util
import platform
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from foretell.errors import EngineUnavailableError

EvalCallback: Final = c.CFUNCTYPE(c.c_bool, c.c_void_p, c.c_bool, c.c_void_p)
LogCallback: Final = c.CFUNCTYPE(None, c.c_int, c.c_char_p, c.c_void_p)

# Where ggml_tensor keeps what we read of it: type, buffer, ne[4], nb[4], op, op_params[16], flags,
# src[10], view_src, view_offs, data, name[64]. The engine proves these on the first live tensor
# (its name must be the one asked for, its first extent the model's width).
TENSOR_NE_AT: Final = 16
TENSOR_NB_AT: Final = 48
TENSOR_NAME_AT: Final = 256


class ModelParams(c.Structure):
    """``llama_model_params``, the same in both libraries."""

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


class Batch(c.Structure):
    """``llama_batch``: parallel arrays over the tokens of one call."""

    _fields_ = [
        ("n_tokens", c.c_int32),
        ("token", c.c_void_p),
        ("embd", c.c_void_p),
        ("pos", c.c_void_p),
        ("n_seq_id", c.c_void_p),
        ("seq_id", c.c_void_p),
        ("logits", c.c_void_p),
    ]


class TokenDataArray(c.Structure):
    """``llama_token_data_array``: what samplers work on."""

    _fields_ = [
        ("data", c.c_void_p),
        ("size", c.c_size_t),
        ("selected", c.c_int64),
        ("sorted", c.c_bool),
    ]


class SamplerChainParams(c.Structure):
    """``llama_sampler_chain_params``."""

    _fields_ = [("no_perf", c.c_bool)]


@dataclass(frozen=True, slots=True)
class _Binding:
    """One library that carries the C API, at the version whose layout is written down here."""

    distribution: str
    module: str
    version: str
    context_params: type[c.Structure]


_BINDINGS: Final = (
    _Binding("xllamacpp", "xllamacpp", "2026.10.11549", ContextParamsXllamacpp),
    _Binding("llama-cpp-python", "llama_cpp", "0.3.36", ContextParams),
)

# What the library must put into its default parameters, if the layout above is right. Between
# them these reach every part of the structs, so that a field inserted anywhere shows.
_MODEL_DEFAULTS: Final = {
    "n_gpu_layers": -1,
    "split_mode": 1,
    "load_mode": -1,
    "main_gpu": 0,
    "vocab_only": False,
    "check_tensors": False,
    "use_extra_bufts": True,
    "no_host": False,
    "no_alloc": False,
}
_CONTEXT_DEFAULTS: Final = {
    "n_ctx": 512,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_seq_max": 1,
    "n_rs_seq": 0,
    "n_threads": 4,
    "n_threads_batch": 4,
    "rope_scaling_type": -1,
    "pooling_type": -1,
    "attention_type": -1,
    "flash_attn_type": -1,
    "yarn_ext_factor": -1.0,
    "yarn_beta_slow": -1.0,
    "yarn_orig_ctx": 0,
    "defrag_thold": -1.0,
    "cb_eval": None,
    "type_k": 1,
    "type_v": 1,
    "abort_callback": None,
    "embeddings": False,
    "offload_kqv": True,
    "op_offload": True,
    "swa_full": True,
    "kv_unified": False,
    "samplers": None,
    "n_samplers": 0,
    "ctx_other": None,
}

_ptr, _i32, _u32, _bool, _str = c.c_void_p, c.c_int32, c.c_uint32, c.c_bool, c.c_char_p
_SIGNATURES: Final[dict[str, tuple[Any, list[Any]]]] = {
    "llama_backend_init": (None, []),
    "llama_log_set": (None, [LogCallback, _ptr]),
    "llama_model_free": (None, [_ptr]),
    "llama_model_get_vocab": (_ptr, [_ptr]),
    "llama_model_n_layer": (_i32, [_ptr]),
    "llama_model_n_embd": (_i32, [_ptr]),
    "llama_model_n_ctx_train": (_i32, [_ptr]),
    "llama_model_ftype": (_i32, [_ptr]),
    "llama_ftype_name": (_str, [_i32]),
    "llama_model_chat_template": (_str, [_ptr, _str]),
    "llama_model_has_encoder": (_bool, [_ptr]),
    "llama_model_is_recurrent": (_bool, [_ptr]),
    "llama_model_is_hybrid": (_bool, [_ptr]),
    "llama_vocab_n_tokens": (_i32, [_ptr]),
    "llama_vocab_get_text": (_str, [_ptr, _i32]),
    "llama_vocab_get_attr": (_i32, [_ptr, _i32]),
    "llama_vocab_bos": (_i32, [_ptr]),
    "llama_vocab_eos": (_i32, [_ptr]),
    "llama_vocab_get_add_bos": (_bool, [_ptr]),
    "llama_vocab_is_eog": (_bool, [_ptr, _i32]),
    "llama_tokenize": (_i32, [_ptr, _str, _i32, _ptr, _i32, _bool, _bool]),
    "llama_token_to_piece": (_i32, [_ptr, _i32, _ptr, _i32, _i32, _bool]),
    "llama_free": (None, [_ptr]),
    "llama_decode": (_i32, [_ptr, Batch]),
    "llama_get_logits_ith": (_ptr, [_ptr, _i32]),
    "llama_get_memory": (_ptr, [_ptr]),
    "llama_memory_clear": (None, [_ptr, _bool]),
    "llama_memory_seq_rm": (_bool, [_ptr, _i32, _i32, _i32]),
    "llama_memory_seq_cp": (None, [_ptr, _i32, _i32, _i32, _i32]),
    "llama_sampler_chain_default_params": (SamplerChainParams, []),
    "llama_sampler_chain_init": (_ptr, [SamplerChainParams]),
    "llama_sampler_chain_add": (None, [_ptr, _ptr]),
    "llama_sampler_init_temp": (_ptr, [c.c_float]),
    "llama_sampler_init_top_p": (_ptr, [c.c_float, c.c_size_t]),
    "llama_sampler_init_dist": (_ptr, [_u32]),
    "llama_sampler_apply": (None, [_ptr, c.POINTER(TokenDataArray)]),
    "llama_sampler_accept": (None, [_ptr, _i32]),
    "llama_sampler_free": (None, [_ptr]),
    "ggml_backend_tensor_get": (None, [_ptr, _ptr, c.c_size_t, c.c_size_t]),
}


class LlamaLibrary:
    """The C API of one loaded library: every function above as an attribute, layout checked."""

    def __init__(self, binding: _Binding) -> None:
        self.binding = binding
        self.recent_log: deque[str] = deque(maxlen=20)
        libraries = [c.CDLL(str(path)) for path in _shared_objects(binding)]
        for name, (result, arguments) in _SIGNATURES.items():
            function = _find(libraries, name, binding)
            function.restype, function.argtypes = result, arguments
            setattr(self, name, function)
        self._model_defaults = _checked_defaults(
            _find(libraries, "llama_model_default_params", binding),
            ModelParams,
            _MODEL_DEFAULTS,
            binding,
        )
        self._context_defaults = _checked_defaults(
            _find(libraries, "llama_context_default_params", binding),
            binding.context_params,
            _CONTEXT_DEFAULTS,
            binding,
        )
        self._load = _find(libraries, "llama_model_load_from_file", binding)
        self._load.restype, self._load.argtypes = _ptr, [_str, ModelParams]
        self._init = _find(libraries, "llama_init_from_model", binding)
        self._init.restype, self._init.argtypes = _ptr, [_ptr, binding.context_params]
        self._log_callback = LogCallback(self._on_log)  # kept: C holds the only other reference
        self.llama_log_set(self._log_callback, None)
        self.llama_backend_init()

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"{name} is not among the functions bound here; add its signature")

    def load_model(self, path: Path, **settings: Any) -> int | None:
        """A model handle, or ``None``; ``recent_log`` then says why."""
        params = ModelParams.from_buffer_copy(self._model_defaults)
        for name, value in settings.items():
            setattr(params, name, value)
        self.recent_log.clear()
        return self._load(str(path).encode(), params)

    def new_context(self, model: int, **settings: Any) -> int | None:
        """A context handle, or ``None``; ``recent_log`` then says why."""
        params = self.binding.context_params.from_buffer_copy(self._context_defaults)
        for name, value in settings.items():
            setattr(params, name, value)
        self.recent_log.clear()
        return self._init(model, params)

    def _on_log(self, level: int, text: bytes | None, _user: int | None) -> None:
        if level >= 3 and text:  # warnings and errors
            self.recent_log.append(text.decode(errors="replace").strip())


def installed_binding() -> _Binding:
    """The first of the supported libraries that is installed at the version written down here."""
    wrong: list[str] = []
    for binding in _BINDINGS:
        try:
            version = importlib.metadata.version(binding.distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
        if version.split("+")[0] == binding.version:
            return binding
        wrong.append(f"{binding.distribution} {version} (wanted {binding.version})")
    found = f"found {', '.join(wrong)}" if wrong else "found none"
    raise EngineUnavailableError(
        f"the llamacpp engine needs a llama.cpp library whose layout is known, {found}; "
        "run: pip install 'foretell[llamacpp]'"
    )


_loaded: dict[str, LlamaLibrary] = {}


def load_library() -> LlamaLibrary:
    """The installed library, loaded once per process (its log callback is global)."""
    binding = installed_binding()
    if binding.distribution not in _loaded:
        _loaded[binding.distribution] = LlamaLibrary(binding)
    return _loaded[binding.distribution]


def _shared_objects(binding: _Binding) -> list[Path]:
    spec = importlib.util.find_spec(binding.module)
    if spec is None or spec.origin is None:
        raise EngineUnavailableError(
            f"{binding.distribution} is listed as installed but cannot be found; reinstall it: "
            f"pip install --force-reinstall {binding.distribution}=={binding.version}"
        )
    folder = Path(spec.origin).parent
    if binding.module == "xllamacpp":
        found = sorted(folder.glob("xllamacpp.*.so")) or sorted(folder.glob("xllamacpp*.pyd"))
        return found[:1]
    libraries: list[Path] = []
    for stem in ("ggml-base", "llama"):
        for pattern in (f"lib{stem}.so", f"lib{stem}.dylib", f"{stem}.dll"):
            libraries += (folder / "lib").glob(pattern)
    return libraries


def _find(libraries: list[c.CDLL], name: str, binding: _Binding) -> Any:
    for library in libraries:
        if hasattr(library, name):
            return getattr(library, name)
    raise EngineUnavailableError(
        f"{binding.distribution} {binding.version} has no function {name!r} on this platform; "
        "install the other supported library (llama-cpp-python==0.3.36)"
    )


def _checked_defaults(
    function: Any, layout: type[c.Structure], expected: dict[str, Any], binding: _Binding
) -> bytes:
    """The library's default parameters, after proving that the layout reads them right."""
    if platform.machine() == "x86_64" and platform.system() == "Linux":
        written = _bytes_written(function)
        # The last bytes may be padding, which nobody writes.
        if not c.sizeof(layout) - 8 < written <= c.sizeof(layout):
            raise _layout_error(
                binding, f"{layout.__name__} has {c.sizeof(layout)} bytes, {written} are written"
            )
    function.restype, function.argtypes = layout, []
    defaults = function()
    for name, value in expected.items():
        if (got := getattr(defaults, name)) != value:
            raise _layout_error(binding, f"{layout.__name__}.{name} is {got!r}, wanted {value!r}")
    return bytes(defaults)


def _bytes_written(function: Any) -> int:
    """How many bytes a struct-returning function writes.

    The System V x86-64 convention returns a large struct through a pointer passed first, so the
    function can be handed a marked buffer.
    """
    mark = 0xA5
    buffer = (c.c_uint8 * 1024)(*([mark] * 1024))
    function.restype, function.argtypes = c.c_void_p, [c.c_void_p]
    function(buffer)
    return max((i + 1 for i, byte in enumerate(buffer) if byte != mark), default=0)


def _layout_error(binding: _Binding, what: str) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"{binding.distribution} lays its parameters out differently than expected ({what}); "
        f"reinstall the pinned version: pip install {binding.distribution}=={binding.version}"
    )


def describe_library() -> str:
    """The library in use, for people; raises ``EngineUnavailableError`` when there is none."""
    binding = load_library().binding
    return f"{binding.distribution} {binding.version}, its struct layout is the expected one"
