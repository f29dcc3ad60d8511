"""What to say where SciPy is absent."""

from __future__ import annotations

from foretell.errors import TrainingDataError


def needs_scipy(what: str) -> TrainingDataError:
    """The error that names the extra to install; ``what`` begins its sentence."""
    return TrainingDataError(
        f"{what} needs SciPy, which is not installed; pip install 'foretell[train]'"
    )
