"""One request on its way through the engine, and the two handles its caller holds."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from enum import Enum, auto
from queue import SimpleQueue
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from foretell.errors import ContextOverflowError, InputError
from foretell.prefill._giving_up import answer_given_up
from foretell.prefill._logits import about_first_token
from foretell.prefill._protocol import Gate, Prompt
from foretell.prefill._stopping_text import StoppingText
from foretell.prefill.engines.llamacpp._cells import Lease
from foretell.prefill.engines.llamacpp._sampler import Sampler
from foretell.prefill.engines.llamacpp._tap import LayerRows
from foretell.records import Answer, FirstToken, ReadPoint, Sampling


class Stage(Enum):
    """Where a request is on its way."""

    QUEUED = auto()
    PREFILL = auto()
    HELD = auto()  # prefilled; its caller has not decided yet
    DECODE = auto()
    DONE = auto()


class Request:
    """State of one request; after submission only the engine's thread touches it.

    Except for ``given_up``, which its caller sets, once and for all.
    """

    def __init__(
        self,
        prompt: Prompt,
        read_points: Sequence[ReadPoint],
        gate: Gate | None,
        answer_tokens: int,
    ) -> None:
        self.prompt = prompt
        self.gate = gate
        self.answer_tokens = answer_tokens
        self.points: dict[int, list[ReadPoint]] = {}
        for point in sorted(set(read_points)):
            self.points.setdefault(point.layer, []).append(point)
        # Given up once it has its result: through it the request would keep the prefill alive.
        self.prefilled: Future[LlamaCppPrefill] | None = Future()
        self.given_up = False
        self.stage = Stage.QUEUED
        self.lease: Lease | None = None
        self.evaluated = 0  # tokens of the prompt that are in the cache
        self.cached = 0  # of those, how many were there before
        self.activations: dict[ReadPoint, NDArray[np.float32]] = {}
        self._parts: dict[ReadPoint, list[NDArray[np.float32]]] = {}
        self.stopped_at: int | None = None
        self.gate_error: BaseException | None = None
        self.logits: NDArray[np.float32] | None = None
        self.started = self.finished = 0.0
        # Decoding
        self.sampling: Sampling | None = None
        self.sampler: Sampler | None = None
        self.text: StoppingText | None = None
        self.generated: list[int] = []
        self.fed = 0  # of those, how many are in the cache
        self.logprob = 0.0
        self.output: SimpleQueue[str | Answer | BaseException] = SimpleQueue()
        self.written: list[str] = [prompt.answer_start]

    @property
    def stretch(self) -> int:
        """Tokens left of the stretch the prefill is in: the shared prefix, or the query's own."""
        own_start = self.prompt.own_start
        end = own_start if self.evaluated < own_start else len(self.prompt.tokens)
        return end - self.evaluated

    @property
    def gated(self) -> bool:
        """Whether a gate may stop what is left of the prefill."""
        return self.gate is not None and self.evaluated >= self.prompt.own_start

    @property
    def over(self) -> bool:
        """Whether nobody wants more of its prefill: it was declined, or given up."""
        return self.given_up or self.stopped_at is not None

    def read_layer(
        self, layer: int, rows: LayerRows, first: int, count: int, *, complete: bool
    ) -> None:
        """Take this request's ``count`` rows of a layer; ask the gate once a vector is complete.

        ``complete`` says that the prompt's last token is among the rows.
        """
        if self.over:
            return
        values: NDArray[np.float32] | None = None
        for point in self.points.get(layer, ()):
            if point.pooling == "last":
                if not complete:
                    continue
                vector = rows.read(first + count - 1, 1)[0]
            else:
                values = rows.read(first, count) if values is None else values
                parts = self._parts.setdefault(point, [])
                parts.append(values if point.pooling == "tokens" else values.sum(axis=0))
                if not complete:
                    continue
                if point.pooling == "tokens":
                    vector = np.concatenate(parts)
                else:
                    vector = np.sum(parts, axis=0) / np.float32(self.prompt.own_tokens)
            self.activations[point] = vector
            if not self._gate_lets_go_on(point, vector):
                self.stopped_at = layer
                return

    def _gate_lets_go_on(self, point: ReadPoint, vector: NDArray[np.float32]) -> bool:
        if self.gate is None:
            return True
        try:
            return bool(self.gate(point, vector))
        except BaseException as error:  # noqa: BLE001 - raised to the caller of `prefill`
            self.gate_error = error
            return False


class LlamaCppPrefill:
    """One prefill, held in the KV cache until it is decoded, closed or forgotten."""

    def __init__(
        self,
        request: Request,
        start_decoding: Callable[[Request], None],
        cancel: Callable[[Request], None],
    ) -> None:
        self._request = request
        self._logits = request.logits
        self._first_token: FirstToken | None = None
        self._start_decoding = start_decoding
        self._cancel = cancel
        self._decoded = False
        self._forgotten = weakref.finalize(self, cancel, request)
        self._forgotten.atexit = False

    @property
    def prompt(self) -> Prompt:
        """The prompt as it was given."""
        return self._request.prompt

    @property
    def activations(self) -> Mapping[ReadPoint, NDArray[np.float32]]:
        """By read point; those above an early exit are absent."""
        return self._request.activations

    @property
    def stopped_at(self) -> int | None:
        """Layer whose gate declined the query; ``None`` when no gate did."""
        return self._request.stopped_at

    @property
    def first_token(self) -> FirstToken | None:
        """About the token to come; ``None`` when the query was declined."""
        if self._first_token is None and self._logits is not None:
            self._first_token = about_first_token(self._logits)
        return self._first_token

    @property
    def cached_tokens(self) -> int:
        """Tokens taken from the KV cache instead of being evaluated."""
        return self._request.cached

    @property
    def seconds(self) -> float:
        """Wall time from the start of its first evaluation to the end of the prefill."""
        return self._request.finished - self._request.started

    def decode(self, sampling: Sampling) -> LlamaCppGeneration:
        """Go on from this very prefill; may be called once."""
        if self.stopped_at is not None:
            raise InputError(
                f"this prefill was stopped after layer {self.stopped_at} and cannot be decoded; "
                "send the query to the strong model, or prefill it again without the gate"
            )
        if self._decoded:
            raise InputError("this prefill was decoded or closed before; prefill the query again")
        if sampling.max_tokens > self._request.answer_tokens:
            raise ContextOverflowError(
                f"max_tokens is {sampling.max_tokens}, but the prefill set aside room for "
                f"{self._request.answer_tokens}; pass answer_tokens={sampling.max_tokens} to it"
            )
        self._decoded = True
        self._forgotten.detach()
        self._request.sampling = sampling
        self._start_decoding(self._request)
        return LlamaCppGeneration(self._request, self._cancel)

    def close(self) -> None:
        """Free its place in the KV cache; safe to call twice."""
        if not self._decoded:
            self._decoded = True
            self._forgotten()

    def __enter__(self) -> LlamaCppPrefill:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.close()


class LlamaCppGeneration:
    """An answer being decoded; iterate for its text, or ask for the whole ``answer()``."""

    def __init__(self, request: Request, cancel: Callable[[Request], None]) -> None:
        self._output = request.output
        self._answer: Answer | None = None
        self._error: BaseException | None = None
        self._forgotten = weakref.finalize(self, cancel, request)
        self._forgotten.atexit = False

    def __iter__(self) -> Iterator[str]:
        while self._answer is None:
            if self._error is not None:
                raise self._error
            item = self._output.get()
            if isinstance(item, Answer):
                self._answer = item
                self._forgotten.detach()
            elif isinstance(item, BaseException):
                self._error = item
                self._forgotten.detach()
            elif self._error is None:  # else it was closed while this waited for the piece
                yield item

    def answer(self) -> Answer:
        """The finished answer; decodes what is left."""
        for _ in self:
            pass
        assert self._answer is not None  # noqa: S101 - the loop ends in no other way
        return self._answer

    def close(self) -> None:
        """Give up decoding and free what it held; safe to call twice, and from any thread."""
        if self._answer is None:
            self._error = self._error or answer_given_up()
            self._output.put(self._error)  # whoever reads need not wait for the engine's thread
        self._forgotten()
