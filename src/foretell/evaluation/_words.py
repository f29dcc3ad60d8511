"""Numbers and names as the report says them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from foretell.evaluation._intervals import Interval

UNDEFINED: Final = "undefined"
Formatter = Callable[[float | None], str]
_MINUS: Final = "\N{MINUS SIGN}"
_THIN: Final = "\N{NARROW NO-BREAK SPACE}"

ROUTERS: Final = {
    "probe": "reads the weak model's activations while it reads the query",
    "embedding": "logistic regression on a sentence embedding of the query",
    "knn": "the most similar training queries, by sentence embedding",
    "mf": "matrix factorisation on a sentence embedding (RouteLLM)",
    "sw_ranking": "ranking weighted by similarity to training queries (RouteLLM)",
    "text_classifier": "a fine-tuned text model",
    "tfidf": "TF-IDF: logistic regression on the words of the query",
    "length": "number of tokens of the query",
    "keyword": "fixed rules on words in the query",
    "domain": "which domain or kind of question the query is, nothing else",
    "first_token_entropy": "how unsure the weak model is of its first token",
    "answer_logprob": "how sure the weak model was of its finished answer",
    "cascade": "the probe first, then how sure the finished answer was",
    "llm": "a language model asked how difficult the query is",
    "random": "drawing lots",
    "weak": "always the weak model",
    "strong": "always the strong model",
}
"""By the name of a router that comes with foretell, what it goes by."""

SPOKEN: Final = {
    "tfidf": "TF-IDF",
    "knn": "nearest neighbours",
    "mf": "matrix factorisation",
    "sw_ranking": "similarity-weighted ranking",
    "text_classifier": "the text classifier",
    "first_token_entropy": "first-token entropy",
    "llm": "the language model asked for a difficulty",
}
"""Names that read badly in a sentence, and what is said instead."""

PERTURBATIONS: Final = {
    "typos": "typing errors",
    "lower": "all in lower case",
    "upper": "all in upper case",
    "whitespace": "extra blanks",
    "punctuation": "other punctuation at the end",
    "paraphrase": "asked in another way",
    "appended": "a friendly sentence added",
    "confounder": "an attacker's string added",
}
"""By kind of change, the same in words."""


def number(value: float | None, digits: int = 3) -> str:
    """``0.812``; a true minus, and ``undefined`` for none."""
    return UNDEFINED if value is None else _plain(f"{value:.{digits}f}")


def signed(value: float | None, digits: int = 3) -> str:
    """``+0.081``."""
    return UNDEFINED if value is None else _plain(f"{value:+.{digits}f}")


def percent(value: float | None, digits: int = 1) -> str:
    """``43.1 %``."""
    return UNDEFINED if value is None else _plain(f"{100 * value:.{digits}f}") + f"{_THIN}%"


def dollars(value: float | None) -> str:
    """``0.0025``: four decimals below a dollar, two above."""
    return UNDEFINED if value is None else _plain(f"{value:.{4 if abs(value) < 1 else 2}f}")


def between(interval: Interval) -> str:
    """``0.78 to 0.84``, the interval alone; empty where there is none."""
    return _between(interval, number)


def percent_between(interval: Interval) -> str:
    """``40.2 % to 45.9 %``; empty where there is no interval."""
    return _between(interval, percent)


def dollars_between(interval: Interval) -> str:
    """As ``between``, in US dollars."""
    return _between(interval, dollars)


def spoken(name: str) -> str:
    """A router's name in a sentence."""
    return SPOKEN.get(name, name)


def compact(interval: Interval, shown: Formatter) -> str:
    """``0.78–0.84`` or ``26.2–41.1 %``, for narrow columns; "to" where a minus would confuse."""
    text = _between(interval, shown)
    if _MINUS in text:
        return text
    return text.replace(f"{_THIN}% to ", " to ").replace(" to ", "\N{EN DASH}")


def clipped(text: str, most: int = 400) -> str:
    """The text, or as much of it as the report shows."""
    return text if len(text) <= most else text[:most] + "\N{HORIZONTAL ELLIPSIS}"


def _between(interval: Interval, shown: Formatter) -> str:
    if interval.low is None or interval.high is None:
        return ""
    return f"{shown(interval.low)} to {shown(interval.high)}"


def _plain(text: str) -> str:
    # Rounded to nothing is nothing: "-0.0" would say that there is a loss.
    if text.startswith(("-", "+")) and not text.strip("-+0."):
        text = text[1:]
    return text.replace("-", _MINUS)
