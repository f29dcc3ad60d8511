"""One interface for all routers: the activation router and every baseline it must beat."""

from foretell.routers._domain import domain_router
from foretell.routers._embedding import embedding_router
from foretell.routers._fixed import ConstantRouter, FittedConstantRouter, RandomRouter
from foretell.routers._keyword import KEYWORD_RULES, keyword_router
from foretell.routers._logistic import FittedLogisticRouter, LogisticRouter
from foretell.routers._minilm import SentenceEncoder, ensure_sentence_encoder
from foretell.routers._probe import FittedProbeRouter, ProbeRouter
from foretell.routers._protocol import FittedRouter, Router, Sees
from foretell.routers._registry import ENTRY_POINT_GROUP, available_routers, make_router
from foretell.routers._signals import (
    answer_logprob_router,
    first_token_entropy_router,
    length_router,
)
from foretell.routers._tfidf import tfidf_router

__all__ = [
    "ENTRY_POINT_GROUP",
    "KEYWORD_RULES",
    "ConstantRouter",
    "FittedConstantRouter",
    "FittedLogisticRouter",
    "FittedProbeRouter",
    "FittedRouter",
    "LogisticRouter",
    "ProbeRouter",
    "RandomRouter",
    "Router",
    "Sees",
    "SentenceEncoder",
    "answer_logprob_router",
    "available_routers",
    "domain_router",
    "embedding_router",
    "ensure_sentence_encoder",
    "first_token_entropy_router",
    "keyword_router",
    "length_router",
    "make_router",
    "tfidf_router",
]
