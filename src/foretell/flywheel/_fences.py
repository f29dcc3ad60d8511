"""Code in an answer: the fenced block, or all of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

_FENCE = re.compile(
    r"""
    ^[ ]{0,3}```[ \t]*(?P<language>[^\s`]*)[^\n`]*\n   # opens, with a language perhaps
    (?P<text>.*?)
    (?P<end>^[ ]{0,3}```[ \t]*$ | \Z)                  # closes, or the answer ends before
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class Block:
    """Text that is code; ``whole`` says that a fence closes it, so nothing of it is missing."""

    text: str
    whole: bool


def code_block(text: str, *languages: str) -> Block:
    """The first fenced block in one of the languages, else the first in any, else all of ``text``.

    An answer that began within a fence, or was told to stop at one, has a block without an end.
    """
    blocks = list(_FENCE.finditer(text))
    for block in (*(one for one in blocks if one["language"].lower() in languages), *blocks):
        return Block(block["text"], whole=bool(block["end"]))
    return Block(text, whole=False)
