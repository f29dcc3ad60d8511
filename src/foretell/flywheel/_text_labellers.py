"""Labellers that look at the text of an answer."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, Self, cast

from foretell.errors import InputError
from foretell.flywheel._compare import fold, last_number
from foretell.flywheel._labeller import (
    NO_REFERENCE,
    SUCCESS,
    TRUNCATED,
    Label,
    check_references,
)
from foretell.flywheel._options import check_names, number, required, yes_or_no
from foretell.records import Answer, Query


class Exact:
    """Whether the answer is the reference, or one of them when that is a list.

    White space around both is ignored. With ``folded`` they are compared without case, accents,
    punctuation and extra white space. A truncated answer that is the reference succeeds; one
    that cannot become it any more fails.
    """

    metric = "exact"

    def __init__(self, *, folded: bool = False) -> None:
        self._fold = fold if folded else str.strip

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from command-line options: ``folded`` (yes or no; no when left out)."""
        check_names(cls.metric, options, "folded")
        return cls(folded=yes_or_no(options, "folded", default=False))

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse queries of which none has a reference."""
        check_references(self.metric, queries)

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        if query.reference is None:
            return NO_REFERENCE
        said = self._fold(answer.text)
        wanted = [self._fold(text) for text in _texts(query.reference)]
        if said in wanted:
            return SUCCESS
        if answer.finish_reason == "length" and any(text.startswith(said) for text in wanted):
            return TRUNCATED
        return Label(0.0, "another text")


class Contains:
    """Whether the reference, or one of them when that is a list, stands in the answer.

    Both are compared without case, accents, punctuation and extra white space. With
    ``whole_words`` *Niger* is not in *Nigeria*; turn it off for scripts without spaces.
    """

    metric = "contains"

    def __init__(self, *, whole_words: bool = True) -> None:
        self._edge = " " if whole_words else ""

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from command-line options: ``whole_words`` (yes or no; yes when left out)."""
        check_names(cls.metric, options, "whole_words")
        return cls(whole_words=yes_or_no(options, "whole_words", default=True))

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse queries of which none has a reference."""
        check_references(self.metric, queries)

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        if query.reference is None:
            return NO_REFERENCE
        said = self._edged(answer.text)
        if any(self._edged(text) in said for text in _texts(query.reference)):
            return SUCCESS
        return TRUNCATED if answer.finish_reason == "length" else Label(0.0, "not in the answer")

    def _edged(self, text: str) -> str:
        return f"{self._edge}{fold(text)}{self._edge}"


class Regex:
    """Whether a pattern of Python's ``re`` is found anywhere in the answer.

    Anchor it (``^``, ``$``) or set flags (``(?i)``) in the pattern itself. The query's reference
    does not matter.
    """

    metric = "regex"

    def __init__(self, pattern: str) -> None:
        try:
            self._pattern = re.compile(pattern)
        except re.error as error:
            raise InputError(f"the pattern {pattern!r} cannot be used: {error}") from None

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from command-line options: ``pattern``."""
        check_names(cls.metric, options, "pattern")
        return cls(required(cls.metric, options, "pattern"))

    def check(self, queries: Sequence[Query]) -> None:
        """Nothing is needed."""

    def label(self, query: Query, answer: Answer) -> Label:  # noqa: ARG002 (any labeller gets it)
        """Judge an answer; the query does not matter."""
        if self._pattern.search(answer.text):
            return SUCCESS
        return TRUNCATED if answer.finish_reason == "length" else Label(0.0, "pattern not found")


class Numeric:
    """Whether the last number in the answer is that of the reference.

    The reference is a number, or a text whose last number counts. What a number looks like:
    see ``last_number``. Right means at most ``tolerance`` away. A truncated answer cannot be
    judged: its last number may be yet to come.
    """

    metric = "numeric"

    def __init__(self, *, tolerance: float = 0.0) -> None:
        if not (math.isfinite(tolerance) and tolerance >= 0):
            raise InputError(f"tolerance is {tolerance}; wanted a number of at least 0")
        self._tolerance = Decimal(str(tolerance))

    @classmethod
    def from_options(cls, options: Mapping[str, str]) -> Self:
        """Make one from command-line options: ``tolerance`` (absolute; 0 when left out)."""
        check_names(cls.metric, options, "tolerance")
        return cls(tolerance=number(options, "tolerance", default=0.0))

    def check(self, queries: Sequence[Query]) -> None:
        """Refuse queries of which none has a number as its reference."""
        check_references(self.metric, queries)
        if all(_number(query.reference) is None for query in queries):
            raise InputError("the labeller 'numeric' found no number in any reference")

    def label(self, query: Query, answer: Answer) -> Label:
        """Judge an answer."""
        wanted = _number(query.reference)
        if wanted is None:
            return NO_REFERENCE
        if answer.finish_reason == "length":
            return TRUNCATED
        said = last_number(answer.text)
        if said is None:
            return Label(0.0, "no number")
        # equality first: a difference is rounded to 28 digits
        right = said == wanted or (self._tolerance > 0 and abs(said - wanted) <= self._tolerance)
        return SUCCESS if right else Label(0.0, "another number")


def _texts(reference: Any) -> list[str]:
    """The accepted texts of a reference; booleans as JSON writes them."""
    if isinstance(reference, list):
        return [text for one in cast("list[Any]", reference) for text in _texts(one)]
    return [str(reference).lower() if isinstance(reference, bool) else str(reference)]


def _number(reference: Any) -> Decimal | None:
    if isinstance(reference, bool) or not isinstance(reference, int | float | str):
        return None
    return last_number(str(reference))
