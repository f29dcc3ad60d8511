"""What every calibration offers, and how one of any kind is read back from a file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Protocol, cast, overload

from numpy.typing import ArrayLike

from foretell.calibration._beta import Beta, FittedBeta
from foretell.calibration._columns import Column
from foretell.calibration._isotonic import FittedIsotonic, Isotonic
from foretell.calibration._platt import FittedPlatt, Platt
from foretell.calibration._temperature import FittedTemperature, Temperature

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

CalibrationKind = Literal["beta", "isotonic", "platt", "temperature"]

SIMPLEST_FIRST: tuple[CalibrationKind, ...] = ("temperature", "platt", "beta", "isotonic")
"""By what the data may decide: one number, two, three, as many as there are steps."""


class Calibration(Protocol):
    """From a score to a chance: finite, and a higher score is never less likely."""

    @property
    def kind(self) -> CalibrationKind:
        """Which curve it is."""
        ...

    @overload
    def p(self, scores: float) -> float: ...

    @overload
    def p(self, scores: Column) -> Column: ...

    def p(self, scores: float | Column) -> float | Column:
        """Chances of success: a float for a float, an array of the same shape for an array."""
        ...


class _ByKind:
    """Tells pydantic which record to read, without importing it where nothing is read.

    A calibration saved before there were kinds names none: it is a ``FittedPlatt``.
    """

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        from pydantic import Discriminator, Tag

        tagged = (
            Annotated[FittedBeta, Tag("beta")]
            | Annotated[FittedIsotonic, Tag("isotonic")]
            | Annotated[FittedPlatt, Tag("platt")]
            | Annotated[FittedTemperature, Tag("temperature")]
        )
        return handler.generate_schema(Annotated[tagged, Discriminator(_kind_of)])


def _kind_of(value: object) -> object:
    if isinstance(value, Mapping):
        return cast("Mapping[str, object]", value).get("kind", "platt")
    return getattr(value, "kind", None)


FittedCalibration = Annotated[
    FittedBeta | FittedIsotonic | FittedPlatt | FittedTemperature, _ByKind()
]
"""A calibration of any kind, as cards hold it; pydantic tells them apart by ``kind``."""


def fit_calibration(
    kind: CalibrationKind,
    scores: ArrayLike,
    outcomes: ArrayLike,
    weights: ArrayLike | None = None,
) -> FittedCalibration:
    """A calibration of that ``kind``; see its class for what is fitted and refused."""
    method = {
        "beta": Beta(),
        "isotonic": Isotonic(),
        "platt": Platt(),
        "temperature": Temperature(),
    }[kind]
    return method.fit(scores, outcomes, weights)
