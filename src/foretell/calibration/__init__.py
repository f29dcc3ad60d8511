"""From scores to honest probabilities, and to thresholds with a stated guarantee."""

from foretell.calibration._beta import Beta, FittedBeta
from foretell.calibration._binomial import clopper_pearson
from foretell.calibration._calibrations import (
    Calibration,
    CalibrationKind,
    FittedCalibration,
    fit_calibration,
)
from foretell.calibration._choice import CalibrationChoice, choose_calibration
from foretell.calibration._curve import KEEP_NOTHING, ScoreRange, Threshold
from foretell.calibration._domains import FittedPerDomain, calibrate_by_domain
from foretell.calibration._guarantees import TestOfQuality, TestSequence, keep_at_for_quality
from foretell.calibration._isotonic import FittedIsotonic, Isotonic
from foretell.calibration._metrics import auprc, auroc, brier, log_loss
from foretell.calibration._platt import FittedPlatt, Platt
from foretell.calibration._reliability import (
    Binning,
    BrierDecomposition,
    ReliabilityBin,
    brier_decomposition,
    expected_calibration_error,
    reliability_diagram,
)
from foretell.calibration._risk import RiskThreshold, keep_at_for_risk
from foretell.calibration._temperature import FittedTemperature, Temperature
from foretell.calibration._thresholds import keep_at_for_strong_share, stop_below

__all__ = [
    "KEEP_NOTHING",
    "Beta",
    "Binning",
    "BrierDecomposition",
    "Calibration",
    "CalibrationChoice",
    "CalibrationKind",
    "FittedBeta",
    "FittedCalibration",
    "FittedIsotonic",
    "FittedPerDomain",
    "FittedPlatt",
    "FittedTemperature",
    "Isotonic",
    "Platt",
    "ReliabilityBin",
    "RiskThreshold",
    "ScoreRange",
    "Temperature",
    "TestOfQuality",
    "TestSequence",
    "Threshold",
    "auprc",
    "auroc",
    "brier",
    "brier_decomposition",
    "calibrate_by_domain",
    "choose_calibration",
    "clopper_pearson",
    "expected_calibration_error",
    "fit_calibration",
    "keep_at_for_quality",
    "keep_at_for_risk",
    "keep_at_for_strong_share",
    "log_loss",
    "reliability_diagram",
    "stop_below",
]
