"""The tiny engine: the whole protocol, over a decoder that runs anywhere in milliseconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import (
    ContextOverflowError,
    EngineClosedError,
    InputError,
    UnknownReadPointError,
)
from foretell.prefill._chat_template import ChatTemplate
from foretell.prefill._giving_up import ASK_EVERY_S, refuse_when_given_up
from foretell.prefill._protocol import Gate, GivenUp, Prompt
from foretell.prefill.engines.tiny._decoder import Array, Decoder, KeysAndValues
from foretell.prefill.engines.tiny._handles import TinyPrefill
from foretell.prefill.engines.tiny._text import (
    MARKS,
    N_INPUTS,
    OUTPUTS,
    TEMPLATE,
    text_of,
    tokens_of,
)
from foretell.records import Message, ModelIdentity, ReadPoint

_KEPT_PREFIXES = 8


class TinyEngine:
    """A deterministic model whose weights come from a seed, for tests and examples.

    It knows nothing, yet computes like a real one: its activations depend on every token, a
    declined prefill leaves the layers above undone, and decoding goes on from the same KV cache.
    ``layer_tokens`` counts what was computed: one for each token in each layer.

    ``width`` must be a multiple of 8. Raises ``ConfigError`` for a shape that cannot be built.
    """

    def __init__(
        self,
        *,
        seed: int = 0,
        layers: int = 4,
        width: int = 32,
        context_tokens: int = 512,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._decoder = Decoder(
            seed=seed, layers=layers, width=width, n_inputs=N_INPUTS, n_outputs=len(OUTPUTS)
        )
        self._template = ChatTemplate(
            TEMPLATE,
            bos_token="",
            eos_token="<|im_end|>",  # noqa: S106
            controls=MARKS,
        )
        self._identity = ModelIdentity(
            source="tiny",
            revision=f"seed{seed}",
            weights_sha256=self._decoder.sha256(),
            chat_template_sha256=self._template.sha256,
            engine="tiny",
            quantisation="F64",
            n_layers=layers,
            width=width,
        )
        self._context_tokens = context_tokens
        self._clock = clock
        self._turn = Lock()  # one request computes at a time
        self._closed = False
        self._prefixes: dict[tuple[int, ...], KeysAndValues] = {}
        self.layer_tokens = 0

    @property
    def identity(self) -> ModelIdentity:
        """What its probes are bound to: the weights that the seed gave."""
        return self._identity

    @property
    def context_tokens(self) -> int:
        """Most tokens that one prompt with its answer may take."""
        return self._context_tokens

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Prompt:
        """ChatML over the messages; a token for each byte and each mark."""
        rendered = self._template.render(messages, tools)
        tokens = tokens_of(rendered.text, literal=rendered.literal)
        shared = tokens_of(rendered.text[: rendered.own_start], literal=rendered.literal)
        return Prompt(tokens, len(shared), rendered.answer_start)

    def token_texts(self, prompt: Prompt) -> tuple[str, ...]:
        """The character of each byte, U+FFFD for a part of one, and each mark as it is written."""
        return tuple(text_of(token) for token in prompt.tokens)

    def prefill(
        self,
        prompt: Prompt,
        read_points: Sequence[ReadPoint] = (),
        gate: Gate | None = None,
        *,
        answer_tokens: int = 256,
        given_up: GivenUp | None = None,
    ) -> TinyPrefill:
        """Evaluate the prompt once; read activations; stop early when the gate says so."""
        self._check(prompt, read_points, answer_tokens)
        with self._taken_turn(given_up):
            started = self._clock()
            cache, cached = self._shared_prefix(prompt, given_up)
            activations: dict[ReadPoint, NDArray[np.float32]] = {}
            stopped_at = None
            stream = np.empty(0)
            own = prompt.tokens[len(cache) :]
            for layer, stream in self._run(own, cache, given_up):
                if not _read(layer, stream[-prompt.own_tokens :], read_points, gate, activations):
                    stopped_at = layer
                    break
            return TinyPrefill(
                self,
                prompt=prompt,
                activations=activations,
                stopped_at=stopped_at,
                cached_tokens=cached,
                seconds=self._clock() - started,
                answer_tokens=answer_tokens,
                cache=cache,
                logits=self._decoder.logits(stream[-1]) if stopped_at is None else None,
            )

    def step(self, token: int, cache: KeysAndValues, given_up: GivenUp) -> Array:
        """Logits after one more token; what a generation does between two pieces."""
        with self._taken_turn(given_up):
            return self._evaluated((token,), cache, given_up)

    def close(self) -> None:
        """Free the model; requests in flight end with ``EngineClosedError``."""
        with self._turn:
            self._closed = True
            self._prefixes.clear()

    @contextmanager
    def _taken_turn(self, given_up: GivenUp | None) -> Generator[None]:
        """The engine for one caller; raises when it is closed, or the caller gives up."""
        while not self._turn.acquire(timeout=ASK_EVERY_S):
            refuse_when_given_up(given_up)
        try:
            if self._closed:
                raise EngineClosedError("the tiny engine was closed; make another one")
            refuse_when_given_up(given_up)
            yield
        finally:
            self._turn.release()

    def _run(
        self, tokens: tuple[int, ...], cache: KeysAndValues, given_up: GivenUp | None
    ) -> Iterator[tuple[int, Array]]:
        """The decoder's layers one by one, until the caller gives up."""
        for layer, stream in self._decoder.run(tokens, cache):
            self.layer_tokens += len(tokens)
            yield layer, stream
            refuse_when_given_up(given_up)

    def _check(self, prompt: Prompt, read_points: Sequence[ReadPoint], answer_tokens: int) -> None:
        if not prompt.tokens:
            raise InputError("the prompt has no tokens; render it from at least one message")
        layers = self._identity.n_layers
        for point in read_points:
            if point.layer >= layers:
                raise UnknownReadPointError(
                    f"there is no {point}: the tiny model has layers 0 to {layers - 1}; read one "
                    "of those"
                )
        wanted = len(prompt.tokens) + answer_tokens
        if wanted > self._context_tokens:
            raise ContextOverflowError(
                f"the prompt's {len(prompt.tokens)} tokens and {answer_tokens} for the answer make "
                f"{wanted}, but the context holds {self._context_tokens}; shorten the prompt, or "
                "ask for a shorter answer"
            )

    def _evaluated(
        self, tokens: tuple[int, ...], cache: KeysAndValues, given_up: GivenUp | None
    ) -> Array:
        *_, (_, stream) = self._run(tokens, cache, given_up)
        return self._decoder.logits(stream[-1])

    def _shared_prefix(self, prompt: Prompt, given_up: GivenUp | None) -> tuple[KeysAndValues, int]:
        """A cache that holds the shared prefix, and how many of its tokens were kept before.

        The prefix is evaluated without gates, all layers of it, because it is worth keeping
        whatever becomes of this query.
        """
        shared = prompt.tokens[: prompt.own_start]
        best = max(self._prefixes, key=lambda kept: _common(kept, shared), default=())
        cached = _common(best, shared)
        if cached:
            cache = self._prefixes[best].first(cached)
        else:
            cache = KeysAndValues.empty(self._identity.n_layers, self._identity.width)
        if cached < len(shared):
            self._evaluated(shared[cached:], cache, given_up)
        if shared:
            self._prefixes.pop(shared, None)  # to the end of the queue
            self._prefixes[shared] = cache.first(len(shared))
        if len(self._prefixes) > _KEPT_PREFIXES:
            del self._prefixes[next(iter(self._prefixes))]
        return cache, cached


def _common(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    ends = min(len(one), len(other))
    return next((i for i in range(ends) if one[i] != other[i]), ends)


def _read(
    layer: int,
    own: Array,
    read_points: Sequence[ReadPoint],
    gate: Gate | None,
    activations: dict[ReadPoint, NDArray[np.float32]],
) -> bool:
    """Read the points of one layer; ``False`` once the gate declines the query."""
    for point in sorted({point for point in read_points if point.layer == layer}):
        if point.pooling == "last":
            pooled = own[-1]
        elif point.pooling == "mean":
            pooled = own.mean(axis=0)
        else:
            pooled = own
        activations[point] = pooled.astype(np.float32)
        if gate is not None and not gate(point, activations[point]):
            return False
    return True
