"""What else the probe's activations foretell: the strong model's chance, the answer's length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.calibration import FittedCalibration
from foretell.errors import InputError
from foretell.probes._honest import STRICT_JSON, Metric
from foretell.probes._inputs import dot_rows
from foretell.probes._linear import FittedLinearProbe
from foretell.probes._tensors import frozen, tensor_named
from foretell.records import ReadPoint, RoutingData

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StrongHeadSettings:
    """What a strong head is made of besides its arrays, as a card tells it.

    ``probe`` is the settings of the linear probe inside. ``metrics`` (``auroc``, ``brier``,
    ``ece``, ``log_loss``) were measured on held-out folds, on which the read point and the
    regularisation were chosen too. ``base_rate`` is the strong model's over ``n_train`` queries.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    probe: Mapping[str, Any]
    calibration: FittedCalibration
    metrics: Mapping[str, Metric]
    n_train: int
    base_rate: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StrongHead:
    """Foretells whether the *strong* model succeeds, from the weak model's activations."""

    settings: StrongHeadSettings
    probe: FittedLinearProbe

    @property
    def read_point(self) -> ReadPoint:
        """Where its activations are read."""
        return self.probe.read_point

    def p_strong(self, activations: ArrayLike, /) -> float | Floats:
        """Calibrated chance that the strong model succeeds.

        Returns:
            A float for one activation (width,), an array (n,) for (n, width).

        Raises:
            InputError: Another width, or an activation that is not finite.
        """
        return self.probe.p_success(activations)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokensHeadSettings:
    """What a tokens head is made of besides its weight vector, as a card tells it.

    A forecast is ``smearing * exp(x @ weight + bias) - 1`` tokens, held between ``fewest`` and
    ``most``, the shortest and longest answers in training. ``metrics`` were measured on held-out
    folds: ``r2`` and ``spearman`` of the log length, ``mae`` in tokens, and ``mae_of_median``, that
    of always foretelling the median.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    read_point: ReadPoint
    bias: float
    smearing: float
    fewest: float
    most: float
    metrics: Mapping[str, Metric]
    n_train: int

    def __post_init__(self) -> None:
        numbers = (self.bias, self.smearing, self.fewest, self.most)
        if not all(map(math.isfinite, numbers)) or not (
            self.smearing > 0 and 0 <= self.fewest <= self.most
        ):
            raise InputError(
                f"a tokens head with bias {self.bias}, smearing {self.smearing} and a range from "
                f"{self.fewest} to {self.most} is not one; wanted finite numbers, a smearing above "
                "0 and a range that rises from 0 or more"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokensHead:
    """Foretells the number of tokens in the weak model's answer, for its cost.

    A ridge regression on ``log(1 + tokens)``; ``weight`` is (width,) float32: standardiser,
    principal components and regression folded into one. The mean of a log is not the log of a
    mean; Duan's smearing factor (1983), the mean of the exponentiated residuals, makes up for it
    without a distribution.
    """

    settings: TokensHeadSettings
    weight: NDArray[np.float32]

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", frozen(self.weight, "tokens head weight"))
        if self.weight.ndim != 1 or not self.weight.size:
            raise InputError(
                f"the tokens head's weight has shape {self.weight.shape}; wanted (width,)"
            )

    @property
    def read_point(self) -> ReadPoint:
        """Where its activations are read."""
        return self.settings.read_point

    def expected_tokens(self, activations: ArrayLike, /) -> float | Floats:
        """Expected length of the answer in tokens.

        Returns:
            A float for one activation (width,), an array (n,) for (n, width).

        Raises:
            InputError: Another width, or an activation that is not finite.
        """
        rows = np.asarray(activations, dtype=np.float32)
        if rows.shape == self.weight.shape:
            log_length = float(rows.dot(self.weight)) + self.settings.bias
            if not math.isfinite(log_length):
                raise InputError(f"the activation at {self.read_point} is not finite")
            return float(smeared(log_length, self.settings))
        log_lengths = dot_rows(rows, self.weight, self.read_point) + self.settings.bias
        return np.asarray(smeared(log_lengths, self.settings))


def smeared(log_length: float | Floats, settings: TokensHeadSettings) -> float | Floats:
    """Tokens of a foretold ``log(1 + tokens)``."""
    # Held to the range before the exponential, so that a foreign activation cannot overflow it.
    low = math.log((settings.fewest + 1) / settings.smearing)
    high = math.log((settings.most + 1) / settings.smearing)
    if isinstance(log_length, float):
        return settings.smearing * math.exp(min(max(log_length, low), high)) - 1
    return settings.smearing * np.exp(np.clip(log_length, low, high)) - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class HeadsSettings:
    """Settings of both heads; ``None`` where there is none, with the reason under its name."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    strong: StrongHeadSettings | None = None
    tokens: TokensHeadSettings | None = None
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """The heads beside a probe; ``None`` where the labels did not support one.

    ``reasons`` says why, under ``strong`` and ``tokens``.
    """

    strong: StrongHead | None = None
    tokens: TokensHead | None = None
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """Where their activations are read, layers rising."""
        heads = (head for head in (self.strong, self.tokens) if head is not None)
        return tuple(sorted({head.read_point for head in heads}))

    def settings(self) -> HeadsSettings:
        """All but their arrays."""
        return HeadsSettings(
            strong=None if self.strong is None else self.strong.settings,
            tokens=None if self.tokens is None else self.tokens.settings,
            reasons=self.reasons,
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All their arrays by name, as they are saved."""
        tensors: dict[str, NDArray[Any]] = {}
        if self.strong is not None:
            tensors |= {f"strong.{k}": array for k, array in self.strong.probe.tensors().items()}
        if self.tokens is not None:
            tensors["tokens.weight"] = self.tokens.weight
        return tensors

    @classmethod
    def from_tensors(cls, settings: HeadsSettings, tensors: Mapping[str, NDArray[Any]]) -> Self:
        """The heads whose ``settings()`` and ``tensors()`` these are.

        Raises:
            InputError: An array is missing, has another shape, or is not finite.
        """
        strong, tokens = settings.strong, settings.tokens
        return cls(
            strong=None
            if strong is None
            else StrongHead(
                settings=strong,
                probe=FittedLinearProbe.from_tensors(
                    strong.probe,
                    {k.removeprefix("strong."): array for k, array in tensors.items()},
                    strong.calibration,
                ),
            ),
            tokens=None
            if tokens is None
            else TokensHead(settings=tokens, weight=tensor_named(tensors, "tokens.weight")),
            reasons=settings.reasons,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadsSelection:
    """Fitted heads, and what they foretell of their own training queries without cheating.

    ``p_strong`` and ``expected_tokens`` are (n,), one for every row of the training data: of a
    query that a head was fitted on by a fit without its fold, of any other by the head itself.
    ``None`` where there is no such head.
    """

    heads: Heads
    p_strong: Floats | None
    expected_tokens: Floats | None


def fit_heads(
    data: RoutingData, read_points: Sequence[ReadPoint], *, folds: int = 5, seed: int
) -> HeadsSelection:
    """Heads on activations that are read anyway: each at whichever of ``read_points`` suits it.

    The strong head is fitted on the queries whose ``strong`` outcome is known and the tokens head
    on those whose ``weak_tokens`` are, with ``data.row_weights()``, in folds that share no group.
    A head that fewer than 50 queries or a single class would have to support is left out, with the
    reason.

    Raises:
        InputError: ``read_points`` is empty, or names one that the data does not hold.
    """
    from foretell.probes._head_fitting import fit

    return fit(data, read_points, folds=folds, seed=seed)
