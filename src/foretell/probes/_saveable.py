"""Calibrations that a card can hold."""

from __future__ import annotations

from foretell.calibration import (
    Calibration,
    FittedBeta,
    FittedCalibration,
    FittedIsotonic,
    FittedPlatt,
    FittedTemperature,
)
from foretell.errors import InputError


def saveable(calibration: Calibration) -> FittedCalibration:
    """The calibration itself, known to be of a kind that is read back.

    Raises:
        InputError: It is of another kind.
    """
    if isinstance(calibration, FittedBeta | FittedIsotonic | FittedPlatt | FittedTemperature):
        return calibration
    raise InputError(
        f"a calibration of type {type(calibration).__name__} cannot be saved; use one that "
        "foretell.calibration fits"
    )
