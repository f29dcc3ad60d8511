"""Rules of thumb about difficulty, each a regular expression on the query's text."""

from __future__ import annotations

import re
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from foretell.records import RoutingData
from foretell.routers._logistic import Features, LogisticRouter

KEYWORD_RULES = MappingProxyType(
    {
        name: re.compile(pattern, flags)
        for name, pattern, flags in (
            ("digit", r"\d", 0),
            ("several_numbers", r"(?<!\d)\d++\D++\d++\D++\d", 0),
            ("arithmetic", r"\d\s*[-+*/^=<>\u00d7\u00f7%]", 0),
            ("money_or_unit", r"[$€£]|\b(?:percent|dollars?|euros?|km|kg|miles?|hours?)\b", re.I),
            ("how_many", r"\bhow (?:many|much|long|far|old|often)\b", re.I),
            ("which_or_what", r"\b(?:what|which|who|whom|whose|when|where)\b", re.I),
            ("why_or_how", r"\b(?:why|how (?:do|does|did|can|could|should|to)|explain)\b", re.I),
            ("negation", r"\b(?:not|no|never|none|without|except|unless)\b|n't\b", re.I),
            ("condition", r"\b(?:if|when|unless|suppose|assuming|provided)\b", re.I),
            ("comparison", r"\b(?:more|less|fewer|most|least|than|difference|\w+est)\b", re.I),
            ("quantifier", r"\b(?:each|every|all|both|half|twice|double|total|altogether)\b", re.I),
            ("order_in_time", r"\b(?:first|then|next|after|before|finally|later)\b", re.I),
            ("proof", r"\b(?:prove|derive|show that|integral|equation|theorem)\b", re.I),
            (
                "code",
                r"```|\b(?:def|class|function|python|javascript|sql|regex|code)\b|[{};]",
                re.I,
            ),
            ("list_asked", r"\b(?:list|enumerate|steps?|table|json|summari[sz]e)\b", re.I),
            ("quotation", r"[\"“”«»]", 0),
            ("several_sentences", r"[.!?]\s+\S", 0),
            ("name_within_sentence", r"[a-z,] [A-Z]", 0),
            ("long_word", r"\w{12}", 0),
            ("beyond_ascii", r"[^\x00-\x7f]", 0),
        )
    }
)
"""Rule name to pattern; a rule is hit when its pattern is found anywhere in the text.

No pattern takes more than linear time on a text made to slow it down.
"""


def keyword_router() -> LogisticRouter:
    """A small logistic on which of ``KEYWORD_RULES`` the text hits, L2 by folds."""
    return LogisticRouter(
        name="keyword", sees="query", featuriser=_rule_hits, inverse_l2=(0.1, 1.0, 10.0)
    )


def _rule_hits(train: RoutingData) -> Features:  # noqa: ARG001 - rules learn nothing from queries
    return _hits


def _hits(data: RoutingData) -> NDArray[np.float64]:
    hits = [[bool(rule.search(text)) for rule in KEYWORD_RULES.values()] for text in data.texts]
    return np.asarray(hits, dtype=np.float64).reshape(len(data), len(KEYWORD_RULES))
