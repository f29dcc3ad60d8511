"""What a caller of the tiny engine holds: a prefill, and the answer decoded from it."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from foretell.errors import CancelledError, ContextOverflowError, InputError
from foretell.prefill._giving_up import answer_given_up
from foretell.prefill._logits import about_first_token, log_normaliser
from foretell.prefill._protocol import GivenUp, Prompt
from foretell.prefill._stopping_text import StoppingText
from foretell.prefill.engines.tiny._decoder import Array, KeysAndValues
from foretell.prefill.engines.tiny._text import OUTPUTS, ends_answer
from foretell.records import Answer, FinishReason, FirstToken, ReadPoint, Sampling, Usage


class _Stepper(Protocol):
    def step(self, token: int, cache: KeysAndValues, given_up: GivenUp) -> Array: ...


class TinyPrefill:
    """One prefill with its own KV cache, until it is decoded or closed."""

    def __init__(
        self,
        engine: _Stepper,
        *,
        prompt: Prompt,
        activations: Mapping[ReadPoint, NDArray[np.float32]],
        stopped_at: int | None,
        cached_tokens: int,
        seconds: float,
        answer_tokens: int,
        cache: KeysAndValues,
        logits: Array | None,
    ) -> None:
        self._engine = engine
        self.prompt = prompt
        self.activations = activations
        self.stopped_at = stopped_at
        self.cached_tokens = cached_tokens
        self.seconds = seconds
        self.first_token: FirstToken | None = None if logits is None else about_first_token(logits)
        self._answer_tokens = answer_tokens
        self._cache: KeysAndValues | None = cache
        self._logits = logits

    def decode(self, sampling: Sampling) -> TinyGeneration:
        """Go on from this very prefill; may be called once."""
        if self.stopped_at is not None or self._logits is None:
            raise InputError(
                f"this prefill was stopped after layer {self.stopped_at} and cannot be decoded; "
                "send the query to the strong model, or prefill it again without the gate"
            )
        if self._cache is None:
            raise InputError("this prefill was decoded or closed before; prefill the query again")
        if sampling.max_tokens > self._answer_tokens:
            raise ContextOverflowError(
                f"max_tokens is {sampling.max_tokens}, but the prefill set aside room for "
                f"{self._answer_tokens}; pass answer_tokens={sampling.max_tokens} to it"
            )
        cache, self._cache = self._cache, None
        return TinyGeneration(
            self._engine, self.prompt, sampling, cache, self._logits, self.cached_tokens
        )

    def close(self) -> None:
        """Free its KV cache; safe to call twice."""
        self._cache = None

    def __enter__(self) -> TinyPrefill:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class TinyGeneration:
    """An answer being decoded; iterate for its text, or ask for the whole ``answer()``."""

    def __init__(
        self,
        engine: _Stepper,
        prompt: Prompt,
        sampling: Sampling,
        cache: KeysAndValues,
        logits: Array,
        cached_tokens: int,
    ) -> None:
        self._engine = engine
        self._prompt = prompt
        self._sampling = sampling
        self._cached_tokens = cached_tokens
        self._answer: Answer | None = None
        self._given_up = False
        self._pieces = self._decode(cache, logits)

    def __iter__(self) -> Iterator[str]:
        # Not `yield from`: who stops after some pieces may go on, or ask for the whole answer.
        while (piece := next(self._pieces, None)) is not None:
            yield piece
        if self._answer is None:
            raise answer_given_up()

    def answer(self) -> Answer:
        """The finished answer; decodes what is left."""
        for _ in self:
            pass
        assert self._answer is not None  # noqa: S101 - the loop ends in no other way
        return self._answer

    def close(self) -> None:
        """Give up decoding; safe to call twice, and from any thread."""
        self._given_up = True

    def _decode(self, cache: KeysAndValues, logits: Array) -> Generator[str]:
        rng = np.random.default_rng(self._sampling.seed)
        text = StoppingText(self._sampling.stop)
        written = [self._prompt.answer_start]
        logprobs: list[float] = []
        finish: FinishReason = "length"
        while True:
            if self._given_up:
                return
            choice = _choose(logits, self._sampling, rng)
            token = OUTPUTS[choice]
            if ends_answer(token):
                finish = "stop"
                break
            logprobs.append(float(logits[choice]) - log_normaliser(logits))
            if piece := text.feed(bytes([token])):
                written.append(piece)
                yield piece
            if text.stopped:
                finish = "stop"
                break
            if len(logprobs) == self._sampling.max_tokens:
                break
            try:
                logits = self._engine.step(token, cache, lambda: self._given_up)
            except CancelledError:
                return  # `__iter__` says so, now and to whoever asks again
        if piece := text.finish():
            written.append(piece)
            yield piece
        self._answer = Answer(
            text="".join(written),
            model="tiny",
            finish_reason=finish,
            usage=Usage(
                prompt_tokens=len(self._prompt.tokens),
                completion_tokens=len(logprobs),
                cached_tokens=self._cached_tokens,
            ),
            mean_logprob=float(np.mean(logprobs)) if logprobs else None,
        )


def _choose(logits: Array, sampling: Sampling, rng: np.random.Generator) -> int:
    """Greedy at temperature 0; else a draw among the likeliest that make up ``top_p``."""
    if sampling.temperature == 0:
        return int(np.argmax(logits))
    scaled = logits / sampling.temperature
    p = np.exp(scaled - log_normaliser(scaled))
    order = np.argsort(-p, kind="stable")
    before = np.cumsum(p[order]) - p[order]
    kept = order[before < sampling.top_p]
    return int(rng.choice(kept, p=p[kept] / p[kept].sum()))
