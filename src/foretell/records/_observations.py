"""What happened to one query at one model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from foretell.records._models import ModelIdentity, Role
from foretell.records._queries import Answer, FirstToken, Query
from foretell.records._read_points import ReadPoint

Origin = Literal["collected", "imported", "traffic"]
"""How a query came to be stored; what came by traffic is subject to retention."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Observation:
    """One answer of one model to one query, with what its prefill showed.

    ``rollout`` tells sampled answers to the same query apart (0 is the greedy one). ``model`` is
    ``None`` for a model behind an API, whose weights nobody can name; ``answer.model`` says
    which it was. ``own_tokens`` counts the prompt's tokens after the shared prefix.

    A query of ``traffic`` has the id of its request, and ``tenant`` is the id of the key that made
    it. Where no text is kept, its messages and its answer are empty texts. ``subspace`` names the
    one that the activations were reduced to; ``""`` says that they are whole.
    """

    domain: str
    query: Query
    role: Role
    answer: Answer
    model: ModelIdentity | None = None
    rollout: int = 0
    activations: Mapping[ReadPoint, NDArray[np.float32]] = field(
        default_factory=dict[ReadPoint, NDArray[np.float32]]
    )
    first_token: FirstToken | None = None
    own_tokens: int | None = None
    seconds: float | None = None
    tenant: str = ""
    origin: Origin = "collected"
    subspace: str = ""
