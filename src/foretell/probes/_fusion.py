"""A probe's score together with what the same prefill gives for free."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Calibration
from foretell.errors import InputError
from foretell.probes._folds import folds_of, held_out_scores
from foretell.probes._inputs import LOGISTIC, Floats, number_of
from foretell.probes._protocol import FittedProbe, Probe
from foretell.probes._tensors import setting_named, tensor_named
from foretell.records import ReadPoint, RoutingData

_OF_FIRST_TOKEN: Final = ("first_entropy", "first_margin")
SIGNALS: Final = (*_OF_FIRST_TOKEN, "log_length")
"""Entropy and margin of the first token to come, and ``log(1 + own tokens in the prompt)``."""

_BASE = "base."


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedFusionProbe:
    """A linear function of another probe's score, of signals and of the domain.

    ``signal_weights`` and ``centres`` belong to ``signals``: a signal that is unknown (NaN) counts
    as its centre, the mean in training. ``domain_weights`` belong to ``domains``; any other domain
    adds nothing. Arrays are float64 and read-only.
    """

    base: FittedProbe
    base_weight: float
    bias: float
    signals: tuple[str, ...] = ()
    centres: Floats
    signal_weights: Floats
    domains: tuple[str, ...] = ()
    domain_weights: Floats
    calibration: Calibration = LOGISTIC

    def __post_init__(self) -> None:
        # The fusion is calibrated as a whole.
        object.__setattr__(self, "base", self.base.calibrated(LOGISTIC))
        sizes = {
            "centres": len(self.signals),
            "signal_weights": len(self.signals),
            "domain_weights": len(self.domains),
        }
        for name, size in sizes.items():
            array = np.array(getattr(self, name), dtype=np.float64)
            array.flags.writeable = False
            object.__setattr__(self, name, array)
            if array.shape != (size,) or not np.isfinite(array).all():
                raise InputError(
                    f"the probe's {name} have shape {array.shape}; wanted {size} finite numbers"
                )
        if unknown := set(self.signals) - set(SIGNALS):
            raise InputError(
                f"the probe fuses unknown signals {', '.join(sorted(unknown))}; this foretell "
                f"knows {', '.join(SIGNALS)}"
            )
        if not (math.isfinite(self.base_weight) and math.isfinite(self.bias)):
            raise InputError(
                f"the probe's base weight {self.base_weight} and bias {self.bias} must be finite"
            )

    @property
    def kind(self) -> str:
        """``fusion``."""
        return "fusion"

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """Those of the probe inside."""
        return self.base.read_points

    @property
    def reads_first_token(self) -> bool:
        """Whether a signal of the first token takes part, or the probe inside reads one."""
        return self.base.reads_first_token or not set(_OF_FIRST_TOKEN).isdisjoint(self.signals)

    def calibrated(self, calibration: Calibration) -> Self:
        """The same probe with ``calibration`` between its score and its chance."""
        return replace(self, calibration=calibration)

    def scores(self, data: RoutingData) -> Floats:
        """Log-odds before calibration, one per query; higher means likelier to succeed.

        Raises:
            InputError: The queries lack a column of a signal, or what the probe inside reads.
        """
        return self.fuse(self.base.scores(data), data)

    def fuse(self, base_scores: Floats, data: RoutingData) -> Floats:
        """The score of queries whose ``base_scores`` (n,) are known already."""
        signals = signal_columns(data, self.signals)
        known = np.where(np.isfinite(signals), signals - self.centres, 0.0)
        return (
            self.base_weight * base_scores
            + known @ self.signal_weights
            + domain_columns(data, self.domains) @ self.domain_weights
            + self.bias
        )

    def chances(self, data: RoutingData) -> Floats:
        """Calibrated chance of success, one per query; errors as in ``scores``."""
        return self.calibration.p(self.scores(data))

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Its arrays by name, those of the probe inside as ``base.…``."""
        return {
            "base_weight": np.array([self.base_weight]),
            "bias": np.array([self.bias]),
            "centres": self.centres,
            "signal_weights": self.signal_weights,
            "domain_weights": self.domain_weights,
            **{_BASE + name: tensor for name, tensor in self.base.tensors().items()},
        }

    def settings(self) -> Mapping[str, Any]:
        """Names of signals and domains, and the kind and settings of the probe inside."""
        return {
            "signals": list(self.signals),
            "domains": list(self.domains),
            "base": {"kind": self.base.kind, "settings": dict(self.base.settings())},
        }

    @classmethod
    def from_tensors(
        cls,
        settings: Mapping[str, Any],
        tensors: Mapping[str, NDArray[Any]],
        calibration: Calibration,
    ) -> Self:
        """The probe of which these are ``settings()`` and ``tensors()``.

        Raises:
            InputError: One is missing, or they do not fit together.
        """
        from foretell.probes._kinds import from_tensors

        base = setting_named(settings, "base")
        return cls(
            base=from_tensors(
                setting_named(base, "kind"),
                setting_named(base, "settings"),
                {
                    name.removeprefix(_BASE): tensor
                    for name, tensor in tensors.items()
                    if name.startswith(_BASE)
                },
                LOGISTIC,
            ),
            base_weight=number_of(tensors, "base_weight"),
            bias=number_of(tensors, "bias"),
            signals=tuple(setting_named(settings, "signals")),
            centres=tensor_named(tensors, "centres"),
            signal_weights=tensor_named(tensors, "signal_weights"),
            domains=tuple(setting_named(settings, "domains")),
            domain_weights=tensor_named(tensors, "domain_weights"),
            calibration=calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FusionProbe:
    """Logistic regression on the base probe's *held-out* score and on the prefill's by-products.

    By-products: first-token entropy and margin, log prompt length, and the domain when there are
    several; all standardised, columns that are absent or do not vary left out. Scores of rows that
    the base was fitted on would look better than they are, and drown the rest. ``folds`` hold rows
    out of the base, ``l2`` is the penalty on the standardised columns.
    """

    base: Probe
    l2: float = 1.0
    folds: int = 5

    def __post_init__(self) -> None:
        if not (self.l2 > 0 and math.isfinite(self.l2)):
            raise InputError(f"l2 must be a number above 0, got {self.l2}")

    @property
    def kind(self) -> Literal["fusion"]:
        """``fusion``."""
        return "fusion"

    def fit(self, data: RoutingData, *, seed: int) -> FittedFusionProbe:
        """Fitted on ``data.weak`` with ``data.row_weights()``; ``seed`` decides the folds.

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        from foretell.probes._training_rows import require_groups

        require_groups(data.groups, self.folds)
        base = self.base.fit(data, seed=seed)
        held_out = held_out_scores(self.base, data, folds_of(data, self.folds, seed), seed=seed)
        return self.fit_from(base, held_out, data)

    def fit_from(self, base: FittedProbe, held_out: Floats, data: RoutingData) -> FittedFusionProbe:
        """The fusion with a fitted base, by scores (n,) of the base that are held out already."""
        from foretell.probes._fusion_fitting import fit_fusion

        return fit_fusion(base, held_out, data, self.l2)


def signal_columns(data: RoutingData, signals: Sequence[str]) -> Floats:
    """The signals (n, signals), NaN where unknown; raises ``InputError`` for an absent column."""
    columns = np.empty((len(data), len(signals)))
    for i, name in enumerate(signals):
        column = np.log1p(data.lengths) if name == "log_length" else getattr(data, name)
        if len(column) != len(data):
            raise InputError(
                f"the probe reads {name}, which these queries lack; run the prefill to its end "
                "and keep what it says of the first token"
            )
        columns[:, i] = column
    return columns


def domain_columns(data: RoutingData, domains: Sequence[str]) -> Floats:
    """1 where the query is of the domain (n, domains); a row of zeros for any other."""
    return np.array(
        [[domain == d for d in domains] for domain in data.domain], dtype=float
    ).reshape(len(data), len(domains))
