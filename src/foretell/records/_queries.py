"""What is asked, what was answered, and how that went."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from foretell.errors import InputError
from foretell.records._models import Role

Message = Mapping[str, Any]
"""One OpenAI-shaped chat message. A trailing ``assistant`` message is the beginning of the
answer: the weak model continues it, and the answer's text starts with it."""

Split = Literal["train", "test"]
FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What is asked, with what is known about it.

    ``group`` is the unit that must not straddle train and test (a template, a document); when
    absent the query is its own group. ``attributes`` are facts a baseline may use, such as
    ``{"field": "city"}``.
    """

    id: str
    messages: tuple[Message, ...]
    reference: Any = None
    group: str | None = None
    split: Split | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict[str, Any])

    def __post_init__(self) -> None:
        if not self.id:
            raise InputError("a query has an empty id; every query needs its own")
        if not self.messages:
            raise InputError(f"query {self.id!r} has no messages; wanted at least one")

    @property
    def text(self) -> str:
        """The query's own text: the content of its last message that is not the assistant's."""
        return last_asked(self.messages)


def last_asked(messages: Sequence[Message]) -> str:
    """Text of the last message that is not the assistant's; ``""`` when there is none."""
    for message in reversed(messages):
        if message.get("role") != "assistant":
            return content_text(message)
    return ""


def content_text(message: Message) -> str:
    """A message's text, its text parts joined when the content is a list of parts."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts: list[Any] = content
        return "".join(str(p.get("text", "")) for p in parts if isinstance(p, Mapping))
    return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How to decode. ``temperature`` 0 is greedy; ``seed`` matters only above 0."""

    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if not 0 <= self.temperature <= 2:
            raise InputError(f"temperature must be between 0 and 2, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if any(not s for s in self.stop):
            raise InputError("stop strings must not be empty")


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens of one answer; ``cached_tokens`` of the prompt were not evaluated again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstToken:
    """What the prefill says about the first token to come.

    ``entropy`` in nats over the vocabulary; ``margin`` is the probability of the likeliest token
    less that of the second; ``probability`` is the likeliest's own.
    """

    entropy: float
    margin: float
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A model's finished answer.

    ``text`` includes a beginning given by a trailing assistant message. ``mean_logprob`` is the
    mean natural log-probability of the generated tokens; ``None`` when the model does not say.
    """

    text: str
    model: str
    finish_reason: FinishReason
    usage: Usage
    mean_logprob: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How well one answer did by one metric.

    ``value`` is 1 for success and 0 for failure, or a rate in between; ``None`` means the
    labeller could not tell, with the reason in ``note``. One outcome per (domain, query, role,
    metric, source, author); a later one replaces it.
    """

    domain: str
    query_id: str
    role: Role
    metric: str
    value: float | None
    source: Literal["human", "code", "judge", "client"]
    author: str = ""
    note: str = ""

    def __post_init__(self) -> None:
        if self.value is not None and not 0 <= self.value <= 1:
            raise InputError(
                f"outcome of query {self.query_id!r} is {self.value}; wanted 0 to 1, or null"
            )
