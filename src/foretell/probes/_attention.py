"""An ensemble of learned attention heads over the activations of all own tokens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from foretell.calibration import Calibration
from foretell.errors import InputError
from foretell.probes._descent import require_descent
from foretell.probes._inputs import LOGISTIC, Floats, number_of
from foretell.probes._tensors import frozen, setting_named, tensor_named
from foretell.records import ReadPoint, RoutingData, TokenActivations

Weights = NDArray[np.float32]
AttentionVariant = Literal["softmax", "max"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenExplanation:
    """Where in a prompt a score comes from; row i is the i-th own token.

    ``weights`` (tokens,) sum to 1: the attention of all heads and members, averaged; of the
    variant ``max``, the share of heads whose maximum is at the token. ``contributions`` (tokens,)
    sum to ``score - bias``; where they are below 0 the model is unsure.
    """

    weights: Floats
    contributions: Floats
    score: float
    bias: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FittedAttentionProbe:
    """Learned queries and values over all own tokens; predicts with NumPy alone.

    ``values`` (members, width, heads) and ``offsets`` (members, heads) give a token's value to
    each head, ``x @ values + offsets``. The variant ``softmax`` averages them with weights
    ``softmax(x @ queries)`` over the query's tokens, ``max`` takes the largest and has no
    ``queries``. The score is the sum over heads plus ``bias``, averaged over members. Arrays are
    made contiguous, float32 and read-only.
    """

    read_point: ReadPoint
    variant: AttentionVariant
    queries: Weights | None
    values: Weights
    offsets: Weights
    bias: float
    calibration: Calibration = LOGISTIC

    def __post_init__(self) -> None:
        for name in ("queries", "values", "offsets"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, frozen(getattr(self, name), name))
        _require_tokens(self.read_point)
        _require_variant(self.variant)
        if not math.isfinite(self.bias):
            raise InputError(f"the probe's bias is {self.bias}; wanted a finite number")
        values, offsets = self.values.shape, self.offsets.shape
        queries = None if self.queries is None else self.queries.shape
        if (
            len(values) != 3
            or 0 in values
            or offsets != (values[0], values[2])
            or queries != (values if self.variant == "softmax" else None)
        ):
            raise InputError(
                f"the probe's queries {queries}, values {values} and offsets {offsets} do not fit "
                f"the variant {self.variant!r} or each other; wanted (members, width, heads) for "
                "values, for queries of softmax only, and (members, heads) for offsets"
            )

    @property
    def kind(self) -> str:
        """``attention``."""
        return "attention"

    @property
    def read_points(self) -> tuple[ReadPoint, ...]:
        """Its one read point, of pooling ``tokens``."""
        return (self.read_point,)

    @property
    def reads_first_token(self) -> bool:
        """It does not."""
        return False

    @property
    def width(self) -> int:
        """Length of the activations it reads."""
        return self.values.shape[1]

    def calibrated(self, calibration: Calibration) -> Self:
        """The same probe with ``calibration`` between its score and its chance."""
        return replace(self, calibration=calibration)

    def scores(self, data: RoutingData) -> Floats:
        """Log-odds before calibration, one per query; higher means likelier to succeed.

        Raises:
            InputError: Activations of tokens are missing, of another width, or not finite.
        """
        tokens = data.sequences.get(self.read_point)
        if tokens is None:
            raise InputError(
                f"no activations at {self.read_point.name!r} in the data, whose sequences are "
                f"{', '.join(point.name for point in sorted(data.sequences)) or 'none'}; read all "
                "tokens there too"
            )
        with np.errstate(invalid="ignore", over="ignore"):
            weights, values = self._heads(tokens)
            pooled = np.add.reduceat(weights * values, tokens.starts[:-1], axis=0)
        # Asked of values because a maximum passes over what is infinitely far below.
        finite = np.isfinite(values).all(axis=1) & np.isfinite(weights).all(axis=1)
        if not finite.all():
            bad = np.count_nonzero(~np.logical_and.reduceat(finite, tokens.starts[:-1]))
            raise InputError(
                f"activations at {self.read_point} are not finite in {bad} of {len(data)} queries"
            )
        return pooled.sum(axis=1, dtype=np.float64) / len(self.values) + self.bias

    def chances(self, data: RoutingData) -> Floats:
        """Calibrated chance of success, one per query; errors as in ``scores``."""
        return self.calibration.p(self.scores(data))

    def explain(self, tokens: ArrayLike) -> TokenExplanation:
        """Where the score of one query comes from; ``tokens`` is (tokens, width).

        Raises:
            InputError: No tokens, another width, or activations that are not finite.
        """
        rows = np.asarray(tokens, dtype=np.float32)
        if rows.ndim != 2 or not len(rows):
            raise InputError(
                f"activations of shape {rows.shape} are not of one query; wanted (tokens, "
                f"{self.width}) with at least one token"
            )
        if bad := int(np.count_nonzero(~np.isfinite(rows).all(axis=1))):
            raise InputError(
                f"activations at {self.read_point} are not finite in {bad} of {len(rows)} tokens"
            )
        weights, values = self._heads(TokenActivations.stack([rows]))
        contributions = (weights * values).sum(axis=1, dtype=np.float64) / len(self.values)
        return TokenExplanation(
            weights=weights.mean(axis=1, dtype=np.float64),
            contributions=contributions,
            score=float(contributions.sum()) + self.bias,
            bias=self.bias,
        )

    def _heads(self, tokens: TokenActivations) -> tuple[Weights, Weights]:
        """Weight and value of every token for every head of every member.

        Both are (tokens, members x heads); the weights of one query sum to 1 in each column.
        """
        rows, starts = tokens.values, tokens.starts[:-1]
        if rows.shape[1] != self.width:
            raise InputError(
                f"activations of shape {rows.shape} do not fit a probe of width {self.width} at "
                f"{self.read_point}; wanted (tokens, {self.width})"
            )
        values: Weights = rows @ _side_by_side(self.values) + self.offsets.reshape(-1)
        logits: Weights = values if self.queries is None else rows @ _side_by_side(self.queries)
        counts = np.diff(tokens.starts)
        top = np.maximum.reduceat(logits, starts, axis=0)
        centred = logits - np.repeat(top, counts, axis=0)
        # Tokens that tie for the maximum share it.
        raw: Any = centred == 0 if self.queries is None else np.exp(centred)
        total = np.add.reduceat(raw, starts, axis=0, dtype=np.float32)
        return raw / np.repeat(total, counts, axis=0), values

    def tensors(self) -> dict[str, NDArray[Any]]:
        """All its arrays by name, as they are saved."""
        queries = {} if self.queries is None else {"queries": self.queries}
        bias = np.array([self.bias])
        return {**queries, "values": self.values, "offsets": self.offsets, "bias": bias}

    def settings(self) -> Mapping[str, Any]:
        """The name of its read point, and its variant."""
        return {"read_point": self.read_point.name, "variant": self.variant}

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
        variant = setting_named(settings, "variant")
        return cls(
            read_point=ReadPoint.parse(setting_named(settings, "read_point")),
            variant=variant,
            queries=tensor_named(tensors, "queries") if variant == "softmax" else None,
            values=tensor_named(tensors, "values"),
            offsets=tensor_named(tensors, "offsets"),
            bias=number_of(tensors, "bias"),
            calibration=calibration,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionProbe:
    """Standardise and project every token, then heads that learn where to look and what to see.

    The variant ``softmax`` is attention pooling by learned queries (EleutherAI, "Attention
    Probes", 2025; McKenzie et al., arXiv 2506.10805). ``max`` takes each head's largest value:
    however many tokens follow, they cannot dilute it (MultiMax in "Building Production-Ready
    Probes for Gemini", arXiv 2601.11516).

    ``components`` bounds the principal components of a token. ``dropout`` is the share of a
    token's coordinates that training leaves out. Each of the ``members`` stops early by another
    fifth of the groups and learns from the rest.
    """

    read_point: ReadPoint
    variant: AttentionVariant = "softmax"
    heads: int = 4
    components: int = 128
    dropout: float = 0.4
    weight_decay: float = 0.1
    members: int = 5

    def __post_init__(self) -> None:
        _require_tokens(self.read_point)
        _require_variant(self.variant)
        if self.heads < 1:
            raise InputError(f"heads must be at least 1, got {self.heads}")
        require_descent(
            components=self.components,
            members=self.members,
            dropout=self.dropout,
            weight_decay=self.weight_decay,
        )

    @property
    def kind(self) -> str:
        """``attention``."""
        return "attention"

    def fit(self, data: RoutingData, *, seed: int) -> FittedAttentionProbe:
        """Fitted on ``data.weak`` with ``data.row_weights()``; not calibrated.

        Deterministic: the same rows, seed and number of threads give the same probe. Queries of
        weight 0 are left out.

        Raises:
            TrainingDataError: The rows cannot support the fit; the message says why.
        """
        from foretell.probes._torch_fitting import fit_attention_probe

        return fit_attention_probe(self, data, seed=seed)


def _side_by_side(weights: Weights) -> Weights:
    """(members, width, heads) as (width, members x heads)."""
    return weights.transpose(1, 0, 2).reshape(weights.shape[1], -1)


def _require_tokens(point: ReadPoint) -> None:
    if point.pooling != "tokens":
        raise InputError(
            f"an attention probe reads all tokens, got {point.name!r}; use "
            f"'layer{point.layer}_tokens'"
        )


def _require_variant(variant: str) -> None:
    if variant not in get_args(AttentionVariant):
        raise InputError(
            f"unknown variant {variant!r}; use one of {', '.join(get_args(AttentionVariant))}"
        )
