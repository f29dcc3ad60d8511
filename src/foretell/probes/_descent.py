"""Settings of probes that are trained by gradient descent."""

from __future__ import annotations

import math

from foretell.errors import InputError


def require_descent(*, components: int, members: int, dropout: float, weight_decay: float) -> None:
    """Refuses settings out of range, naming the first that is."""
    for name, number in (("components", components), ("members", members)):
        if number < 1:
            raise InputError(f"{name} must be at least 1, got {number}")
    if not 0 <= dropout < 1:
        raise InputError(f"dropout must be at least 0 and below 1, got {dropout}")
    if not (weight_decay >= 0 and math.isfinite(weight_decay)):
        raise InputError(f"weight_decay must be a number of 0 or more, got {weight_decay}")
