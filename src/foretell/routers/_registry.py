"""Routers by name, ours and those that other packages bring."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import entry_points
from types import MappingProxyType

from foretell.errors import ConfigError
from foretell.routers._cascade import CascadeRouter
from foretell.routers._domain import domain_router
from foretell.routers._embedding import embedding_router
from foretell.routers._fixed import ConstantRouter, RandomRouter
from foretell.routers._gain import GainRouter
from foretell.routers._keyword import keyword_router
from foretell.routers._llm import Ask, LlmRouter
from foretell.routers._matrix_factorisation import matrix_factorisation_router
from foretell.routers._neighbours import knn_router
from foretell.routers._probe import ProbeRouter
from foretell.routers._protocol import Router
from foretell.routers._signals import (
    answer_logprob_router,
    first_token_entropy_router,
    length_router,
)
from foretell.routers._similarity_ranking import similarity_ranking_router
from foretell.routers._text_classifier import TextClassifierRouter
from foretell.routers._tfidf import tfidf_router

ENTRY_POINT_GROUP = "foretell.routers"
"""Another package's entry point here names a function without arguments that returns a router."""

_OURS: MappingProxyType[str, Callable[[], Router]] = MappingProxyType(
    {
        "probe": ProbeRouter,
        "gain": GainRouter,
        "embedding": embedding_router,
        "knn": knn_router,
        "mf": matrix_factorisation_router,
        "sw_ranking": similarity_ranking_router,
        "text_classifier": TextClassifierRouter,
        "tfidf": tfidf_router,
        "length": length_router,
        "keyword": keyword_router,
        "domain": domain_router,
        "random": RandomRouter,
        "weak": lambda: ConstantRouter(name="weak", chance=1.0),
        "strong": lambda: ConstantRouter(name="strong", chance=0.0),
        "first_token_entropy": first_token_entropy_router,
        "answer_logprob": answer_logprob_router,
        "cascade": lambda: CascadeRouter(first=ProbeRouter(), second=answer_logprob_router()),
    }
)

_LLM = "llm"


def available_routers() -> tuple[str, ...]:
    """Names that ``make_router`` knows: ours first, then other packages' by name.

    A name of ours cannot be taken by another package.
    """
    return (*_OURS, _LLM, *sorted(_theirs().keys() - {*_OURS, _LLM}))


def make_router(name: str, *, ask: Ask | None = None) -> Router:
    """The router of that name, unfitted, with its defaults.

    Args:
        name: One of ``available_routers``.
        ask: Asks a model, for the router ``llm``; the others have no use for it.

    Raises:
        ConfigError: There is no such router, another package's cannot be loaded, or ``llm`` has no
            model to ask.
    """
    if name == _LLM:
        if ask is None:
            raise ConfigError(
                "router 'llm' asks a model, and was given none; "
                "pass make_router('llm', ask=...), a function from chat messages to the reply"
            )
        return LlmRouter(ask=ask)
    if name in _OURS:
        return _OURS[name]()
    theirs = _theirs()
    if name not in theirs:
        raise ConfigError(
            f"there is no router {name!r}; use one of {', '.join(available_routers())}"
        )
    try:
        return theirs[name].load()()
    except Exception as error:
        raise ConfigError(
            f"router {name!r} of {theirs[name].value} does not load: {error}; "
            "update or remove the package that brings it"
        ) from error


def _theirs():
    return {entry.name: entry for entry in entry_points(group=ENTRY_POINT_GROUP)}
