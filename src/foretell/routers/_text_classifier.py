"""A small text encoder fine-tuned end to end: the strongest that reads the query alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from foretell.records import RoutingData
from foretell.routers._logistic import Features, FittedLogisticRouter, fit_logistic, log_odds
from foretell.routers._minilm import SentenceEncoder, shared_sentence_encoder
from foretell.routers._protocol import Sees
from foretell.routers._training import best_calibrated, group_folds, labelled_rows

_START_INVERSE_L2 = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TextClassifierRouter:
    """Fine-tunes a sentence encoder with a logistic head on the query's text.

    It stands where others put a fine-tuned BERT (RouteLLM, arXiv 2406.18665) or DeBERTa. The head
    is fitted to the frozen encoder first, and both are taught from there: that keeps what the
    encoder knows (Kumar et al., 2022, arXiv 2202.10054). A fold of groups is held out; it decides
    after which epoch to stop, at the frozen encoder if no epoch helps, and fits the calibration.

    Fitting needs torch (``pip install 'foretell[torch,embedding]'``); what is fitted does not.

    Args:
        encoder: Gives the encoder to start from; all-MiniLM-L6-v2 by default, whose weights are
            fetched when first needed.
        epochs: Passes over the training rows.
        batch: Queries per step.
        body_rate: Learning rate of the encoder, at its highest. Held-out queries are foretold
            better by 1e-4 than by the 3e-5 that is usual for larger encoders.
        head_rate: Learning rate of the head, at its highest.
        weight_decay: AdamW's.
        dropout: While teaching, in every block.
        most_tokens: Of a text; later ones are cut off.
    """

    encoder: Callable[[], SentenceEncoder] = shared_sentence_encoder
    epochs: int = 4
    batch: int = 32
    body_rate: float = 1e-4
    head_rate: float = 1e-3
    weight_decay: float = 0.01
    dropout: float = 0.1
    most_tokens: int = 128
    name: str = "text_classifier"
    sees: Sees = field(default="query", init=False)

    def fit(self, data: RoutingData, rng: np.random.Generator) -> FittedLogisticRouter:
        """Fits on the rows whose ``weak`` is known; see ``Router.fit``."""
        from foretell.routers._torch_encoder import Lesson, Schedule, Taught, fine_tune

        labelled = labelled_rows(data)
        seen, held = group_folds(labelled, rng)[0]
        train, rest = labelled.take(seen), labelled.take(held)
        given = self.encoder()
        encoder = given.with_weights(given.weights, most_tokens=self.most_tokens)
        centre = encoder.encode(train.texts).mean(axis=0, dtype=np.float64)
        features = _centred(encoder, centre)
        head = fit_logistic(features(train), train.weak, train.row_weights(), _START_INVERSE_L2)
        start = Taught(
            weights=encoder.weights,
            coefficients=head[0],
            intercept=head[1],
            held_out=log_odds(features(rest), *head),
        )
        lesson = Lesson(
            ids=encoder.tokens(train.texts), outcomes=train.weak, weights=train.row_weights()
        )
        schedule = Schedule(
            epochs=self.epochs,
            batch=self.batch,
            body_rate=self.body_rate,
            head_rate=self.head_rate,
            weight_decay=self.weight_decay,
            dropout=self.dropout,
        )
        stages = [
            start,
            *fine_tune(start, centre, lesson, encoder.tokens(rest.texts), schedule, rng),
        ]
        best, calibration = best_calibrated(np.array([s.held_out for s in stages]), rest)
        taught = stages[best]
        return FittedLogisticRouter(
            name=self.name,
            features=_centred(
                given.with_weights(taught.weights, most_tokens=self.most_tokens), centre
            ),
            coefficients=taught.coefficients,
            intercept=taught.intercept,
            calibration=calibration,
        )


def _centred(encoder: SentenceEncoder, centre: NDArray[np.float64]) -> Features:
    def features(data: RoutingData) -> NDArray[np.float64]:
        return encoder.encode(data.texts) - centre

    return features
