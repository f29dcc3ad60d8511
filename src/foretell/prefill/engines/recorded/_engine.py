"""The recorded engine: replays prefills and answers of a model that is not here."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import (
    ContextOverflowError,
    EngineClosedError,
    InputError,
    UnknownReadPointError,
)
from foretell.prefill._giving_up import answer_given_up, refuse_when_given_up
from foretell.prefill._protocol import Gate, GivenUp, Prompt
from foretell.prefill._stopping_text import StoppingText
from foretell.prefill.engines.recorded._answers import find
from foretell.prefill.engines.recorded._recording import RecordedAnswer, load_recording
from foretell.records import (
    Answer,
    FinishReason,
    Message,
    ModelIdentity,
    ReadPoint,
    Sampling,
    Usage,
    content_text,
)


class RecordedEngine:
    """Replays what a model once read and answered; gates and early exits work as they did live.

    Its prompts hold stand-in tokens, as many as the real prompt had: the number of the recorded
    answer, repeated. It decodes the one answer that was recorded, whatever the temperature and
    the seed, cut at ``max_tokens`` (a recorded piece stands for a token) and at stop strings; it
    cannot go beyond where the recording ended.

    Raises ``InputError`` when the file is not a recording, or one of a model behind an API.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self._path = path
        self._clock = clock
        self._recording = load_recording(path)
        self._answers = list(self._recording.answers.values())
        self._numbers = {answer.key: i for i, answer in enumerate(self._answers)}
        if self._recording.identity is None:
            raise InputError(
                f"the recording {path.name} is of {self._recording.model!r}, a model behind an "
                "API; it can be a route's strong model, but has no activations for a weak one"
            )
        self._identity = replace(self._recording.identity, engine="recorded")
        self._closed = False

    @property
    def identity(self) -> ModelIdentity:
        """Of the recorded model, so its probes fit."""
        return self._identity

    @property
    def context_tokens(self) -> int:
        """That of the recorded engine; when nobody noted it, what the longest answer took."""
        if self._recording.context_tokens is not None:
            return self._recording.context_tokens
        usages = [recorded.answer.usage for recorded in self._answers]
        return max((u.prompt_tokens + u.completion_tokens for u in usages), default=0)

    def render(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Prompt:
        """Stand-in tokens; raises ``InputError`` when these messages were not recorded."""
        recorded = find(self._recording, self._path, messages, tools)
        count = max(recorded.answer.usage.prompt_tokens, 1)
        own = count if recorded.own_tokens is None else recorded.own_tokens
        beginning = content_text(messages[-1]) if messages[-1].get("role") == "assistant" else ""
        return Prompt((self._numbers[recorded.key],) * count, count - own, beginning)

    def token_texts(self, prompt: Prompt) -> tuple[str, ...]:
        """U+FFFD for each token: a recording counts the tokens of a prompt and keeps no text."""
        return ("\ufffd",) * len(prompt.tokens)

    def prefill(
        self,
        prompt: Prompt,
        read_points: Sequence[ReadPoint] = (),
        gate: Gate | None = None,
        *,
        answer_tokens: int = 256,
        given_up: GivenUp | None = None,
    ) -> RecordedPrefill:
        """Hand out what was recorded, layer by layer, until the gate says stop."""
        self.refuse_when_closed()
        started = self._clock()
        if not prompt.tokens or not 0 <= prompt.tokens[0] < len(self._answers):
            raise InputError(
                f"the prompt is not of the recording {self._path.name}; render it with this engine"
            )
        recorded = self._answers[prompt.tokens[0]]
        self._check(prompt, recorded, read_points, answer_tokens)
        refuse_when_given_up(given_up)
        activations: dict[ReadPoint, NDArray[np.float32]] = {}
        stopped_at = None
        for point in sorted(set(read_points)):
            activations[point] = recorded.activations[point]
            if gate is not None and not gate(point, activations[point]):
                stopped_at = point.layer
                break
            refuse_when_given_up(given_up)
        return RecordedPrefill(
            self,
            prompt=prompt,
            recorded=recorded,
            activations=activations,
            stopped_at=stopped_at,
            seconds=self._clock() - started,
            answer_tokens=answer_tokens,
        )

    def close(self) -> None:
        """Requests in flight end with ``EngineClosedError``."""
        self._closed = True

    def refuse_when_closed(self) -> None:
        """Raises ``EngineClosedError`` once ``close`` was called."""
        if self._closed:
            raise EngineClosedError(f"the engine of {self._path.name} was closed; make another one")

    def _check(
        self,
        prompt: Prompt,
        recorded: RecordedAnswer,
        read_points: Sequence[ReadPoint],
        answer_tokens: int,
    ) -> None:
        for point in read_points:
            if point not in recorded.activations:
                names = ", ".join(p.name for p in sorted(recorded.activations)) or "none"
                raise UnknownReadPointError(
                    f"there is no {point} in {self._path.name}: its model has layers 0 to "
                    f"{self._identity.n_layers - 1}, recorded were {names}; read one of those"
                )
        wanted = len(prompt.tokens) + answer_tokens
        if self._recording.context_tokens is not None and wanted > self.context_tokens:
            raise ContextOverflowError(
                f"the prompt's {len(prompt.tokens)} tokens and {answer_tokens} for the answer make "
                f"{wanted}, but the context holds {self.context_tokens}; ask for a shorter answer"
            )


class RecordedPrefill:
    """A replayed prefill."""

    def __init__(
        self,
        engine: RecordedEngine,
        *,
        prompt: Prompt,
        recorded: RecordedAnswer,
        activations: Mapping[ReadPoint, NDArray[np.float32]],
        stopped_at: int | None,
        seconds: float,
        answer_tokens: int,
    ) -> None:
        self._engine = engine
        self._recorded = recorded
        self._answer_tokens = answer_tokens
        self._held = True
        self.prompt = prompt
        self.activations = activations
        self.stopped_at = stopped_at
        self.seconds = seconds
        self.cached_tokens = 0
        self.first_token = recorded.first_token if stopped_at is None else None

    def decode(self, sampling: Sampling) -> RecordedGeneration:
        """Replay the answer; may be called once."""
        if self.stopped_at is not None:
            raise InputError(
                f"this prefill was stopped after layer {self.stopped_at} and cannot be decoded; "
                "send the query to the strong model, or prefill it again without the gate"
            )
        if not self._held:
            raise InputError("this prefill was decoded or closed before; prefill the query again")
        if sampling.max_tokens > self._answer_tokens:
            raise ContextOverflowError(
                f"max_tokens is {sampling.max_tokens}, but the prefill set aside room for "
                f"{self._answer_tokens}; pass answer_tokens={sampling.max_tokens} to it"
            )
        completed = self._recorded.answer.usage.completion_tokens
        if not self._recorded.pieces and sampling.max_tokens < completed:
            raise InputError(
                f"the recorded answer has {completed} tokens and was kept as one text, which "
                f"cannot be cut at {sampling.max_tokens}; allow max_tokens of {completed} or more"
            )
        self._held = False
        return RecordedGeneration(self._engine, self.prompt, self._recorded, sampling)

    def close(self) -> None:
        """Give the replay up; safe to call twice."""
        self._held = False

    def __enter__(self) -> RecordedPrefill:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


class RecordedGeneration:
    """An answer being replayed."""

    def __init__(
        self,
        engine: RecordedEngine,
        prompt: Prompt,
        recorded: RecordedAnswer,
        sampling: Sampling,
    ) -> None:
        self._engine = engine
        self._prompt = prompt
        self._recorded = recorded
        self._sampling = sampling
        self._answer: Answer | None = None
        self._given_up = False
        self._pieces = self._replay()

    def __iter__(self) -> Iterator[str]:
        # Not `yield from`: who stops after some pieces may go on, or ask for the whole answer.
        while (piece := next(self._pieces, None)) is not None:
            yield piece
        if self._answer is None:
            raise answer_given_up()

    def answer(self) -> Answer:
        """The finished answer; replays what is left."""
        for _ in self:
            pass
        assert self._answer is not None  # noqa: S101 - the loop ends in no other way
        return self._answer

    def close(self) -> None:
        """Give the replay up; safe to call twice, and from any thread."""
        self._given_up = True

    def _replay(self) -> Iterator[str]:
        whole = self._recorded.answer
        start = self._prompt.answer_start
        pieces = self._recorded.pieces or (whole.text.removeprefix(start),)
        allowed = pieces[: self._sampling.max_tokens]
        text = StoppingText(self._sampling.stop)
        written = [start]
        replayed = 0
        for piece in allowed:
            self._engine.refuse_when_closed()
            if self._given_up:
                return
            replayed += 1
            if certain := text.feed(piece.encode()):
                written.append(certain)
                yield certain
            if text.stopped:
                break
        if held := text.finish():
            written.append(held)
            yield held
        self._answer = self._as_answer("".join(written), replayed, len(pieces), text.stopped)

    def _as_answer(self, text: str, replayed: int, pieces: int, stopped: bool) -> Answer:
        whole = self._recorded.answer
        if not stopped and replayed == pieces:
            return replace(whole, text=text)
        finish: FinishReason = "stop" if stopped else "length"
        completed = replayed if self._recorded.pieces else whole.usage.completion_tokens
        usage = Usage(prompt_tokens=whole.usage.prompt_tokens, completion_tokens=completed)
        return replace(whole, text=text, finish_reason=finish, usage=usage, mean_logprob=None)
