"""Gradient descent behind the MLP and the attention probe: the one file here that needs torch.

The members of an ensemble are trained side by side, as one network whose parameters all have the
members as their first axis. Each member holds out another fold of groups, and ends as it was when
it foretold that fold best.
"""

# The types are checked where torch is installed; it is large, so the everyday environment lacks it.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from math import log

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError

# First, since its extra brings scikit-learn too.
try:
    import torch
    from torch import Tensor, nn
except ImportError as error:
    raise TrainingDataError(
        "fitting this probe needs PyTorch, which is not installed; pip install 'foretell[torch]'"
    ) from error

from foretell.probes._attention import AttentionProbe, AttentionVariant, FittedAttentionProbe
from foretell.probes._fitting import Reduction, fit_reduction, group_folds
from foretell.probes._mlp import FittedMlpProbe, MlpProbe
from foretell.probes._training_rows import (
    require_activations,
    require_groups,
    require_outcomes,
    require_read_points,
    require_weights,
)
from foretell.records import ReadPoint, RoutingData, TokenActivations
from foretell.threads import default_threads

_FOLDS = 5
_BATCH = 128
_LEARNING_RATE = 3e-3
_MOST_EPOCHS = 200

_PATIENCE = 15
"""Epochs without improvement after which a member is done."""

_SMALL = 0.1
"""Size of the first outputs beside the base rate, from which a network departs as it learns."""

_TOKENS_FOR_AXES = 20_000
"""Tokens that the principal axes are found on; more would cost much and move them little."""


def fit_mlp_probe(probe: MlpProbe, data: RoutingData, *, seed: int) -> FittedMlpProbe:
    """``MlpProbe.fit``, behind the import of torch."""
    require_read_points(data, probe.read_points)
    data = _with_weight(data)
    lessons = _plan_lessons(data, members=probe.members, seed=seed)
    activations = [
        require_activations(data.activations[point], point, len(data))
        for point in probe.read_points
    ]
    reductions = [_unit_reduction(rows, probe.components) for rows in activations]
    coordinates = [reduction(rows) for reduction, rows in zip(reductions, activations, strict=True)]
    with _seeded(seed):
        network = Mlps(
            np.concatenate(coordinates, axis=1).astype(np.float32),
            members=probe.members,
            hidden=probe.hidden,
            dropout=probe.dropout,
            base_log_odds=lessons.base_log_odds,
        )
        _train(network, lessons, weight_decay=probe.weight_decay)
    return FittedMlpProbe(
        read_points=probe.read_points,
        projections=tuple(reduction.projection for reduction in reductions),
        offsets=tuple(_offset(reduction, reduction.projection) for reduction in reductions),
        weights=tuple(_array(weight) for weight in network.weights),
        biases=tuple(_array(bias[:, 0]) for bias in network.biases),
    )


def fit_attention_probe(
    probe: AttentionProbe, data: RoutingData, *, seed: int
) -> FittedAttentionProbe:
    """``AttentionProbe.fit``, behind the import of torch."""
    data = _with_weight(data)
    lessons = _plan_lessons(data, members=probe.members, seed=seed)
    tokens = _require_tokens(data, probe.read_point)
    rows = tokens.values
    if len(rows) > _TOKENS_FOR_AXES:
        drawn = np.random.default_rng(seed).choice(len(rows), _TOKENS_FOR_AXES, replace=False)
        rows = rows[np.sort(drawn)]
    reduction = _unit_reduction(rows, probe.components)
    with _seeded(seed):
        network = AttentionHeads(
            TokenActivations(
                values=reduction(tokens.values).astype(np.float32), starts=tokens.starts
            ),
            members=probe.members,
            heads=probe.heads,
            variant=probe.variant,
            dropout=probe.dropout,
            base_log_odds=lessons.base_log_odds,
        )
        _train(network, lessons, weight_decay=probe.weight_decay)
    values = reduction.projection @ _array(network.values)
    queries = reduction.projection @ _array(network.queries)
    return FittedAttentionProbe(
        read_point=probe.read_point,
        variant=probe.variant,
        # A constant beside a query moves all logits alike, which softmax does not see.
        queries=queries if probe.variant == "softmax" else None,
        values=values,
        offsets=_offset(reduction, values),
        bias=float(_array(network.bias).mean(dtype=np.float64)),
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Lessons:
    """What is taught: outcomes (n,) in [0, 1] and weights (n,) above 0.

    ``held_out`` (members, n) marks the rows that a member stops by instead of learning from them.
    """

    outcomes: NDArray[np.float64]
    weights: NDArray[np.float64]
    held_out: NDArray[np.bool_]

    @property
    def base_log_odds(self) -> float:
        rate = float(np.average(self.outcomes, weights=self.weights))
        return log(rate / (1 - rate))


def _with_weight(data: RoutingData) -> RoutingData:
    """``data`` without the queries of weight 0."""
    weights = require_weights(data.row_weights(), len(data))
    return data if weights.all() else data.take(weights > 0)


def _plan_lessons(data: RoutingData, *, members: int, seed: int) -> _Lessons:
    """Outcomes, weights, and another fold of groups held out for each member."""
    outcomes = require_outcomes(data.weak)
    require_groups(data.groups, 2)
    folds = min(_FOLDS, len(set(data.groups)))
    held_out = np.zeros((members, len(outcomes)), dtype=bool)
    left: list[NDArray[np.int64]] = []
    for member in range(members):
        if not left:
            left += group_folds(outcomes >= 0.5, np.asarray(data.groups), folds, seed + member)
        held_out[member, left.pop()] = True
    return _Lessons(outcomes=outcomes, weights=data.row_weights(), held_out=held_out)


def _require_tokens(data: RoutingData, point: ReadPoint) -> TokenActivations:
    """The activations of all tokens at ``point``; refuses what is missing or not finite."""
    tokens = data.sequences.get(point)
    if tokens is None:
        held = ", ".join(held.name for held in sorted(data.sequences)) or "none"
        raise TrainingDataError(
            f"read point {point.name!r} is not in the training set, whose activations of all "
            f"tokens are {held}; collect it, or load it by name"
        )
    finite = np.isfinite(tokens.values).all(axis=1)
    if not finite.all():
        bad = int(np.count_nonzero(~np.logical_and.reduceat(finite, tokens.starts[:-1])))
        raise TrainingDataError(
            f"activations at {point} are not finite in {bad} of {len(tokens)} queries; collect "
            "those again or leave them out"
        )
    return tokens


def _unit_reduction(rows: NDArray[np.float32], components: int) -> Reduction:
    """``fit_reduction`` in units in which the mean square of a coordinate is 1.

    Descent wants inputs of that size; leading axes stay larger than the others, which is a prior.
    """
    reduction = fit_reduction(rows, components)
    size = np.sqrt(np.mean(np.square(reduction(rows))))
    return replace(reduction, projection=(reduction.projection / size).astype(np.float32))


def _offset(reduction: Reduction, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """What to add to ``x @ weights`` (.., width, out) to make it ``(x - mean) @ weights``."""
    return -(reduction.mean.astype(np.float64) @ weights.astype(np.float64)).astype(np.float32)


class Mlps(nn.Module):
    """One small MLP for each member, hidden layers rectified, over the same inputs (n, in)."""

    def __init__(
        self,
        inputs: NDArray[np.float32],
        *,
        members: int,
        hidden: tuple[int, ...],
        dropout: float,
        base_log_odds: float,
    ) -> None:
        super().__init__()
        self._inputs = torch.from_numpy(inputs)
        self._dropout = nn.Dropout(dropout)
        sizes = (inputs.shape[1], *hidden, 1)
        # He et al. (2015), arXiv 1502.01852: rectified layers keep the size of what they are given.
        self.weights = nn.ParameterList(
            torch.randn(members, before, after) * (2 / before) ** 0.5
            for before, after in pairwise(sizes)
        )
        self.biases = nn.ParameterList(torch.zeros(members, 1, size) for size in sizes[1:])
        with torch.no_grad():
            self.weights[-1].mul_(_SMALL)
            self.biases[-1].fill_(base_log_odds)

    def forward(self, rows: Tensor) -> Tensor:
        """Log-odds (members, rows) of the inputs at ``rows``."""
        x = self._inputs[rows].expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = self._dropout(x) @ weight + bias
            if layer < last:
                x = torch.relu(x)
        return x[..., 0]


class AttentionHeads(nn.Module):
    """Queries and values of each member and head, over tokens (all tokens of all queries, in)."""

    def __init__(
        self,
        tokens: TokenActivations,
        *,
        members: int,
        heads: int,
        variant: AttentionVariant,
        dropout: float,
        base_log_odds: float,
    ) -> None:
        super().__init__()
        self._tokens = torch.from_numpy(tokens.values)
        self._starts = torch.from_numpy(tokens.starts)
        self._variant = variant
        self._dropout = nn.Dropout(dropout)
        width = tokens.values.shape[1]
        # Queries of 0 attend to all tokens alike: one starts from mean pooling.
        self.queries = nn.Parameter(torch.zeros(members, width, heads))
        self.values = nn.Parameter(torch.randn(members, width, heads) * (_SMALL / width**0.5))
        self.bias = nn.Parameter(torch.full((members, 1), base_log_odds))

    def forward(self, rows: Tensor) -> Tensor:
        """Log-odds (members, rows) of the queries at ``rows``."""
        members, width, heads = self.values.shape
        tokens, owner = self._tokens_of(rows)
        # Leaving out the same coordinates of all tokens, others for each member and step, is
        # much cheaper than drawing for each token.
        shown = self._dropout(torch.ones(members, width, 1))
        values = _project(tokens, self.values * shown)
        if self._variant == "max":
            pooled = _maxima(values, owner, len(rows))
        else:
            logits = _project(tokens, self.queries * shown)
            share = torch.exp(logits - _maxima(logits.detach(), owner, len(rows))[owner])
            zeros = values.new_zeros(len(rows), members * heads)
            total = zeros.index_add(0, owner, share)
            pooled = zeros.index_add(0, owner, share * values) / total
        return pooled.unflatten(1, (members, heads)).sum(2).T + self.bias

    def _tokens_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The tokens of some queries (tokens, in), and which of ``rows`` each belongs to."""
        counts = self._starts[rows + 1] - self._starts[rows]
        owner = torch.repeat_interleave(torch.arange(len(rows)), counts)
        first = self._starts[rows] - (torch.cumsum(counts, 0) - counts)
        return self._tokens[first[owner] + torch.arange(len(owner))], owner


def _project(tokens: Tensor, weights: Tensor) -> Tensor:
    """(tokens, in) by (members, in, heads): (tokens, members x heads)."""
    return tokens @ weights.transpose(0, 1).flatten(1)


def _maxima(columns: Tensor, owner: Tensor, count: int) -> Tensor:
    """The largest number in each column among the tokens of each of ``count`` owners."""
    lowest = columns.new_full((count, columns.shape[1]), -torch.inf)
    return lowest.scatter_reduce(0, owner[:, None].expand_as(columns), columns, "amax")


def _train(network: Mlps | AttentionHeads, lessons: _Lessons, *, weight_decay: float) -> None:
    """Weighted cross-entropy by AdamW; every member ends as it was at its best."""
    target = torch.from_numpy(lessons.outcomes).float()
    weight = torch.from_numpy(lessons.weights / lessons.weights.mean()).float()
    held_out = torch.from_numpy(lessons.held_out) * weight
    taught = weight - held_out
    everything = torch.arange(len(target))
    parameters = list(network.parameters())
    kept = [parameter.detach().clone() for parameter in parameters]
    best = torch.full((len(held_out),), torch.inf)
    waited = torch.zeros(len(held_out))
    optimiser = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=weight_decay)
    for _ in range(_MOST_EPOCHS):
        network.train()
        for rows in torch.randperm(len(target)).split(_BATCH):
            # Members share no parameter, so the sum of their losses teaches each on its own.
            loss = (_cross_entropy(network(rows), target[rows]) * taught[:, rows]).sum()
            optimiser.zero_grad()
            (loss / len(rows)).backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            losses = _cross_entropy(network(everything), target) * held_out
        loss_held_out = losses.sum(1) / held_out.sum(1)
        better = loss_held_out < best
        best = torch.where(better, loss_held_out, best)
        waited = torch.where(better, 0, waited + 1)
        for copy, parameter in zip(kept, parameters, strict=True):
            copy[better] = parameter.detach()[better]
        if waited.min() >= _PATIENCE:
            break
    with torch.no_grad():
        for copy, parameter in zip(kept, parameters, strict=True):
            parameter.copy_(copy)


def _cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(
        logits, target.expand_as(logits), reduction="none"
    )


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Chance and threads of torch set for a fit, and given back as they were."""
    threads = torch.get_num_threads()
    torch.set_num_threads(default_threads())
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return tensor.detach().numpy().copy()
