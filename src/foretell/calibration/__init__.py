"""From scores to honest probabilities, and to thresholds with a stated guarantee."""

from foretell.calibration._metrics import auroc, brier, expected_calibration_error, log_loss
from foretell.calibration._platt import FittedPlatt, Platt
from foretell.calibration._thresholds import (
    KEEP_NOTHING,
    Threshold,
    keep_at_for_quality,
    keep_at_for_strong_share,
    stop_below,
)

__all__ = [
    "KEEP_NOTHING",
    "FittedPlatt",
    "Platt",
    "Threshold",
    "auroc",
    "brier",
    "expected_calibration_error",
    "keep_at_for_quality",
    "keep_at_for_strong_share",
    "log_loss",
    "stop_below",
]
