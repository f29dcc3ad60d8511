"""What becomes of a candidate: a trial in the shadow of the serving probe, promotion, or refusal.

A candidate serves only when the lower bound of its gain is above zero, on the holdout and on the
live requests of its trial together, and its chances are true to their word on both. Labels of
sources that are not trusted have no part in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

from foretell.config import FlywheelConfig
from foretell.errors import InputError
from foretell.flywheel._advantage import look_level
from foretell.flywheel._comparison import Comparison, Paired, compare
from foretell.flywheel._holdout import LEAST_GROUPS, Holdout, holdout_of
from foretell.flywheel._paired import in_shadow, on_holdout
from foretell.flywheel._refit import HISTORY, refit_event, rival_of
from foretell.probes import SavedProbe
from foretell.records import Event
from foretell.runtime import (
    load_pointers,
    load_version,
    locked,
    promote,
    require_probes,
    roll_back,
    set_shadow,
)
from foretell.store import Store, model_key

PromotionState = Literal["promoted", "refused", "shadow", "waiting", "unchanged"]

_DAY_S: Final = 86_400.0
LONGEST_TRIAL_DAYS: Final = 14.0
"""A trial that has not brought its labels by then is over: it would keep others from theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promotion:
    """What was decided about a candidate, and why.

    ``shadow`` means that its trial begins, ``waiting`` that it goes on, ``unchanged`` that the
    version was decided on before. ``before`` is the version that served until now. ``holdout``,
    ``live`` and ``together`` are the evidence: on the holdout, on ``labels`` of at least ``needed``
    live requests, and on both; ``None`` where there is none.
    """

    state: PromotionState
    version: int
    reason: str
    before: int | None = None
    labels: int = 0
    needed: int = 0
    holdout: Comparison | None = None
    live: Comparison | None = None
    together: Comparison | None = None

    @property
    def promoted(self) -> bool:
        """Whether the candidate serves from now on."""
        return self.state == "promoted"


def consider_promotion(
    store: Store,
    domain: str,
    folder: Path,
    *,
    config: FlywheelConfig,
    now: datetime,
    by: str,
    version: int | None = None,
    weak_model: str | None = None,
) -> Promotion | None:
    """Decide on a candidate that ``refit`` made, by the evidence there is now, and do so.

    One that looks no worse than what serves is tried in its shadow, until trusted sources have
    labelled ``config.refit.shadow_labels`` of the requests that both foretold; without any to wait
    for, the holdout alone decides at once. Each candidate is decided on once. Whatever is decided
    goes into an event: ``shadow``, ``promoted`` or ``refused``.

    Args:
        store: Holds the evidence.
        domain: Whose.
        folder: Of all probes.
        config: The flywheel's.
        now: Goes into the event.
        by: Who or what asks.
        version: The candidate; the one on trial when ``None``.
        weak_model: Key of the weak model that answers now; a candidate for another one is refused.

    Returns:
        The decision; ``None`` when no version was given and none is on trial.

    Raises:
        InputError: The version was not made by ``refit``.
    """
    with locked(folder, domain):
        pointers = load_pointers(folder, domain)
        version = pointers.shadow if version is None else version
        if version is None:
            return None
        event = refit_event(store, domain, version)
        if event is None:
            raise InputError(
                f"{domain}@{version} was not judged by any holdout, so there is no evidence to "
                f"promote it by; run foretell flywheel refit, or foretell probes promote "
                f"{domain}@{version} if you know better"
            )
        case = _Case(store, folder, config, load_version(folder, domain, version), event, now)
        found = case.decide(pointers.serving, pointers.shadow, weak_model)
        case.carry_out(found, pointers.shadow, by=by)
        return found


def roll_back_probe(
    store: Store,
    domain: str,
    folder: Path,
    *,
    by: str,
    now: datetime,
    why: str = "rolled back by hand",
) -> int:
    """Let the version before serve again; returns its number, and notes ``rolled_back``.

    Raises what ``runtime.roll_back`` does.
    """
    require_probes(folder, domain)
    with locked(folder, domain):
        before = load_pointers(folder, domain).serving
        version = roll_back(folder, domain)
        details = {"version": version, "before": before, "why": why}
        store.note("rolled_back", domain, by=by, at=now.timestamp(), details=details)
        return version


def promote_probe(
    store: Store,
    domain: str,
    folder: Path,
    version: int,
    *,
    by: str,
    now: datetime,
    why: str = "promoted by hand",
) -> int | None:
    """Let a version serve whatever the evidence says; returns what served, notes ``promoted``.

    Raises what ``runtime.promote`` does.
    """
    require_probes(folder, domain)
    with locked(folder, domain):
        before = load_pointers(folder, domain).serving
        promote(folder, domain, version)
        details = {"version": version, "before": before, "why": why}
        store.note("promoted", domain, by=by, at=now.timestamp(), details=details)
        return before


@dataclass(frozen=True, slots=True)
class _Case:
    """A candidate, and all that its decision is made from."""

    store: Store
    folder: Path
    config: FlywheelConfig
    candidate: SavedProbe
    refit: Event
    now: datetime

    @property
    def domain(self) -> str:
        return self.candidate.card.domain

    @property
    def version(self) -> int:
        return self.candidate.card.version

    def decide(self, serving: int | None, shadow: int | None, weak_model: str | None) -> Promotion:
        """By the evidence of now; nothing is changed yet."""
        if self.version == serving:
            return self._serves_already()
        if shadow != self.version and (earlier := self._decided()) is not None:
            return self._decision("unchanged", f"it was {earlier.kind} before")
        key = model_key(self.candidate.card.model)
        if weak_model not in (None, key):
            return self._decision("refused", "it was fitted on another weak model than answers now")
        rival = rival_of(self.folder, self.domain, key)
        frozen = on_holdout(self.store, self.candidate, rival, self._holdout())
        holdout = self._compared(frozen)
        if holdout is None or holdout.gain.groups < LEAST_GROUPS:
            reason = "too little is left of the holdout that it was judged by; refit again"
            return self._decision("refused", reason)
        needed = self.config.refit.shadow_labels
        if needed and shadow != self.version:
            return self._before_trial(holdout, serving)
        if not needed:
            return self._judged(holdout, serving=serving)
        return self._after_trial(frozen, holdout, rival, serving)

    def carry_out(self, found: Promotion, shadow: int | None, *, by: str) -> None:
        """Move the pointers, and note it down: what a crash leaves between is done again."""
        mine = shadow == self.version
        match found.state:
            case "promoted":
                promote(self.folder, self.domain, self.version)
                self._note("promoted", found, by)
            case "refused":
                self._note("refused", found, by)
                if mine:
                    set_shadow(self.folder, self.domain, None)
            case "shadow":
                set_shadow(self.folder, self.domain, self.version)
                self._note("shadow", found, by)
            case "unchanged" if mine:
                set_shadow(self.folder, self.domain, None)
            case "unchanged" | "waiting":
                pass

    def _serves_already(self) -> Promotion:
        """Nothing to decide, but perhaps to note down, where a crash came in between."""
        served_before = self.refit.details["rival"] == self.candidate.card.name
        if served_before or self._decided() is not None:
            return self._decision("unchanged", "it serves already")
        return self._decision("promoted", "it serves already, which nobody had noted")

    def _before_trial(self, holdout: Comparison, serving: int | None) -> Promotion:
        evidence: dict[str, Any] = {"holdout": holdout, "before": serving}
        if holdout.gain.loss_shown:
            return self._decision("refused", f"it is worse: {holdout.gain}", **evidence)
        if not holdout.calibrated:
            return self._decision("refused", _untrue(holdout), **evidence)
        reason = f"it is tried on live requests; on the holdout it gains {holdout.gain}"
        return self._decision("shadow", reason, **evidence)

    def _after_trial(
        self, frozen: Paired, holdout: Comparison, rival: SavedProbe | None, serving: int | None
    ) -> Promotion:
        since = self._began()
        seen = in_shadow(
            self.store,
            self.candidate,
            rival,
            since=since,
            metric=self.refit.details["metric"],
            weak_model=model_key(self.candidate.card.model),
            trusted=self.config.trusted,
        )
        needed = self.config.refit.shadow_labels
        evidence: dict[str, Any] = {"holdout": holdout, "before": serving, "labels": len(seen)}
        if len(seen) < needed:
            days = (self.now.timestamp() - since) / _DAY_S
            so_far = f"{len(seen)} of {needed} trusted labels of its trial are there"
            if days < LONGEST_TRIAL_DAYS:
                return self._decision("waiting", so_far, **evidence)
            reason = f"only {so_far} after {days:.0f} days"
            return self._decision("refused", reason, **evidence)
        return self._judged(
            holdout, self._compared(seen), self._compared(frozen + seen), serving, len(seen)
        )

    def _judged(
        self,
        holdout: Comparison,
        live: Comparison | None = None,
        together: Comparison | None = None,
        serving: int | None = None,
        labels: int = 0,
    ) -> Promotion:
        decisive = together or holdout
        evidence: dict[str, Any] = {
            "holdout": holdout,
            "live": live,
            "together": together,
            "before": serving,
            "labels": labels,
        }
        if not decisive.gain.shown:
            return self._decision("refused", f"no gain is shown: {decisive.gain}", **evidence)
        if live is not None and live.gain.loss_shown:
            return self._decision("refused", f"it is worse on live ones: {live.gain}", **evidence)
        for one in (decisive, live):
            if one is not None and not one.calibrated:
                return self._decision("refused", _untrue(one), **evidence)
        return self._decision("promoted", f"it gains {decisive.gain}", **evidence)

    def _decision(self, state: PromotionState, reason: str, **evidence: Any) -> Promotion:
        return Promotion(
            state=state,
            version=self.version,
            reason=reason,
            needed=self.config.refit.shadow_labels,
            **evidence,
        )

    def _compared(self, rows: Paired) -> Comparison | None:
        level = look_level(1 - self.config.refit.confidence, self.refit.details["look"])
        return compare(rows, level=level, limit=self.config.drift.ece, rng=np.random.default_rng(0))

    def _holdout(self) -> Holdout:
        return holdout_of(self.store, self.domain, self.refit.details["holdout"])

    def _events(self, kind: str) -> list[Event]:
        """What was noted of this version since it was judged, newest first."""
        events = self.store.events(
            kind=kind, subject=self.domain, since=self.refit.at, limit=HISTORY
        )
        return [event for event in events if event.details["version"] == self.version]

    def _decided(self) -> Event | None:
        return next(iter(self._events("promoted") + self._events("refused")), None)

    def _began(self) -> float:
        """When the trial began; where a crash lost the note, when the candidate was judged."""
        began = self._events("shadow")
        return began[0].at if began else self.refit.at

    def _note(self, kind: str, found: Promotion, by: str) -> None:
        details: Mapping[str, Any] = {
            "version": found.version,
            "before": found.before,
            "why": found.reason,
            "labels": found.labels,
            "look": self.refit.details["look"],
            "holdout": self.refit.details["holdout"],
            "training_data_sha256": self.candidate.card.training_data_sha256,
            "evidence": {
                name: None if one is None else asdict(one)
                for name, one in (
                    ("holdout", found.holdout),
                    ("live", found.live),
                    ("together", found.together),
                )
            },
        }
        self.store.note(kind, self.domain, by=by, at=self.now.timestamp(), details=details)


def _untrue(found: Comparison) -> str:
    return (
        f"its chances are not true to their word: their calibration error is above chance by "
        f"{found.calibration}, where {found.calibration.limit:g} is the limit"
    )
