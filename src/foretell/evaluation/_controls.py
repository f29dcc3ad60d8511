"""What must hold before a comparison means anything: no leak from train to test, no magic."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from foretell.calibration import auroc
from foretell.errors import InputError, ProbeMismatchError
from foretell.probes import LinearProbe
from foretell.records import RoutingData
from foretell.routers import FittedProbeRouter

_NEAR = 0.9
"""Cosine of letter-gram TF-IDF from which two texts count as near-duplicates."""

_SHUFFLES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What was checked beside the comparison.

    ``near_duplicates`` counts test queries with a text much like one in training.
    ``shuffled_auroc`` is the mean test AUROC of the probe's setting fitted on shuffled outcomes
    ``shuffles`` times: 0.5 but for chance, else something leaks; ``None`` without a probe.
    """

    near_duplicates: int
    shuffled_auroc: float | None
    shuffles: int


def refuse_leaks(train: RoutingData, test: RoutingData) -> None:
    """Refuses queries or groups that are in both sets, ids that repeat, and mixed models.

    Raises:
        InputError: With the count and an example of what is shared or repeated.
        ProbeMismatchError: The two sets come from different weights or chat templates.
    """
    for name, data in (("training", train), ("test", test)):
        if repeated := len(data) - len(set(data.ids)):
            raise InputError(
                f"{repeated} ids come more than once in the {name} set; keep one row for each query"
            )
    for what, of_train, of_test in (
        ("query ids", train.ids, test.ids),
        ("groups", train.groups, test.groups),
    ):
        if shared := sorted(set(of_train) & set(of_test)):
            raise InputError(
                f"{len(shared)} {what} are in both the training and the test set, such as "
                f"{shared[0]!r}; split the queries so that none is"
            )
    if train.model and test.model and not test.model.serves_probes_of(train.model):
        raise ProbeMismatchError(
            f"the training set was collected on {train.model} but the test set on {test.model}; "
            "collect both on one model"
        )


def count_near_duplicates(train: RoutingData, test: RoutingData) -> int:
    """Test queries whose text is nearly that of a training query.

    Nearly: cosine 0.9 or more between TF-IDF vectors of letter 3- to 5-grams over all queries. The
    weights make what all queries share (a template) count for little, and what tells them apart
    for much.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    texts = [f" {' '.join(text.casefold().split())} " for text in (*train.texts, *test.texts)]
    grams = TfidfVectorizer(analyzer="char", ngram_range=(3, 5), max_features=200_000)
    if not any(map(grams.build_analyzer(), texts)):
        return 0
    vectors = grams.fit_transform(texts)
    seen, unseen = vectors[: len(train)], vectors[len(train) :]
    step = 256
    return sum(
        int(((unseen[start : start + step] @ seen.T).max(axis=1).toarray() >= _NEAR).sum())
        for start in range(0, len(test), step)
    )


def shuffled_auroc(
    train: RoutingData, test: RoutingData, router: FittedProbeRouter, rng: np.random.Generator
) -> float | None:
    """Mean test AUROC of ``router``'s setting fitted on outcomes that were shuffled.

    Both sets are labelled. One shuffle strays far from 0.5 when few components carry most of the
    variance, so several are averaged. ``None`` when the test set holds one class.
    """
    point = router.probe.read_point
    probe = LinearProbe(
        read_point=point,
        components=router.probe.components,
        l2=router.selection.chosen.l2 if router.selection else 1.0,
    )
    found: list[float] = []
    for _ in range(_SHUFFLES):
        fitted = probe.fit(train.activations[point], rng.permutation(train.weak))
        value = auroc(np.asarray(fitted.score(test.activations[point])), test.weak)
        if value is not None:
            found.append(value)
    return float(np.mean(found)) if found else None


def check_controls(
    train: RoutingData,
    test: RoutingData,
    router: FittedProbeRouter | None,
    rng: np.random.Generator,
) -> Controls:
    """All controls over labelled sets that passed ``refuse_leaks``."""
    return Controls(
        near_duplicates=count_near_duplicates(train, test),
        shuffled_auroc=router and shuffled_auroc(train, test, router, rng),
        shuffles=_SHUFFLES,
    )
