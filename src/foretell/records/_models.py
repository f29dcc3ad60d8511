"""Who answers: which weights, which template, read by which engine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["weak", "strong"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelIdentity:
    """What a probe is fitted to, and therefore bound to.

    ``weights_sha256`` is the SHA-256 of the weights as they are served: after any
    requantisation, so another quantisation is another identity. ``n_layers`` counts decoder
    blocks, ``width`` is the length of one residual-stream vector.
    """

    source: str
    weights_sha256: str
    chat_template_sha256: str
    engine: str
    n_layers: int
    width: int
    quantisation: str = "unknown"
    revision: str | None = None

    def serves_probes_of(self, other: ModelIdentity) -> bool:
        """Whether activations of the two are interchangeable: same weights, same template.

        The engine may differ (activations agree across engines for the same weights).
        """
        return (self.weights_sha256, self.chat_template_sha256) == (
            other.weights_sha256,
            other.chat_template_sha256,
        )

    def __str__(self) -> str:
        return (
            f"{self.source} ({self.quantisation}, weights {self.weights_sha256[:12]}, "
            f"chat template {self.chat_template_sha256[:12]})"
        )
