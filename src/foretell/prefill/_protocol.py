"""What an engine must do: run a prefill, hand out activations, decode on from it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from foretell.records import Answer, FirstToken, Message, ModelIdentity, ReadPoint, Sampling

Gate = Callable[[ReadPoint, NDArray[np.float32]], bool]
"""Asked once per read point, as soon as its vector is complete, in the order of the layers.

``True`` lets the prefill go on; ``False`` declines the query: the layers after it need not be
computed. Runs on the engine's own thread between two layers, so it must be quick and must not
call the engine. What it raises reaches the caller of ``prefill``. When the caller gives the
prefill up while a gate is being asked, ``prefill`` may end before the gate does.
"""

GivenUp = Callable[[], bool]
"""Asked again and again while a prefill waits and runs; ``True``: nobody wants it any more.

Once ``True`` it stays so. Called from any thread and many times a second, so it must be quick; a
``threading.Event``'s ``is_set`` is one. What it raises reaches the caller of ``prefill``, and gives
the prefill up, too.
"""


@dataclass(frozen=True, slots=True, eq=False)
class Prompt:
    """A rendered, tokenised prompt.

    Tokens before ``own_start`` are the shared prefix (system prompt, examples, earlier turns):
    they are kept in the KV cache for the next query, and never enter pooled statistics, whether
    they had to be evaluated this time or not. ``answer_start`` is the given beginning of the
    answer (a trailing assistant message), already part of ``tokens``.
    """

    tokens: tuple[int, ...]
    own_start: int
    answer_start: str = ""

    def __post_init__(self) -> None:
        if not 0 <= self.own_start < max(len(self.tokens), 1):
            raise ValueError(f"own_start {self.own_start} outside {len(self.tokens)} tokens")

    @property
    def own_tokens(self) -> int:
        """Number of tokens after the shared prefix."""
        return len(self.tokens) - self.own_start


class Generation(Protocol):
    """An answer being decoded: iterate for its text, piece by piece.

    The pieces joined, after ``Prompt.answer_start``, are the answer's text. Closing early gives
    the request up; ``answer()`` reads on to the end. One thread reads; any other may close.
    """

    def __iter__(self) -> Iterator[str]: ...

    def answer(self) -> Answer:
        """The finished answer; decodes what is left."""
        ...

    def close(self) -> None:
        """Give up decoding and free what it held; safe to call twice, and from any thread.

        Whoever is reading ends soon, also when waiting for the next piece: with
        ``CancelledError``, or as if nothing had happened if the answer was complete. The engine
        computes at most a few tokens more.
        """
        ...


class Prefill(Protocol):
    """One prefill, held in the KV cache until it is decoded or closed."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def activations(self) -> Mapping[ReadPoint, NDArray[np.float32]]:
        """By read point: (width,) for ``last`` and ``mean``, (own tokens, width) for ``tokens``.

        After an early exit, the points above the stop are absent.
        """
        ...

    @property
    def stopped_at(self) -> int | None:
        """Layer whose gate declined the query; ``None`` when no gate did."""
        ...

    @property
    def first_token(self) -> FirstToken | None:
        """About the token to come; ``None`` when the query was declined."""
        ...

    @property
    def cached_tokens(self) -> int:
        """Tokens taken from the KV cache instead of being evaluated."""
        ...

    @property
    def seconds(self) -> float:
        """Wall time from the start of its first evaluation to the end of the prefill."""
        ...

    def decode(self, sampling: Sampling) -> Generation:
        """Go on from this very prefill: nothing is evaluated twice. May be called once.

        Raises ``InputError`` after an early exit or a second call, and
        ``ContextOverflowError`` when ``max_tokens`` is more than the room set aside.
        """
        ...

    def close(self) -> None:
        """Free its place in the KV cache; safe to call twice."""
        ...

    def __enter__(self) -> Prefill: ...

    def __exit__(self, *exc: object) -> None: ...


@runtime_checkable
class PrefillEngine(Protocol):
    """Runs prefills of one model. Safe to call from many threads at once."""

    @property
    def identity(self) -> ModelIdentity: ...

    @property
    def context_tokens(self) -> int:
        """Most tokens that one prompt with its answer may take."""
        ...

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Prompt:
        """The model's own chat template over the messages, tokenised.

        What the template writes is read as the model's control tokens; the same characters in a
        message are its text, so that no message can end its turn and begin another's.
        """
        ...

    def token_texts(self, prompt: Prompt) -> tuple[str, ...]:
        """The text of each token of ``prompt``, for people to read.

        A control token reads as it is written in the template (``<|im_end|>``). Bytes that are no
        whole character by themselves, and tokens whose text the engine does not know, read as
        U+FFFD.
        """
        ...

    def prefill(
        self,
        prompt: Prompt,
        read_points: Sequence[ReadPoint] = (),
        gate: Gate | None = None,
        *,
        answer_tokens: int = 256,
        given_up: GivenUp | None = None,
    ) -> Prefill:
        """Evaluate the prompt once; read activations; stop early when the gate says so.

        ``answer_tokens`` is the room set aside for the answer: a ``decode`` of up to that many
        tokens is certain to fit. ``given_up`` is how a caller that is waiting here gives up from
        elsewhere: once it says ``True``, this ends with ``CancelledError`` within some 50 ms,
        whether the request waits or is being evaluated, and its place is free soon after. Others
        in the same batch are not disturbed; a request on its own is computed no further than the
        next read point.

        Raises ``UnknownReadPointError``, ``ContextOverflowError``, ``EngineBusyError``,
        ``CancelledError`` or ``EngineClosedError``.
        """
        ...

    def close(self) -> None:
        """Free the model; requests in flight end with ``EngineClosedError``."""
        ...
