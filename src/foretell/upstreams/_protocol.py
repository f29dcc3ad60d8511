"""What a model that answers over a network must do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol, runtime_checkable

from foretell.errors import UpstreamError
from foretell.records import Answer, Message, Sampling

OnText = Callable[[str], object]
"""Called with each piece of an answer as it arrives; the pieces joined are its text."""


FailureKind = Literal[
    "refused",
    "unauthorised",
    "context_window",
    "busy",
    "error",
    "unreachable",
    "timeout",
    "breaker_open",
    "broke_off",
]
"""Why a call brought no answer.

The request is at fault (``refused``), or longer than the model's context (``context_window``); our
key is not accepted (``unauthorised``); the upstream has too much to do (``busy``), fails or breaks
the protocol (``error``), cannot be spoken to (``unreachable``), takes too long (``timeout``), or
has failed so often that it is left alone (``breaker_open``); the answer ended early
(``broke_off``).
"""


class UpstreamCallError(UpstreamError):
    """A call that brought no answer.

    ``status`` is the HTTP status, ``None`` when there was none. ``retryable`` says whether the
    same call may do better later (busy, overloaded, unreachable), before any text was given out;
    ``retry_after_s`` is how long the upstream asked to be left alone, or is. ``body`` is what a
    refusal said, at most 16 KiB and without the API key; ``None`` when there was none, and for a
    key that was not accepted.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: FailureKind = "error",
        status: int | None = None,
        retryable: bool = False,
        retry_after_s: float | None = None,
        body: bytes | None = None,
    ) -> None:
        super().__init__(message)
        self.kind: FailureKind = kind
        self.status = status
        self.retryable = retryable
        self.retry_after_s = retry_after_s
        self.body = body


@runtime_checkable
class ChatModel(Protocol):
    """Answers a conversation; activations cannot be read. Safe for many calls at once."""

    @property
    def name(self) -> str:
        """What routes and logs call it."""
        ...

    async def chat(
        self, messages: Sequence[Message], sampling: Sampling, *, on_text: OnText | None = None
    ) -> Answer:
        """The whole answer; its pieces go to ``on_text`` as they arrive.

        A trailing assistant message is dropped: this model begins its own answer. Raises
        ``UpstreamCallError``, also after part of the text: an answer is never silently short.
        """
        ...

    async def aclose(self) -> None:
        """Give up its connections; safe to call twice."""
        ...
