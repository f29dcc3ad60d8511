"""Moving a route up its ladder: from a rule of thumb to the probe, when the labels say so."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Final

from foretell.config import Config
from foretell.errors import InputError, ProbeFileError, RoutingError, TrainingDataError
from foretell.flywheel._advantage import Advantage, advantage, look_level, next_look_at
from foretell.flywheel._holdout import can_freeze_holdout, load_holdout
from foretell.flywheel._ladder_report import LadderReport, in_words, next_step, of_both_sides
from foretell.flywheel._ladder_steps import Lack, foretelling, lack_of, spread_points
from foretell.flywheel._promotion import consider_promotion
from foretell.flywheel._refit import refit, rival_of
from foretell.records import ReadPoint, RoutingData, Split
from foretell.runtime import (
    LEAST_LABELS,
    RUNGS,
    Standing,
    Step,
    key_by_config,
    ladder_subject,
    load_ladder_rows,
    load_version,
    readable_by,
    rung_of,
    shadow_version,
    standing_of,
    steps_above,
    the_metric,
)
from foretell.store import Store, model_key

_ERROR: Final = 0.05
"""Chance that a route ever leaves a step for one above that is no better; as much for below."""

Progress = Callable[[str], None]
"""Told in words what begins."""


def climb(
    store: Store,
    config: Config,
    route: str,
    domain: str,
    *,
    now: datetime,
    by: str,
    weak_model: str | None = None,
    metric: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> LadderReport:
    """Compare the step in force with those above, and take one that is better.

    Both sides of a comparison are fitted and scored on the same labelled training queries, each
    query by fits that have not seen its group, weighted for those that were not seen; test queries
    stay out of it, for the bar and for the probe's trial. The rungs above are tried one by one
    until one is ahead: a domain that no text tells anything about may still have a good probe. A
    step is taken when the lower bound of its advantage is above 0. Where none is, the step in
    force is compared with the rung below, and left when that is better.

    Looking often finds what is not there. So the first look from a step is on the first labels that
    allow for one, later ones on half as many again (or when the labels first allow for another
    step), and the ``k``-th spends ``1 / (k (k + 1))`` of an error of 5 %, shared among the steps
    compared. A route ever leaves a step for a higher one that is no better with that chance at
    most. Calls in between compare nothing and cost little.

    Each look is noted as an event ``ladder`` of ``route/domain``. The step to the probe waits for
    one to serve: where none of this weak model does, a candidate is trained and judged as any other
    (``refit``, ``consider_promotion``), and the step is taken once it is promoted.

    Args:
        store: Holds the observations.
        config: Names the route, and the folder of probes.
        route: One with ``router: auto``.
        domain: One that the route serves.
        now: Goes on the event, and on a probe's card.
        by: Who asks for it.
        weak_model: Key of the weak model in the store; the one that answered last when not given.
        metric: Which labels count; may be left out when the domain has one kind, or after a look.
        seed: Decides the folds.
        progress: Told which comparison begins.

    Raises:
        InputError: There is no such route, or it has another router.
        TrainingDataError: The domain has several kinds of labels, and none was named.
    """
    if route not in config.routes:
        known = ", ".join(config.routes) or "none"
        raise InputError(f"no route is called {route!r}; known are {known}")
    if (router := config.routes[route].router) != "auto":
        raise InputError(
            f"route {route!r} has router {router!r}, which stays what it is; set router: auto"
        )
    weak_model = weak_model or _answered_last(store, domain, route)
    standing = standing_of(store, route, domain, weak_model) if weak_model else Standing()
    metric = metric or standing.metric
    nothing = LadderReport(
        route=route, domain=domain, weak_model=weak_model, metric=metric, step=standing.step
    )
    if not weak_model or not store.observed(domain, "weak", weak_model):
        return replace(nothing, words=f"{standing.step}: the weak model has answered nothing yet")
    if metric is None and not store.metrics(domain):
        return replace(nothing, words=f"{standing.step}: nothing is labelled yet")
    ladder = _Ladder(
        store=store,
        config=config,
        route=route,
        domain=domain,
        weak_model=weak_model,
        metric=the_metric(store, domain, metric),
        standing=standing,
        seed=seed,
        progress=progress or (lambda _: None),
    )
    return ladder.climb(now=now, by=by)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ladder:
    """One route in one domain, as it stands."""

    store: Store
    config: Config
    route: str
    domain: str
    weak_model: str
    metric: str
    standing: Standing
    seed: int
    progress: Progress

    def climb(self, *, now: datetime, by: str) -> LadderReport:
        rows = self._rows("train")
        lacks: dict[Step, Lack] = {
            step: lack
            for step in steps_above(self.standing.step)
            if (lack := lack_of(step, rows)) is not None
        }
        if self._promoted_since():
            return self._still(rows, lacks, now=now, by=by, taken="probe")
        if self._can_be_judged_now():
            # The comparison stands; what was missing is a probe, and labels to judge one by.
            reason = self._without_probe(now, by)
            taken: Step | None = "probe" if reason is None else None
            return self._still(rows, lacks, now=now, by=by, taken=taken, reason=reason)
        if not self._is_due(len(rows), lacks):
            return self._still(rows, lacks, now=now, by=by)
        look = self.standing.looks + 1
        evidence, failed = self._look(rows, lacks, look_level(_ERROR, look))
        taken = _best(evidence)
        if taken == "probe" and (reason := self._without_probe(now, by)) is not None:
            failed[taken] = reason
            taken = None
        report = self._report(rows, lacks, evidence, failed, look=look, since=0, taken=taken)
        self._note(report, failed, look, now=now, by=by)
        return report

    def _is_due(self, labels: int, lacks: Mapping[Step, Lack]) -> bool:
        """Whether there is something to compare that was not compared on nearly the same labels."""
        possible = self._possible(lacks)
        before = self.standing.labels
        if labels >= next_look_at(before):
            return bool(possible) or rung_of(self.standing.step) > 0
        first = not self.standing.looks and bool(possible)
        return first or any(before < LEAST_LABELS[step] <= labels for step in possible)

    def _possible(self, lacks: Mapping[Step, Lack]) -> list[Step]:
        return [step for step in steps_above(self.standing.step) if step not in lacks]

    def _look(
        self, rows: RoutingData, lacks: Mapping[Step, Lack], level: float
    ) -> tuple[list[Advantage], dict[Step, str]]:
        """Comparisons up to the first rung that is ahead, else with the one below; and failures."""
        possible = self._possible(lacks)
        evidence: list[Advantage] = []
        failed: dict[Step, str] = {}
        height = rung_of(self.standing.step)
        for steps in RUNGS[height + 1 :]:
            tried: list[Step] = [step for step in steps if step in possible]
            evidence += self._compared(tried, rows, level / max(1, len(possible)), failed)
            if _best(evidence) is not None:
                return evidence, failed
        for steps in reversed(RUNGS[:height]):
            below: list[Step] = [step for step in steps if lack_of(step, rows) is None]
            if below:
                evidence += self._compared(below, rows, level / len(below), failed)
                break
        return evidence, failed

    def _compared(
        self, steps: Sequence[Step], rows: RoutingData, level: float, failed: dict[Step, str]
    ) -> list[Advantage]:
        """Each step against the one in force; what cannot be compared goes to ``failed``."""
        found: list[Advantage] = []
        for step in steps:
            self.progress(f"comparing {step} with {self.standing.step}")
            try:
                found.append(self._against_present(step, rows, level))
            except RoutingError as error:
                failed[step] = str(error)
        return found

    def _against_present(self, step: Step, rows: RoutingData, level: float) -> Advantage:
        present = self.standing.step
        if "probe" in (step, present):
            rows = self._with_vectors()
        both = rows.take(readable_by(step, rows) & readable_by(present, rows))
        if (lack := lack_of(step, both) or lack_of(present, both)) is not None:
            raise TrainingDataError(f"of what both {step} and {present} can read, {lack.reason}")
        return advantage(
            both,
            (step, foretelling(step)),
            (present, foretelling(present)),
            level=level,
            seed=self.seed,
        )

    def _rows(self, split: Split, read_points: Sequence[ReadPoint] | None = ()) -> RoutingData:
        return load_ladder_rows(
            self.store,
            self.domain,
            split,
            weak_model=self.weak_model,
            metric=self.metric,
            read_points=read_points,
        )

    def _with_vectors(self) -> RoutingData:
        """Training queries with some of the activations that all of them have.

        Where none are common to all, of those that have each of them.
        """
        stored = self.store.read_points(self.domain, weak_model=self.weak_model)
        pooled = [point for point in stored if point.pooling != "tokens"]
        if not pooled:
            raise TrainingDataError(
                "no activations are kept; set store.traffic.vectors to full, or run foretell "
                "collect"
            )
        try:
            rows = self._rows("train", None)
        except TrainingDataError:
            rows = self._rows("train", pooled)
        return rows.read_at(*spread_points(list(rows.activations)))

    def _without_probe(self, now: datetime, by: str) -> str | None:
        """``None`` once a probe of this weak model serves; otherwise why none does.

        A first probe is judged as any other candidate: by trusted labels, and on trial.
        """
        folder = self.config.probes.dir
        if rival_of(folder, self.domain, self.weak_model) is not None:
            return None
        if (candidate := self._on_trial()) is not None:
            return f"it is ahead, and {candidate} is still on trial"
        self.progress("training a probe")
        try:
            candidate = refit(
                self.store,
                self.domain,
                folder,
                config=self.config.flywheel,
                now=now,
                by=by,
                weak_model=self.weak_model,
                strong_model=self._strong_model(),
                metric=self.metric,
                seed=self.seed,
            )
            found = consider_promotion(
                self.store,
                self.domain,
                folder,
                config=self.config.flywheel,
                now=now,
                by=by,
                version=candidate.version,
                weak_model=self.weak_model,
            )
        except RoutingError as error:
            return f"it is ahead, but no probe can serve: {error}"
        if found is None or found.promoted:
            return None
        return f"it is ahead, and {candidate.probe} is not promoted yet: {found.reason}"

    def _on_trial(self) -> str | None:
        """The probe of this weak model that is on trial: another one would end that trial."""
        folder, domain = self.config.probes.dir, self.domain
        try:
            version = shadow_version(folder, domain)
            if version is None:
                return None
            card = load_version(folder, domain, version).card
        except ProbeFileError:
            return None  # damaged: a new one is the cure
        return card.name if model_key(card.model) == self.weak_model else None

    def _promoted_since(self) -> bool:
        """Whether the probe was ahead at the last look, and one has come to serve since."""
        folder = self.config.probes.dir
        return self._probe_was_ahead() and (
            rival_of(folder, self.domain, self.weak_model) is not None
        )

    def _can_be_judged_now(self) -> bool:
        """Whether the probe was ahead, and trusted labels to judge a first one by came since."""
        if not self._probe_was_ahead():
            return False
        known = load_holdout(
            self.store, self.domain, metric=self.metric, weak_model=self.weak_model
        )
        return known is None and can_freeze_holdout(
            self.store,
            self.domain,
            metric=self.metric,
            trusted=self.config.flywheel.trusted,
            weak_model=self.weak_model,
        )

    def _probe_was_ahead(self) -> bool:
        """Whether it was at the last look, and is not the step in force."""
        event = self.standing.event
        noted = () if event is None or not self.standing.looks else event.details["evidence"]
        above = "probe" in steps_above(self.standing.step)
        return above and any(one["step"] == "probe" and Advantage(**one).ahead for one in noted)

    def _strong_model(self) -> str | None:
        """The key of the first strong model's answers, where its name tells."""
        return key_by_config(self.config.models[self.config.routes[self.route].strong[0]])

    def _still(
        self,
        rows: RoutingData,
        lacks: Mapping[Step, Lack],
        *,
        now: datetime,
        by: str,
        taken: Step | None = None,
        reason: str | None = None,
    ) -> LadderReport:
        """By what the last look found, if there was one; nothing is compared.

        ``reason`` is why the probe cannot be taken by now, where that was tried again.
        """
        event, looks = self.standing.event, self.standing.looks
        noted = {} if event is None or not looks else event.details
        evidence = [Advantage(**one) for one in noted.get("evidence", ())]
        failed: dict[Step, str] = {} if taken else dict(noted.get("failed", {}))
        if reason is not None:
            failed["probe"] = reason
        since = len(rows) - self.standing.labels
        report = self._report(rows, lacks, evidence, failed, look=looks, since=since, taken=taken)
        if taken or reason is not None:
            self._note(report, failed, looks, now=now, by=by, looked_at=self.standing.labels)
        return replace(report, looked=False)

    def _report(
        self,
        rows: RoutingData,
        lacks: Mapping[Step, Lack],
        evidence: Sequence[Advantage],
        failed: Mapping[Step, str],
        *,
        look: int,
        since: int,
        taken: Step | None,
    ) -> LadderReport:
        step = taken or self.standing.step
        nearest, labels = next_step(
            step,
            () if taken else evidence,
            {**{other: Lack(reason=reason) for other, reason in failed.items()}, **lacks},
            look=look,
            since=since,
        )
        report = LadderReport(
            route=self.route,
            domain=self.domain,
            weak_model=self.weak_model,
            metric=self.metric,
            step=step,
            came_from=self.standing.step if taken else None,
            looked=True,
            next_step=nearest,
            labels=len(rows),
            labels_needed=of_both_sides(labels, len(rows), len(self._rows("test"))),
            evidence=tuple(evidence),
            skipped={
                **{other: lack.reason for other, lack in lacks.items() if lack.labels is None},
                **failed,
            },
        )
        return replace(report, words=in_words(report))

    def _note(
        self,
        report: LadderReport,
        failed: Mapping[Step, str],
        look: int,
        *,
        now: datetime,
        by: str,
        looked_at: int | None = None,
    ) -> None:
        self.store.note(
            "ladder",
            ladder_subject(self.route, self.domain),
            by=by,
            at=now.timestamp(),
            details={
                "step": report.step,
                "came_from": report.came_from,
                "weak_model": self.weak_model,
                "metric": self.metric,
                "looks": 0 if report.moved else look,
                # The next look counts from those that the last one saw.
                "labels": report.labels if looked_at is None or report.moved else looked_at,
                "evidence": [asdict(one) for one in report.evidence],
                "failed": dict(failed),
                "words": report.words,
            },
        )


def _best(evidence: Sequence[Advantage]) -> Step | None:
    """The step that is furthest ahead, of those that are beyond chance."""
    ahead = [one for one in evidence if one.ahead]
    return max(ahead, key=lambda one: one.value).step if ahead else None


def _answered_last(store: Store, domain: str, route: str) -> str | None:
    """Key of the weak model of the newest request, else of the newest weak answer in the store."""
    newest = store.traffic(domain, route=route, limit=1).weak_models
    if newest and newest[0]:
        return newest[0]
    key = None
    for one in store.observations(domain, "weak"):
        key = model_key(one.answer.model if one.model is None else one.model)
    return key
