"""A learned convex mix of linear probes, one for each read point."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray

from foretell.calibration import Calibration
from foretell.errors import InputError
from foretell.probes._folds import folds_of, held_out_scores, reading_only
from foretell.probes._inputs import Floats, number_of
from foretell.probes._linear import LinearProbe
from foretell.probes._several import FittedSeveralProbe
from foretell.probes._tensors import setting_named, tensor_named
from foretell.records import ReadPoint, RoutingData


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedMixProbe(FittedSeveralProbe):
    """``shares[i]`` of the score's slope is the probe of ``read_points[i]``; they sum to 1.

    The weights hold the shares already: a score is one dot product for each read point.
    """

    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        # Without arguments, super() looks for the class that slots=True has replaced.
        FittedSeveralProbe.__post_init__(self)
        if (
            len(self.shares) != len(self.read_points)
            or not all(0 <= share <= 1 for share in self.shares)
            or not math.isclose(math.fsum(self.shares), 1, abs_tol=1e-6)
        ):
            raise InputError(
                f"the probe's shares {list(self.shares)} do not mix {len(self.read_points)} read "
                "points; wanted one for each, none negative, that sum to 1"
            )

    @property
    def kind(self) -> str:
        """``mix``."""
        return "mix"

    def settings(self) -> Mapping[str, Any]:
        """The names of its read points and their shares."""
        return {
            "read_points": [point.name for point in self.read_points],
            "shares": list(self.shares),
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
        points = tuple(ReadPoint.parse(name) for name in setting_named(settings, "read_points"))
        return cls(
            read_points=points,
            shares=tuple(float(share) for share in setting_named(settings, "shares")),
            weights=tuple(tensor_named(tensors, f"weight_{point.name}") for point in points),
            bias=number_of(tensors, "bias"),
            calibration=calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """``scale * sum(shares * scores) + bias`` is the mixed log-odds; ``shares`` sum to 1."""

    shares: tuple[float, ...]
    scale: float
    bias: float

    def mix(self, scores: Floats) -> Floats:
        """Log-odds (n,) of the read points' scores (n, read points)."""
        return scores @ np.asarray(self.shares) * self.scale + self.bias


@dataclass(frozen=True, slots=True, kw_only=True)
class MixProbe:
    """Linear probes on the read points, mixed by shares of least held-out log loss.

    After ProbeDirichlet (arXiv 2602.11877), whose mix of layers is convex too; here the shares are
    the optimum of a convex problem instead of a sample, and small ones are dropped.
    ``components``, ``l2`` and ``shrink`` are those of ``LinearProbe``, ``folds`` those that hold
    rows out while the shares are learnt.
    """

    read_points: tuple[ReadPoint, ...]
    components: int = 64
    l2: float = 1.0
    shrink: float = 0.0
    folds: int = 5

    def __post_init__(self) -> None:
        object.__setattr__(self, "read_points", tuple(sorted(set(self.read_points))))
        if not self.read_points:
            raise InputError("a mix got no read points; name at least one")
        for point in self.read_points:
            self.at(point)

    @property
    def kind(self) -> Literal["mix"]:
        """``mix``."""
        return "mix"

    def at(self, point: ReadPoint) -> LinearProbe:
        """The probe of one read point alone."""
        return LinearProbe(
            read_point=point, components=self.components, l2=self.l2, shrink=self.shrink
        )

    def fit(self, data: RoutingData, *, seed: int) -> FittedMixProbe:
        """Fitted on ``data.weak`` with ``data.row_weights()``; ``seed`` decides the folds.

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        from foretell.probes._training_rows import require_groups, require_read_points

        require_read_points(data, self.read_points)
        require_groups(data.groups, self.folds)
        held_out = folds_of(data, self.folds, seed)
        columns = [
            held_out_scores(self.at(point), reading_only(data, [point]), held_out, seed=seed)
            for point in self.read_points
        ]
        return self.fit_from(np.column_stack(columns), data)

    def fit_from(self, held_out: Floats, data: RoutingData) -> FittedMixProbe:
        """The mix by scores that are held out already.

        Args:
            held_out: (n, read points); each row by probes that have not seen its group.
            data: What the probes of the read points are fitted on.
        """
        from foretell.probes._mix_fitting import fit_shares

        found = fit_shares(held_out, data.weak, data.row_weights())
        kept = [
            (share, self.at(point).fit(data, seed=0))
            for point, share in zip(self.read_points, found.shares, strict=True)
            if share > 0
        ]
        return FittedMixProbe(
            read_points=tuple(probe.read_point for _, probe in kept),
            shares=tuple(share for share, _ in kept),
            weights=tuple(probe.weight * np.float32(found.scale * share) for share, probe in kept),
            bias=found.bias + found.scale * math.fsum(share * probe.bias for share, probe in kept),
        )
