"""What else the probe's activations foretell: other models' chances, the answer's length."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Self

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

_POOL: Final = "pool."
"""Before a member's name in the names of its arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StrongHeadSettings:
    """What a strong head is made of besides its arrays, as a card tells it.

    ``probe`` is the settings of the linear probe inside. ``metrics`` (``auroc``, ``brier``,
    ``ece``, ``log_loss``) were measured on held-out folds, on which the read point and the
    regularisation were chosen too. ``base_rate`` is that model's over ``n_train`` queries.
    """

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    probe: Mapping[str, Any]
    calibration: FittedCalibration
    metrics: Mapping[str, Metric]
    n_train: int
    base_rate: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StrongHead:
    """Foretells whether *another* model succeeds, from the weak model's activations."""

    settings: StrongHeadSettings
    probe: FittedLinearProbe

    @property
    def read_point(self) -> ReadPoint:
        """Where its activations are read."""
        return self.probe.read_point

    def p_strong(self, activations: ArrayLike, /) -> float | Floats:
        """Calibrated chance that the other model succeeds.

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
    """Settings of the heads; ``None`` where there is none, with the reason under its name."""

    __pydantic_config__: ClassVar[Mapping[str, object]] = STRICT_JSON

    strong: StrongHeadSettings | None = None
    tokens: TokensHeadSettings | None = None
    pool: Mapping[str, StrongHeadSettings] = field(default_factory=dict[str, StrongHeadSettings])
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Heads:
    """The heads beside a probe; none where the labels did not support one.

    ``strong`` is of the first strong model, ``pool`` of the other models to choose from, by their
    names in the configuration. ``reasons`` says why one is not there, under ``strong``, ``tokens``
    and ``pool.<name>``.
    """

    strong: StrongHead | None = None
    tokens: TokensHead | None = None
    pool: Mapping[str, StrongHead] = field(default_factory=dict[str, StrongHead])
    reasons: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """Where their activations are read, layers rising."""
        heads = (self.strong, self.tokens, *self.pool.values())
        return tuple(sorted({head.read_point for head in heads if head is not None}))

    def settings(self) -> HeadsSettings:
        """All but their arrays."""
        return HeadsSettings(
            strong=None if self.strong is None else self.strong.settings,
            tokens=None if self.tokens is None else self.tokens.settings,
            pool={name: head.settings for name, head in self.pool.items()},
            reasons=self.reasons,
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All their arrays by name, as they are saved."""
        heads = {f"{_POOL}{name}": head for name, head in self.pool.items()}
        if self.strong is not None:
            heads["strong"] = self.strong
        tensors: dict[str, NDArray[Any]] = {
            f"{name}.{k}": array
            for name, head in heads.items()
            for k, array in head.probe.tensors().items()
        }
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
            strong=None if strong is None else _strong_head(strong, tensors, "strong"),
            tokens=None
            if tokens is None
            else TokensHead(settings=tokens, weight=tensor_named(tensors, "tokens.weight")),
            pool={
                name: _strong_head(member, tensors, f"{_POOL}{name}")
                for name, member in settings.pool.items()
            },
            reasons=settings.reasons,
        )


def _strong_head(
    settings: StrongHeadSettings, tensors: Mapping[str, NDArray[Any]], name: str
) -> StrongHead:
    own = {k.removeprefix(f"{name}."): v for k, v in tensors.items() if k.startswith(f"{name}.")}
    probe = FittedLinearProbe.from_tensors(settings.probe, own, settings.calibration)
    return StrongHead(settings=settings, probe=probe)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class HeadsSelection:
    """Fitted heads, and what they foretell of their own training queries without cheating.

    ``p_strong``, ``expected_tokens`` and each of ``p_pool`` are (n,), one for every row of the
    training data: of a query that a head was fitted on by a fit without its fold, of any other by
    the head itself. ``None``, or not in ``p_pool``, where there is no such head.
    """

    heads: Heads
    p_strong: Floats | None
    expected_tokens: Floats | None
    p_pool: Mapping[str, Floats] = field(default_factory=dict[str, Floats])


def fit_heads(
    data: RoutingData,
    read_points: Sequence[ReadPoint],
    *,
    pool: Mapping[str, Floats] | None = None,
    folds: int = 5,
    seed: int,
) -> HeadsSelection:
    """Heads on activations that are read anyway: each at whichever of ``read_points`` suits it.

    The strong head is fitted on the queries whose ``strong`` outcome is known and the tokens head
    on those whose ``weak_tokens`` are, with ``data.row_weights()``, in folds that share no group.
    ``pool`` holds, by name, the success of each other model in the data's rows, NaN where it is
    not known; each gets a head of its own. A head that fewer than 50 queries or a single class
    would have to support is left out, with the reason.

    Raises:
        InputError: ``read_points`` is empty, or names one that the data does not hold; a column of
            ``pool`` has another length.
    """
    from foretell.probes._head_fitting import fit

    return fit(data, read_points, pool=pool or {}, folds=folds, seed=seed)
