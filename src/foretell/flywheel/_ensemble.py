"""Several labellers that vote."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, Self

from foretell.errors import InputError
from foretell.flywheel._labeller import TRUNCATED, Attributed, Label, Labeller, Source
from foretell.flywheel._options import one_of, required
from foretell.records import Answer, Query

Vote = Literal["majority", "all", "any"]

_VOTES: Final[tuple[Vote, ...]] = ("majority", "all", "any")


class Ensemble:
    """Several labellers that vote; by the metric ``ensemble``.

    An answer succeeds by the ``majority`` of all members, by ``all``, or by ``any``. A member that
    cannot tell has not voted, and the answer is labelled only when the missing votes could not
    change that; else it is unlabelled. A member's rate above one half is a vote for success, below
    for failure, at one half none.

    Where members disagree, the reason names those who said no, also of a success. The confidence is
    the share of members that voted as the label is. Its outcomes are a judge's as soon as one
    member is.

    Args:
        members: Labellers by what reasons call them; at least two.
        vote: Whose word counts.
    """

    metric = "ensemble"

    def __init__(self, members: Mapping[str, Labeller], *, vote: Vote = "majority") -> None:
        if len(members) < 2:
            raise InputError(f"an ensemble needs two labellers or more, got {len(members)}")
        self._members = dict(members)
        self._vote: Vote = vote

    @classmethod
    def from_options(
        cls, options: Mapping[str, str], make: Callable[[str, Mapping[str, str]], Labeller]
    ) -> Self:
        """Make one from options.

        ``of`` lists labellers, as ``exact,numeric``, or by names of one's own, as
        ``strict:regex,loose:regex``. ``vote`` is majority, all or any. An option of a member has
        its name before a dot, as ``loose.pattern``.
        """
        listed = [entry.strip() for entry in required("ensemble", options, "of").split(",")]
        labellers = dict[str, str]()
        for entry in listed:
            name, colon, labeller = entry.partition(":")
            if name in labellers:
                raise InputError(
                    f"two members of the ensemble are called {name!r}; name them, as in "
                    f"of=first:{labeller or name},second:{labeller or name}"
                )
            labellers[name] = labeller if colon else name
        known = {"of", "vote"}
        for option in options:
            member = option.partition(".")[0]
            if option not in known and (member == option or member not in labellers):
                raise InputError(
                    f"the labeller 'ensemble' has no option {option!r}; it has of, vote, and those "
                    f"of its members, as in {listed[0].partition(':')[0]}.NAME"
                )
        vote = one_of(options, "vote", *_VOTES)
        members = {
            name: make(
                labeller,
                {
                    option.removeprefix(f"{name}."): value
                    for option, value in options.items()
                    if option.startswith(f"{name}.")
                },
            )
            for name, labeller in labellers.items()
        }
        return cls(members, vote=next(known for known in _VOTES if known == vote))

    @property
    def source(self) -> Source:
        """``judge`` as soon as one member's is."""
        judged = any(
            isinstance(member, Attributed) and member.source == "judge"
            for member in self._members.values()
        )
        return "judge" if judged else "code"

    @property
    def author(self) -> str:
        """The authors of the members that have one."""
        authors = (m.author for m in self._members.values() if isinstance(m, Attributed))
        return ", ".join(dict.fromkeys(author for author in authors if author))

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse what any member refuses."""
        for member in self._members.values():
            member.check(queries)

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        labels = {name: member.label(query, answer) for name, member in self._members.items()}
        votes = {name: _vote(label) for name, label in labels.items()}
        yes = [name for name, vote in votes.items() if vote is True]
        no = [name for name, vote in votes.items() if vote is False]
        value = self._count(len(yes), len(no), len(votes))
        detail = "; ".join(
            f"{name}: {label.reason or label.detail}"
            for name, label in labels.items()
            if label.reason or label.detail
        )
        if value is None:
            silent = [labels[name] for name, vote in votes.items() if vote is None]
            if silent and all(label.reason == TRUNCATED.reason for label in silent):
                return Label(None, TRUNCATED.reason, None, detail)
            return Label(None, _who(yes, no) or "nobody could tell", None, detail)
        agreeing = yes if value else no
        reason = _who(yes, no) if yes and no else ("" if value else "all say no")
        return Label(value, reason, len(agreeing) / len(votes), detail)

    def _count(self, yes: int, no: int, members: int) -> float | None:
        """The label that the votes not cast cannot change."""
        match self._vote:
            case "all":
                return 0.0 if no else 1.0 if yes == members else None
            case "any":
                return 1.0 if yes else 0.0 if no == members else None
            case "majority":
                if 2 * yes > members:
                    return 1.0
                return 0.0 if 2 * no > members else None


def _vote(label: Label) -> bool | None:
    if label.value is None or label.value == 0.5:
        return None
    return label.value > 0.5


def _who(yes: Sequence[str], no: Sequence[str]) -> str:
    if yes and no:
        return f"disagreement: {', '.join(no)} against {', '.join(yes)}"
    if yes or no:
        return f"too few votes: only {', '.join(yes or no)}"
    return ""
