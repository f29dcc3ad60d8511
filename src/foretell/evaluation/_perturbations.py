"""Changes to a query that leave its answer alone, and so should leave the decision alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, cast, get_args

import numpy as np

from foretell.errors import InputError
from foretell.records import Message, Query, content_text

Perturbation = Literal[
    "typos", "lower", "upper", "whitespace", "punctuation", "paraphrase", "appended"
]

PERTURBATIONS: tuple[Perturbation, ...] = get_args(Perturbation)

_PARAPHRASES = (
    "Please answer: {}",
    "I would like to know: {}",
    "Quick question. {}",
    "Could you help me with this? {}",
    "Hello! {}",
    "{}\nThanks in advance.",
    "Here is my question: {}",
)
_POLITE_ENDS = (" Thank you.", " Thanks a lot!", " I am curious.", " Take your time.")
_ONE_WORD_IN = 6
_SHORTEST_MISTYPED = 4


def perturb(text: str, kind: Perturbation, rng: np.random.Generator) -> str:
    """The text, changed in one way.

    * ``typos``: in about one word of six (one at least, of those with four letters or more), two
      inner letters change places, or one is dropped or doubled.
    * ``lower``, ``upper``: all in one case.
    * ``whitespace``: one blank in four doubled (one at least), and a line break at the end.
    * ``punctuation``: the mark at the end dropped, or a full stop added where there is none.
    * ``paraphrase``: put in another way of asking, ``Please answer: …`` and the like.
    * ``appended``: a friendly sentence at the end.

    Raises:
        InputError: There is no such kind.
    """
    if kind not in _CHANGES:
        raise InputError(
            f"there is no perturbation {kind!r}; use one of {', '.join(PERTURBATIONS)}"
        )
    return _CHANGES[kind](text, rng)


def perturb_query(query: Query, kind: Perturbation, rng: np.random.Generator) -> Query:
    """The query with its own text (see ``Query.text``) changed; all other messages stay."""
    return _with_text(query, lambda text: perturb(text, kind, rng))


def append_text(query: Query, text: str) -> Query:
    """The query with ``text`` at the end of its own text, after a blank."""
    return _with_text(query, lambda own: f"{own} {text}" if text else own)


def _with_text(query: Query, change: Callable[[str], str]) -> Query:
    asked = max(
        (i for i, m in enumerate(query.messages) if m.get("role") != "assistant"), default=None
    )
    if asked is None:
        return query
    messages = list(query.messages)
    messages[asked] = _with_content(messages[asked], change)
    return replace(query, messages=tuple(messages))


def _with_content(message: Message, change: Callable[[str], str]) -> Message:
    """Text parts become one, where the first was; other parts (an image) stay."""
    content = message.get("content")
    changed = change(content_text(message))
    if not isinstance(content, list):
        return {**message, "content": changed}
    parts = cast("list[Any]", content)
    is_text = [isinstance(part, Mapping) and "text" in part for part in parts]
    first = is_text.index(True) if any(is_text) else len(parts)
    kept = [part for part, text in zip(parts, is_text, strict=True) if not text]
    kept.insert(first, {"type": "text", "text": changed})
    return {**message, "content": kept}


def _typos(text: str, rng: np.random.Generator) -> str:
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if word.isalpha() and len(word) >= _SHORTEST_MISTYPED]
    if not long:
        return text
    count = min(len(long), max(1, round(len(words) / _ONE_WORD_IN)))
    for i in rng.choice(long, size=count, replace=False).tolist():
        words[i] = _mistyped(words[i], rng)
    return " ".join(words)


def _mistyped(word: str, rng: np.random.Generator) -> str:
    at = int(rng.integers(1, len(word) - 2))
    before, letter, other, after = word[:at], word[at], word[at + 1], word[at + 2 :]
    # Two equal letters that change places are no typo.
    how = int(rng.integers(0 if letter != other else 1, 3))
    return before + (other + letter, other, letter * 2 + other)[how] + after


def _whitespace(text: str, rng: np.random.Generator) -> str:
    parts = text.split(" ")
    blanks = len(parts) - 1
    if not blanks:
        return text + "\n"
    doubled = set(rng.choice(blanks, size=max(1, blanks // 4), replace=False).tolist())
    joined = parts[0]
    for i, part in enumerate(parts[1:]):
        joined += ("  " if i in doubled else " ") + part
    return joined + "\n"


def _punctuation(text: str, rng: np.random.Generator) -> str:  # noqa: ARG001 - as all changes
    bare = text.rstrip()
    stripped = bare.rstrip(".?!")
    return stripped if stripped != bare else f"{bare}."


def _paraphrase(text: str, rng: np.random.Generator) -> str:
    return _PARAPHRASES[int(rng.integers(len(_PARAPHRASES)))].format(text)


def _appended(text: str, rng: np.random.Generator) -> str:
    return text + _POLITE_ENDS[int(rng.integers(len(_POLITE_ENDS)))]


_CHANGES: Mapping[str, Callable[[str, np.random.Generator], str]] = {
    "typos": _typos,
    "lower": lambda text, _: text.lower(),
    "upper": lambda text, _: text.upper(),
    "whitespace": _whitespace,
    "punctuation": _punctuation,
    "paraphrase": _paraphrase,
    "appended": _appended,
}
