"""Routers that look at nothing: the ends and the middle of every cost-quality curve."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import FittedPlatt, Platt
from foretell.records import RoutingData
from foretell.routers._protocol import Sees
from foretell.routers._training import labelled_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedConstantRouter:
    """The same decision for every query: ``chance`` is a verdict, not an estimate."""

    name: str
    chance: float

    def score(self, data: RoutingData) -> NDArray[np.float64]:
        """``chance`` for every query."""
        return np.full(len(data), self.chance)

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """``chance`` for every query."""
        return self.score(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConstantRouter:
    """Always keeps (``chance`` 1, named ``weak``) or never does (0, named ``strong``)."""

    name: str
    chance: float
    sees: Sees = field(default="nothing", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedConstantRouter:  # noqa: ARG002 - the interface
        """Learns nothing, yet asks for the same data as the others so that they stay comparable."""
        labelled_rows(data)
        return FittedConstantRouter(name=self.name, chance=self.chance)


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedRandomRouter:
    """A score drawn from the query's id and text, so that it is the same whenever it is asked."""

    name: str
    key: bytes
    calibration: FittedPlatt

    def score(self, data: RoutingData) -> NDArray[np.float64]:
        """Uniform on [0, 1) over queries."""
        return _uniform(self.key, data)

    def p_success(self, data: RoutingData) -> NDArray[np.float64]:
        """About the base rate for every query, since the score tells nothing."""
        return self.calibration.p(self.score(data))


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomRouter:
    """Scores by lot."""

    name: str = "random"
    sees: Sees = field(default="nothing", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedRandomRouter:
        """Draws the key of the lottery from ``rng`` and calibrates on the labelled rows."""
        labelled = labelled_rows(data)
        key = rng.bytes(16)
        calibration = Platt().fit(_uniform(key, labelled), labelled.weak, labelled.row_weights())
        return FittedRandomRouter(name=self.name, key=key, calibration=calibration)


def _uniform(key: bytes, data: RoutingData) -> NDArray[np.float64]:
    draws = [
        int.from_bytes(
            blake2b(f"{name}\0{text}".encode(errors="replace"), digest_size=6, key=key).digest()
        )
        for name, text in zip(data.ids, data.texts, strict=True)
    ]
    return np.asarray(draws, dtype=np.float64) / 2**48
