"""A library whose layout is not the expected one is refused before it can do harm."""

from __future__ import annotations

import ctypes as c
import importlib.metadata
import platform
import sys

import numpy as np
import pytest
from llamacpp_requests import ask, cosines, country

from foretell.errors import EngineUnavailableError, ModelFileError
from foretell.prefill import resolve_weights
from foretell.prefill.engines.llamacpp import (
    LlamaCppEngine,
    _capi,
    _engine,
    describe_library,
)
from foretell.records import ReadPoint
from foretell.threads import default_threads

XLLAMACPP, LLAMA_CPP_PYTHON = _capi._BINDINGS
linux_x86_64 = pytest.mark.skipif(
    (platform.system(), platform.machine()) != ("Linux", "x86_64"),
    reason="how a struct is returned shows its size only on Linux x86-64",
)


def test_the_library_in_use_is_named_with_its_version():
    binding = _capi.installed_binding()
    assert describe_library().startswith(f"{binding.distribution} {binding.version}")


@pytest.mark.parametrize(
    ("defaults", "field", "value"),
    [
        ("_MODEL_DEFAULTS", "use_extra_bufts", False),
        ("_MODEL_DEFAULTS", "n_gpu_layers", 7),
        ("_CONTEXT_DEFAULTS", "n_ctx", 4096),
        ("_CONTEXT_DEFAULTS", "swa_full", False),
    ],
)
def test_an_unexpected_default_is_refused_by_the_name_of_its_field(
    monkeypatch, defaults, field, value
):
    monkeypatch.setitem(getattr(_capi, defaults), field, value)
    with pytest.raises(EngineUnavailableError, match=rf"\.{field} is .*, wanted {value!r}"):
        _capi.LlamaLibrary(_capi.installed_binding())


def with_fields(layout, fields):
    return type(layout.__name__, (c.Structure,), {"_fields_": fields})


def one_field_more(layout, place):
    fields = list(layout._fields_)
    fields.insert(place, ("inserted", c.c_void_p))
    return with_fields(layout, fields)


@linux_x86_64
@pytest.mark.parametrize("place", [0, 10, 26, -1])
def test_a_struct_with_one_field_too_many_is_refused(monkeypatch, place):
    binding = _capi.installed_binding()
    wrong = one_field_more(binding.context_params, place)
    monkeypatch.setattr(_capi, "_BINDINGS", ())
    with pytest.raises(EngineUnavailableError, match=f"{wrong.__name__} has .* bytes, .* written"):
        _capi.LlamaLibrary(
            _capi._Binding(binding.distribution, binding.module, binding.version, wrong)
        )


@pytest.mark.parametrize("place", [0, 10, 20, 26])
def test_a_shifted_struct_is_refused_by_its_defaults_alone(monkeypatch, place):
    monkeypatch.setattr(_capi.platform, "system", lambda: "elsewhere")
    binding = _capi.installed_binding()
    wrong = one_field_more(binding.context_params, place)
    with pytest.raises(EngineUnavailableError, match=rf"{wrong.__name__}\.\w+ is "):
        _capi.LlamaLibrary(
            _capi._Binding(binding.distribution, binding.module, binding.version, wrong)
        )


def test_a_function_that_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(_capi._SIGNATURES, "llama_of_another_day", (None, []))
    with pytest.raises(EngineUnavailableError, match="no function 'llama_of_another_day'"):
        _capi.LlamaLibrary(_capi.installed_binding())


def versions(**installed):
    def version(distribution):
        try:
            return installed[distribution.replace("-", "_")]
        except KeyError:
            raise importlib.metadata.PackageNotFoundError(distribution) from None

    return version


def test_another_version_is_refused_with_the_one_wanted(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", versions(xllamacpp="1.0"))
    with pytest.raises(EngineUnavailableError, match=r"xllamacpp 1\.0 \(wanted .*foretell\[llam"):
        _capi.installed_binding()


def test_no_library_is_an_error_with_the_cure(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", versions())
    with pytest.raises(EngineUnavailableError, match=r"found none; run: pip install 'foretell\["):
        _capi.installed_binding()


def test_the_other_library_is_taken_where_it_is_the_one_there(monkeypatch):
    monkeypatch.setattr(importlib.metadata, "version", versions(llama_cpp_python="0.3.36+cpu"))
    assert _capi.installed_binding() is LLAMA_CPP_PYTHON


@pytest.mark.parametrize(("at", "what"), [("TENSOR_NE_AT", "width"), ("TENSOR_NB_AT", "row of")])
def test_a_tensor_laid_out_differently_is_refused_when_the_first_one_is_seen(
    make_smollm2, monkeypatch, at, what
):
    from foretell.prefill.engines.llamacpp import _tap

    engine = make_smollm2()
    monkeypatch.setattr(_tap, at, getattr(_tap, at) + 8)
    with pytest.raises(EngineUnavailableError, match=f"laid out differently than expected.*{what}"):
        ask(engine, country("Rome"), [ReadPoint(3)])
    engine.close()


def test_a_file_that_only_llama_cpp_finds_unusable_is_a_model_file_error(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    weights = resolve_weights(f"file:{path}", cache=tmp_path)
    with pytest.raises(ModelFileError, match=r"cannot load tiny\.gguf: .*wanted a GGUF file"):
        LlamaCppEngine(path, weights_sha256=weights.sha256, source=weights.source)


def test_a_context_that_cannot_be_made_frees_the_model(make_smollm2, monkeypatch):
    freed = []
    library = _engine.load_library()
    free = library.llama_model_free
    monkeypatch.setattr(
        library, "llama_model_free", lambda model: (freed.append(model), free(model))
    )
    monkeypatch.setattr(type(library), "new_context", lambda *_, **__: None)
    with pytest.raises(EngineUnavailableError, match="fewer pool_tokens"):
        make_smollm2()
    assert len(freed) == 1


@linux_x86_64
def test_the_node_filter_runs_as_machine_code(smollm2):
    assert smollm2._tap.filter.native


def test_one_core_is_left_to_others():
    assert default_threads() >= 1


def test_the_other_library_gives_the_same_activations_and_answers(
    make_smollm2, smollm2, monkeypatch
):
    for binding in (XLLAMACPP, LLAMA_CPP_PYTHON):
        pytest.importorskip(binding.module, reason=f"{binding.distribution} is not installed")
    libraries = {b.distribution: _capi.LlamaLibrary(b) for b in (XLLAMACPP, LLAMA_CPP_PYTHON)}
    points = [ReadPoint(layer, "tokens") for layer in range(smollm2.identity.n_layers)]
    seen = []
    for library in libraries.values():
        monkeypatch.setattr(_engine, "load_library", lambda library=library: library)
        with make_smollm2() as engine:
            seen.append([ask(engine, country(city), points) for city in ("Rome", "Delhi")])
    for (one, one_answer), (other, other_answer) in zip(*seen, strict=True):
        assert one_answer.text == other_answer.text
        for point in points:
            assert cosines(one[point], other[point]).min() > 0.997
    assert "llama_cpp" in sys.modules
    assert np.isfinite(one_answer.mean_logprob)
