"""Estimates of one query from outside, by any router that needs only its text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from foretell.records import Estimate, Message, RoutingData, last_asked
from foretell.routers import FittedConstantRouter, FittedRouter


class OutsideEstimator:
    """A router that needs only the text: it is asked before any prefill."""

    def __init__(self, router: FittedRouter, domain: str) -> None:
        self._router = router
        self._domain = domain

    @classmethod
    def constant(cls, name: str, chance: float, domain: str) -> OutsideEstimator:
        """The same chance for every query: always keep, or never."""
        return cls(FittedConstantRouter(name=name, chance=chance), domain)

    def estimate(self, messages: Sequence[Message], own_tokens: int) -> Estimate:
        """What the router foretells of one query."""
        query = RoutingData(
            domain=(self._domain,),
            ids=("query",),
            texts=(last_asked(messages),),
            groups=("query",),
            lengths=np.array([own_tokens]),
            attributes=({},),
        )
        return Estimate(
            score=float(self._router.score(query)[0]),
            p_success=float(self._router.p_success(query)[0]),
            router=self._router.name,
        )
