"""The sentence encoder once more, in torch, so that it can be taught: needed for fitting only.

``TorchEncoder`` is the forward pass of ``SentenceEncoder``, line by line, over tensors that can
learn, with BERT's dropout. What it has learnt goes back to NumPy as arrays of the same names.
"""

# The types are checked where torch is installed; it is large, so the everyday environment lacks it.
# pyright: reportMissingImports=false, reportUntypedBaseClass=false
# pyright: reportUnknownParameterType=false, reportUnknownLambdaType=false

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from foretell.errors import TrainingDataError
from foretell.routers._minilm import HEAD_WIDTH, NORM_EPSILON
from foretell.threads import default_threads

try:
    import torch
    from torch import Tensor
    from torch.nn import functional
except ImportError as error:
    raise TrainingDataError(
        "fitting the text classifier needs PyTorch, which is not installed; "
        "pip install 'foretell[torch,embedding]'"
    ) from error

Floats = NDArray[np.float64]
Weights = Mapping[str, NDArray[np.float32]]

_BUCKET = 8
"""Batches that are sorted by length together, so that a batch holds little padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """How to fine-tune: AdamW at two learning rates, warmed up over a tenth, then linearly to 0."""

    epochs: int
    batch: int
    body_rate: float
    head_rate: float
    weight_decay: float
    dropout: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Taught:
    """The classifier as it is after an epoch: encoder weights, and a head on centred vectors."""

    weights: Weights
    coefficients: Floats
    intercept: float
    held_out: Floats
    """Log-odds of the queries that were not learnt from."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Lesson:
    """Queries to learn from: token ids, success rates in [0, 1] and repetitions of each row."""

    ids: Sequence[Sequence[int]]
    outcomes: Floats
    weights: Floats


class TorchEncoder:
    """Token ids to unit vectors, with the weights of a ``SentenceEncoder``.

    The embeddings of words and places stay as they are: a few thousand queries show too few of
    them, and they are half of the weights.
    """

    def __init__(self, weights: Weights, *, dropout: float = 0.0) -> None:
        self._tensors = {name: torch.tensor(array) for name, array in weights.items()}
        self._blocks = 1 + max(int(n.split(".")[2]) for n in weights if n.startswith("encoder."))
        self._dropout = dropout
        self.teaching = False
        for tensor in self.learning().values():
            tensor.requires_grad_()

    def learning(self) -> dict[str, Tensor]:
        """The tensors that can learn, by name."""
        return {n: t for n, t in self._tensors.items() if n.startswith("encoder.")}

    def weights(self) -> Weights:
        """All weights as they are now; what can still learn is copied."""
        fixed = {name: t.numpy() for name, t in self._tensors.items() if not t.requires_grad}
        return fixed | {name: t.detach().numpy().copy() for name, t in self.learning().items()}

    def __call__(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Unit vectors (batch, width); rows may differ in length."""
        rows = [torch.tensor(row) for row in ids]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows])
        real = torch.arange(padded.shape[1]) < lengths[:, None]
        states = self._drop(self._embed(padded))
        for block in range(self._blocks):
            states = self._block(states, real, f"encoder.layer.{block}.")
        mean = (states * real[:, :, None]).sum(dim=1) / lengths[:, None]
        return functional.normalize(mean, dim=1)

    def _embed(self, ids: Tensor) -> Tensor:
        embedding = {
            kind: self._tensors[f"embeddings.{kind}_embeddings.weight"]
            for kind in ("word", "position", "token_type")
        }
        states = embedding["word"][ids] + embedding["position"][: ids.shape[1]]
        return self._norm(states + embedding["token_type"][0], "embeddings.LayerNorm")

    def _block(self, states: Tensor, real: Tensor, block: str) -> Tensor:
        mixed = self._linear(self._attend(states, real, block), block + "attention.output.dense")
        states = self._norm(states + self._drop(mixed), block + "attention.output.LayerNorm")
        hidden = functional.gelu(self._linear(states, block + "intermediate.dense"))
        hidden = self._drop(self._linear(hidden, block + "output.dense"))
        return self._norm(states + hidden, block + "output.LayerNorm")

    def _attend(self, states: Tensor, real: Tensor, block: str) -> Tensor:
        batch, tokens, width = states.shape

        def heads(role: str) -> Tensor:
            projected = self._linear(states, f"{block}attention.self.{role}")
            return projected.view(batch, tokens, -1, HEAD_WIDTH).transpose(1, 2)

        mixed = functional.scaled_dot_product_attention(
            heads("query"),
            heads("key"),
            heads("value"),
            attn_mask=real[:, None, None, :],
            dropout_p=self._dropout if self.teaching else 0.0,
        )
        return mixed.transpose(1, 2).reshape(batch, tokens, width)

    def _linear(self, states: Tensor, name: str) -> Tensor:
        return functional.linear(
            states, self._tensors[name + ".weight"], self._tensors[name + ".bias"]
        )

    def _norm(self, states: Tensor, name: str) -> Tensor:
        weight, bias = self._tensors[name + ".weight"], self._tensors[name + ".bias"]
        return functional.layer_norm(states, weight.shape, weight, bias, NORM_EPSILON)

    def _drop(self, states: Tensor) -> Tensor:
        return functional.dropout(states, self._dropout, training=self.teaching)


def fine_tune(
    start: Taught,
    centre: Floats,
    lesson: Lesson,
    held_out: Sequence[Sequence[int]],
    schedule: Schedule,
    rng: np.random.Generator,
) -> Iterator[Taught]:
    """Teaches encoder and head together; yields the classifier after each epoch.

    ``centre`` is subtracted from the vectors before the head, here and wherever it is applied.
    """
    encoder = TorchEncoder(start.weights, dropout=schedule.dropout)
    middle = torch.tensor(centre, dtype=torch.float32)
    head = torch.tensor([*start.coefficients, start.intercept], dtype=torch.float32)
    head.requires_grad_()

    def log_odds(ids: Sequence[Sequence[int]]) -> Tensor:
        return (encoder(ids) - middle) @ head[:-1] + head[-1]

    body = list(encoder.learning().values())
    optimiser = torch.optim.AdamW(
        [
            {"params": body, "lr": schedule.body_rate},
            {"params": [head], "lr": schedule.head_rate},
        ],
        weight_decay=schedule.weight_decay,
    )
    steps = schedule.epochs * -(-len(lesson.ids) // schedule.batch)
    warm = max(1, steps // 10)
    rate = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min((step + 1) / warm, (steps - step) / max(1, steps - warm))
    )
    outcomes = torch.tensor(lesson.outcomes, dtype=torch.float32)
    weights = torch.tensor(lesson.weights / lesson.weights.mean(), dtype=torch.float32)
    with _seeded(int(rng.integers(2**31))):
        for _ in range(schedule.epochs):
            encoder.teaching = True
            for rows in _batches(lesson.ids, schedule.batch, rng):
                losses = functional.binary_cross_entropy_with_logits(
                    log_odds([lesson.ids[row] for row in rows]), outcomes[rows], weights[rows]
                )
                optimiser.zero_grad()
                losses.backward()
                torch.nn.utils.clip_grad_norm_(body, 1.0)
                optimiser.step()
                rate.step()
            encoder.teaching = False
            with torch.no_grad():
                held = [
                    log_odds(held_out[at : at + schedule.batch])
                    for at in range(0, len(held_out), schedule.batch)
                ]
            yield Taught(
                weights=encoder.weights(),
                coefficients=head[:-1].detach().numpy().astype(np.float64),
                intercept=float(head[-1].detach()),
                held_out=torch.cat(held).numpy().astype(np.float64),
            )


def _batches(
    ids: Sequence[Sequence[int]], size: int, rng: np.random.Generator
) -> Iterator[NDArray[np.int64]]:
    """All rows in random order, rows of like length together."""
    lengths = np.array([len(row) for row in ids])
    order = rng.permutation(len(ids))
    batches: list[NDArray[np.int64]] = []
    for bucket in np.split(order, range(_BUCKET * size, len(order), _BUCKET * size)):
        alike = bucket[np.argsort(lengths[bucket], kind="stable")]
        batches += np.split(alike, range(size, len(alike), size))
    return (batches[place] for place in rng.permutation(len(batches)))


@contextmanager
def _seeded(seed: int) -> Generator[None]:
    """Dropout by ``seed`` on one core less than there are; both are as before when it ends."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        torch.set_num_threads(default_threads())
        try:
            yield
        finally:
            torch.set_num_threads(threads)
