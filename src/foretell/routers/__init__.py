"""One interface for all routers: the activation router and every baseline it must beat."""

from foretell.routers._cascade import CascadeRouter, FittedCascadeRouter, HeldOutStages
from foretell.routers._domain import domain_router
from foretell.routers._embedding import embedding_router
from foretell.routers._fixed import ConstantRouter, FittedConstantRouter, RandomRouter
from foretell.routers._gain import FittedGainRouter, GainRouter
from foretell.routers._keyword import KEYWORD_RULES, keyword_router
from foretell.routers._llm import Ask, FittedLlmRouter, LlmCounts, LlmRouter
from foretell.routers._logistic import FittedLogisticRouter, LogisticRouter
from foretell.routers._matrix_factorisation import (
    MatrixFactorisation,
    matrix_factorisation_router,
)
from foretell.routers._minilm import SentenceEncoder, ensure_sentence_encoder
from foretell.routers._neighbours import Neighbours, knn_router
from foretell.routers._probe import FittedProbeRouter, ProbeRouter
from foretell.routers._protocol import FittedRouter, Router, Sees
from foretell.routers._registry import ENTRY_POINT_GROUP, available_routers, make_router
from foretell.routers._signals import (
    answer_logprob_router,
    first_token_entropy_router,
    length_router,
)
from foretell.routers._similarity_ranking import SimilarityRanking, similarity_ranking_router
from foretell.routers._text_classifier import TextClassifierRouter
from foretell.routers._tfidf import tfidf_router
from foretell.routers._two_stage import StageCosts, TwoStageRule, two_stage_rule
from foretell.routers._vector_router import FittedVectorRouter, VectorMethod, VectorRouter

__all__ = [
    "ENTRY_POINT_GROUP",
    "KEYWORD_RULES",
    "Ask",
    "CascadeRouter",
    "ConstantRouter",
    "FittedCascadeRouter",
    "FittedConstantRouter",
    "FittedGainRouter",
    "FittedLlmRouter",
    "FittedLogisticRouter",
    "FittedProbeRouter",
    "FittedRouter",
    "FittedVectorRouter",
    "GainRouter",
    "HeldOutStages",
    "LlmCounts",
    "LlmRouter",
    "LogisticRouter",
    "MatrixFactorisation",
    "Neighbours",
    "ProbeRouter",
    "RandomRouter",
    "Router",
    "Sees",
    "SentenceEncoder",
    "SimilarityRanking",
    "StageCosts",
    "TextClassifierRouter",
    "TwoStageRule",
    "VectorMethod",
    "VectorRouter",
    "answer_logprob_router",
    "available_routers",
    "domain_router",
    "embedding_router",
    "ensure_sentence_encoder",
    "first_token_entropy_router",
    "keyword_router",
    "knn_router",
    "length_router",
    "make_router",
    "matrix_factorisation_router",
    "similarity_ranking_router",
    "tfidf_router",
    "two_stage_rule",
]
