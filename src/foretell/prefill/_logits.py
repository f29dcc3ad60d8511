"""What logits say about the token to come."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from foretell.records import FirstToken


def log_normaliser(logits: NDArray[np.floating]) -> float:
    """Natural log of the sum of exponentials: ``logits - log_normaliser`` are log-probabilities."""
    top = logits.max()
    return float(top) + float(np.log(np.exp(logits - top).sum(dtype=np.float64)))


def about_first_token(logits: NDArray[np.floating]) -> FirstToken:
    """Entropy (nats), margin and probability of the likeliest token."""
    log_p = logits - log_normaliser(logits)
    p = np.exp(log_p)
    second, first = np.partition(p, len(p) - 2)[-2:]
    return FirstToken(
        entropy=max(0.0, -float(np.dot(p, log_p))),
        margin=float(first - second),
        probability=float(first),
    )
