"""What a labeller is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from foretell.errors import InputError
from foretell.records import Answer, Query


@dataclass(frozen=True, slots=True)
class Label:
    """1 for success, 0 for failure, a rate in between, or ``None`` when it cannot be told.

    ``reason`` is short and the same for alike cases, so that reasons can be counted; ``detail`` is
    what there is to say of this case alone. ``confidence``, 0 to 1, is how sure the labeller is of
    the value, ``None`` when it does not say.
    """

    value: float | None
    reason: str
    confidence: float | None = None
    detail: str = ""


SUCCESS = Label(1.0, "")
TRUNCATED = Label(None, "truncated")
NO_REFERENCE = Label(None, "no reference")


@runtime_checkable
class Labeller(Protocol):
    """Judges one answer to one query; always the same way.

    An answer that was cut at its token limit is judged only when the missing rest could not
    change the label, or when it already holds the complete thing that is looked for. Else its
    value is ``None`` with the reason ``truncated``.
    """

    @property
    def metric(self) -> str:
        """The name its outcomes are stored under."""
        ...

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse, with ``InputError``, queries of which none can be labelled."""
        ...

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        ...


Source = Literal["code", "judge"]


@runtime_checkable
class Attributed(Protocol):
    """A labeller whose outcomes are not simply a program's."""

    @property
    def source(self) -> Source:
        """What kind of opinion its outcomes are; ``code`` for labellers that do not say."""
        ...

    @property
    def author(self) -> str:
        """Whose, such as a judge's model; ``""`` for labellers that do not say."""
        ...


def check_references(metric: str, queries: Iterable[Query]) -> None:
    """Refuse queries of which none has a reference to compare with."""
    if all(query.reference is None for query in queries):
        raise InputError(
            f"the labeller {metric!r} compares answers with references, but no query has one; "
            "add 'reference' to the queries and collect again, or choose another labeller"
        )
