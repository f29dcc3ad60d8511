"""Which curves are shown: all of them would hide the two that matter."""

from __future__ import annotations

from foretell.evaluation._curves import Curve
from foretell.evaluation._evaluation import Evaluation


def shown_curves(evaluation: Evaluation) -> dict[str, Curve]:
    """The probe's, the best baseline's and the embedding router's, in that order, where there."""
    wanted = dict.fromkeys(("probe", evaluation.best_baseline, "embedding"))
    results = [evaluation.router(name) for name in wanted if name]
    return {result.name: result.curve for result in results if result and result.curve}
