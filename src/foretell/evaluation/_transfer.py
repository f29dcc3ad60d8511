"""What a router knows of a domain that it was never shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError, TrainingDataError
from foretell.evaluation._controls import refuse_leaks
from foretell.evaluation._fits import (
    FitCounter,
    labelled,
    require_distinct_names,
    without_outcomes,
)
from foretell.evaluation._intervals import Floats, Interval, Resamples, Statistic, interval
from foretell.evaluation._statistics import auroc_of
from foretell.probes import spare_one_core
from foretell.records import RoutingData
from foretell.routers import Router

Training = Literal["own", "joint", "others"]
"""Domains that a router was fitted on: the tested one alone, all of them, or all but that one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRow:
    """A router's AUROC on the test queries of one domain, by what it was fitted on.

    ``refused`` says, for a fit that could not be made, why; its AUROC is then ``None``.
    """

    domain: str
    router: str
    auroc: Mapping[Training, Interval]
    refused: Mapping[Training, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Every router on every domain.

    ``mean`` has, by router and training, the mean AUROC over domains; it is undefined unless every
    domain's own is.
    """

    rows: tuple[TransferRow, ...]
    mean: Mapping[str, Mapping[Training, Interval]]

    def to_json(self) -> dict[str, Any]:
        """Plain values for ``json.dumps``."""
        return asdict(self)


def leave_one_domain_out(
    train: RoutingData,
    test: RoutingData,
    routers: Sequence[Router],
    rng: np.random.Generator,
    *,
    resamples: int = 1_000,
    progress: Callable[[int, int], None] | None = None,
) -> Transfer:
    """How well routers do on each domain, fitted with it, with all, and with all others.

    ``others`` is leave-one-domain-out after joint training: what a router that has seen several
    domains knows of the next. Domains are the values of ``domain`` with labelled rows on both
    sides; see ``join_domains`` for data that were collected apart.

    Args:
        train: Queries of two or more domains.
        test: Other queries of them, which share no id and no group with ``train``.
        routers: Each under a name of its own.
        rng: Decides folds and resamples; a router's part does not depend on the others.
        resamples: Bootstrap draws behind each interval, over groups.
        progress: Called with the fits done and the fits in all.

    Raises:
        InputError: Leaks, names that repeat, or fewer than two domains.
        ProbeMismatchError: The two sets were collected on different models.
    """
    refuse_leaks(train, test)
    require_distinct_names(routers)
    train, test = labelled(train), labelled(test)
    domains = sorted(set(train.domain) & set(test.domain))
    if len(domains) < 2:
        raise InputError(
            f"{len(domains)} domains have labelled queries for training and for test "
            f"({', '.join(domains) or 'none'}); leaving one out takes two or more"
        )
    test = test.take(np.isin(test.domain, domains))
    for_draws, *for_routers = rng.spawn(1 + len(routers))
    bench = _Bench(
        train=train.take(np.isin(train.domain, domains)),
        test=test,
        domains=domains,
        draws=Resamples.draw(test.groups, for_draws, resamples, repetitions=test.row_weights()),
    )
    # All domains together are fitted once, each alone and each left out once.
    done = FitCounter(len(routers) * (2 * len(domains) + 1), progress)
    with spare_one_core():
        found = [
            bench.measure(router, generator, done)
            for router, generator in zip(routers, for_routers, strict=True)
        ]
    return Transfer(
        rows=tuple(row for rows, _ in found for row in rows),
        mean={router.name: mean for router, (_, mean) in zip(routers, found, strict=True)},
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Bench:
    """Labelled queries of the domains that are compared."""

    train: RoutingData
    test: RoutingData
    domains: Sequence[str]
    draws: Resamples

    def measure(
        self, router: Router, rng: np.random.Generator, done: FitCounter
    ) -> tuple[list[TransferRow], dict[Training, Interval]]:
        """A row for each domain, and the means over them."""
        fits = self._fits(router, rng, done)
        rows = [
            TransferRow(
                domain=domain,
                router=router.name,
                auroc={training: self._auroc(found[domain], domain) for training, found in fits},
                refused={
                    training: scores
                    for training, found in fits
                    if isinstance(scores := found[domain], str)
                },
            )
            for domain in self.domains
        ]
        return rows, {training: self._mean(found) for training, found in fits}

    def _fits(
        self, router: Router, rng: np.random.Generator, done: FitCounter
    ) -> list[tuple[Training, dict[str, Floats | str]]]:
        """By training and tested domain, the scores of all test queries or why there are none."""
        domain_of = np.array(self.train.domain)
        for_joint, *by_domain = rng.spawn(1 + len(self.domains))
        own, others = dict[str, Floats | str](), dict[str, Floats | str]()
        for domain, generator in zip(self.domains, by_domain, strict=True):
            for_own, for_others = generator.spawn(2)
            own[domain] = self._fit(router, domain_of == domain, for_own, done)
            others[domain] = self._fit(router, domain_of != domain, for_others, done)
        joint = self._fit(router, np.ones(len(domain_of), dtype=bool), for_joint, done)
        return [("own", own), ("joint", dict.fromkeys(self.domains, joint)), ("others", others)]

    def _fit(
        self,
        router: Router,
        rows: NDArray[np.bool_],
        rng: np.random.Generator,
        done: FitCounter,
    ) -> Floats | str:
        unseen = without_outcomes(self.test)
        try:
            return router.fit(self.train.take(rows), rng).score(unseen)
        except TrainingDataError as error:
            return str(error)
        finally:
            done.step()

    def _auroc(self, scores: Floats | str, domain: str) -> Interval:
        rows = self._rows(domain)
        if isinstance(scores, str):
            return Interval(value=None, n=len(rows))
        return interval(auroc_of(scores[rows], self.test.weak[rows]), self.draws, rows)

    def _mean(self, found: Mapping[str, Floats | str]) -> Interval:
        parts: list[tuple[NDArray[np.int64], Statistic]] = []
        for domain, scores in found.items():
            if isinstance(scores, str):
                return Interval(value=None, n=len(self.test))
            rows = self._rows(domain)
            parts.append((rows, auroc_of(scores[rows], self.test.weak[rows])))

        def statistic(weights: Floats) -> Floats:
            return np.mean([auroc(weights[:, rows]) for rows, auroc in parts], axis=0)

        return interval(statistic, self.draws, np.arange(len(self.test)))

    def _rows(self, domain: str) -> NDArray[np.int64]:
        return np.flatnonzero(np.array(self.test.domain) == domain)
