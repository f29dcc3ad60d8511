"""Where a route stands on its ladder and what it waits for, in numbers and in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from foretell.flywheel._advantage import Advantage, labels_to_settle
from foretell.flywheel._ladder_steps import Lack
from foretell.runtime import Step, rung_of, steps_above


@dataclass(frozen=True, slots=True, kw_only=True)
class LadderReport:
    """Where a route stands in a domain, and what its next step needs.

    ``step`` is in force now; ``came_from`` is the one before, where this call moved it. ``looked``
    says whether this call compared anything. ``labels`` are the labelled training queries there
    are. ``evidence`` holds the comparisons of the newest look, ``skipped`` the steps that cannot be
    tried, each with the reason. ``words`` says all this in a sentence.

    ``next_step`` is the one above that the fewest labels would settle, as far as its lead stays
    what it is: about ``labels_needed`` more, of training and test queries as they come (0: the next
    call compares it). ``labels_needed`` is ``None`` where no number of labels would do; both are at
    the top.
    """

    route: str
    domain: str
    weak_model: str | None
    metric: str | None
    step: Step
    came_from: Step | None = None
    looked: bool = False
    next_step: Step | None = None
    labels: int = 0
    labels_needed: int | None = None
    evidence: tuple[Advantage, ...] = ()
    skipped: Mapping[Step, str] = field(default_factory=dict[Step, str])
    words: str = ""

    @property
    def moved(self) -> bool:
        """Whether this call took another step."""
        return self.came_from is not None


def next_step(
    step: Step,
    evidence: Sequence[Advantage],
    lacks: Mapping[Step, Lack],
    *,
    look: int,
    since: int,
) -> tuple[Step | None, int | None]:
    """The step above that the fewest more training labels would settle, and how many these are.

    One that is ahead, and could not be taken, comes before all. ``evidence`` is of the ``look``-th
    look from ``step``, after which ``since`` labels came; ``lacks`` says what keeps others from
    being tried, or taken.
    """
    found = {one.step: one for one in evidence}
    for one in evidence:
        if one.ahead and one.step in lacks:
            return one.step, lacks[one.step].labels
    takes: dict[Step, int] = {}
    for other in steps_above(step):
        if other in lacks:
            needed = lacks[other].labels
        elif other in found:
            needed = labels_to_settle(found[other], look=look)
            needed = None if needed is None else max(1, needed - since)
        else:
            needed = 0
        if needed is not None:
            takes[other] = needed
    if takes:
        nearest = min(takes, key=lambda other: takes[other])
        return nearest, takes[nearest]
    return next(iter(steps_above(step)), None), None


def in_words(report: LadderReport) -> str:
    """What a report says."""
    evidence = [one for one in report.evidence if one.step in steps_above(report.step)]
    if report.came_from is not None:
        (ahead,) = (one for one in report.evidence if one.step == report.step)
        went = "up" if rung_of(report.step) > rung_of(report.came_from) else "back"
        return f"went {went} from {report.came_from} to {report.step}: {ahead.words}"
    said = [one.words for one in evidence]
    if report.next_step is None:
        said.append("there is no higher step")
    elif report.labels_needed is not None:
        more = f"about {report.labels_needed} more labels"
        if report.next_step in [one.step for one in evidence]:
            it = "it" if len(evidence) == 1 else report.next_step
            said.append(f"{more} would settle {it}")
        elif report.labels_needed:
            said.append(f"{more} are needed to compare {report.next_step}")
        else:
            said.append(f"{report.next_step} is compared next")
    said += [f"{step} has to wait: {reason}" for step, reason in report.skipped.items()]
    return f"{report.step}: {'; '.join(said)}"


def of_both_sides(labels: int | None, training: int, test: int) -> int | None:
    """How many labels bring that many for training, if a like share of them is for testing."""
    if labels is None or not training:
        return labels
    return math.ceil(labels * (training + test) / training)
