"""How control tokens are spelt, and where a prompt spells them without meaning them."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Collection, Iterator, Sequence
from itertools import groupby, pairwise
from operator import itemgetter

Span = tuple[int, int]
"""A range of characters: the first, and the one after the last."""


class ControlTexts:
    """The texts that a tokeniser reads as control tokens, such as ``<|im_end|>``."""

    def __init__(self, texts: Collection[str]) -> None:
        wanted = sorted(set(texts) - {""})
        # Thousands of them are no rarity, and a hostile prompt may consist of their beginnings.
        self._pattern = re.compile(_any_of(wanted) if wanted else "(?!)")

    def any_in(self, text: str) -> bool:
        """Whether ``text`` spells one."""
        return self._pattern.search(text) is not None

    def spans(self, text: str) -> list[Span]:
        """Where they are, from left to right, at each place the longest."""
        return [found.span() for found in self._pattern.finditer(text)]

    def bracketed(self, text: str, *, opening: str, closing: str) -> str:
        """``text`` with brackets around each of them."""
        return self._pattern.sub(lambda found: opening + found[0] + closing, text)

    def meant(self, text: str, literal: Sequence[Span]) -> list[Span]:
        """Where they are meant as control tokens: touching none of the ``literal`` ranges."""
        return [span for span in self.spans(text) if not _touches(span, literal)]

    def stretches(self, text: str, literal: Sequence[Span]) -> Iterator[tuple[str, bool]]:
        """``text`` in pieces, and whether control tokens are to be recognised in each.

        They are not in a piece that holds a literal range, which reaches from one control token
        that is meant to the next, so that ordinary words are never cut.
        """
        meant = self.meant(text, literal)
        done = 0
        for (_, start), (end, _) in pairwise([(0, 0), *meant, (len(text), len(text))]):
            if _touches((start, end), literal):
                yield text[done:start], True
                yield text[start:end], False
                done = end
        yield text[done:], True


def _touches(span: Span, others: Sequence[Span]) -> bool:
    """Whether ``span`` shares a character with one of ``others``, which are in order."""
    place = bisect_right(others, span[0], key=itemgetter(1))  # the first that ends after it begins
    return place < len(others) and others[place][0] < span[1]


def _any_of(texts: Sequence[str]) -> str:
    """A pattern for any of the sorted ``texts``, the longest first; shared beginnings come once."""
    shared = _common(texts[0], texts[-1])
    rest = [text[shared:] for text in texts]
    branches = [_any_of([*group]) for first, group in groupby(rest, key=lambda t: t[:1]) if first]
    pattern = re.escape(texts[0][:shared])
    if not branches:
        return pattern
    return f"{pattern}(?:{'|'.join(branches)}){'?' if '' in rest else ''}"


def _common(one: str, other: str) -> int:
    """Number of leading characters that two texts share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), len(one))
