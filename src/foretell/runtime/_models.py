"""Models by configuration: engines that can be read, and models that only answer."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final, Protocol

from foretell.config import (
    LlamacppModel,
    ModelConfig,
    OpenAIModel,
    Price,
    RecordedModel,
    TinyModel,
)
from foretell.errors import EngineUnavailableError
from foretell.prefill import (
    Generation,
    PrefillEngine,
    Progress,
    Prompt,
    requantise,
    resolve_weights,
)
from foretell.prefill.engines.recorded import RecordedAnswers
from foretell.records import Answer, Message, ModelIdentity, Sampling
from foretell.upstreams import BlockingChat, OpenAIChatModel

OnText = Callable[[str], None]

_LEAST_ROOM: Final = 64
"""Tokens of an answer that a context must have room for, unless fewer are asked for."""


class AnsweringModel(Protocol):
    """A model that answers; what it shows of itself is nobody's business."""

    @property
    def name(self) -> str: ...

    @property
    def price(self) -> Price | None: ...

    @property
    def identity(self) -> ModelIdentity | None:
        """Its weights; ``None`` when they are not ours to see."""
        ...

    @property
    def source(self) -> str:
        """Which model it is, whatever the configuration calls it."""
        ...

    @property
    def description(self) -> str:
        """Who really answers, in a few words for people."""
        ...

    def can_answer(self, messages: Sequence[Message]) -> bool:
        """Whether it has an answer to this; only a recording may not."""
        ...

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> Answer:
        """Answer whole; ``on_text`` is told the text piece by piece as it comes."""
        ...

    def close(self) -> None: ...


def open_engine(config: ModelConfig, *, progress: Progress | None = None) -> PrefillEngine:
    """The engine of a model whose activations can be read.

    Raises ``EngineUnavailableError`` for a model behind an API, an engine that is not installed,
    or one that this version does not have.
    """
    match config:
        case LlamacppModel():
            return _open_llamacpp(config, progress)
        case TinyModel():
            from foretell.prefill.engines.tiny import TinyEngine

            return TinyEngine()
        case RecordedModel():
            from foretell.prefill.engines.recorded import RecordedEngine

            return RecordedEngine(config.path)
        case OpenAIModel():
            raise EngineUnavailableError(
                f"{config.model!r} is behind an API, which exposes no activations; "
                "use a model on another engine"
            )
        case _:
            raise EngineUnavailableError(
                f"this version has no engine {config.engine!r}; use llamacpp"
            )


def _open_llamacpp(config: LlamacppModel, progress: Progress | None) -> PrefillEngine:
    from foretell.prefill.engines.llamacpp import LlamaCppEngine

    weights = resolve_weights(config.model, progress=progress)
    if config.requantise:
        weights = requantise(weights, progress=progress)
    return LlamaCppEngine(
        weights.path,
        weights_sha256=weights.sha256,
        source=weights.source,
        revision=weights.revision,
        threads=config.threads,
        context_tokens=config.context_tokens,
        parallel=config.parallel,
    )


class EngineShelf:
    """Open engines by configuration, each open once however many have taken it.

    Two configurations that are equal share an engine: a gateway that changes its settings does not
    load the same weights again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._engines: dict[ModelConfig, PrefillEngine] = {}
        self._taken: Counter[ModelConfig] = Counter()

    def take(self, config: ModelConfig, *, progress: Progress | None = None) -> PrefillEngine:
        """The engine, opened by the first who asks; raises what ``open_engine`` does."""
        with self._lock:
            if config not in self._engines:
                self._engines[config] = open_engine(config, progress=progress)
            self._taken[config] += 1
            return self._engines[config]

    def put_back(self, config: ModelConfig) -> None:
        """Undo one ``take``; the last one closes the engine."""
        with self._lock:
            self._taken[config] -= 1
            engine = None if self._taken[config] else self._engines.pop(config)
        if engine is not None:
            engine.close()


def open_model(
    name: str, config: ModelConfig, *, progress: Progress | None = None
) -> AnsweringModel:
    """A model that answers, whatever serves it."""
    if isinstance(config, OpenAIModel):
        return ApiModel(name, config)
    if isinstance(config, RecordedModel):
        return ReplayedModel(name, RecordedAnswers(config.path), config.price)
    return EngineModel(name, open_engine(config, progress=progress), config.price)


class EngineModel:
    """A model on one of our engines, used only for its answers."""

    def __init__(self, name: str, engine: PrefillEngine, price: Price | None) -> None:
        self.name = name
        self.price = price
        self.identity = engine.identity
        self.source = engine.identity.source
        self.description = f"{engine.identity.source}, running here ({engine.identity.engine})"
        self._engine = engine

    def can_answer(self, messages: Sequence[Message]) -> bool:  # noqa: ARG002
        """It tries everything."""
        return True

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> Answer:
        """Prefill without reading anything, then decode."""
        prompt = self._engine.render(messages)
        room = answer_room(self._engine, prompt, sampling.max_tokens)
        with self._engine.prefill(prompt, answer_tokens=room) as prefill:
            return drain(prefill.decode(replace(sampling, max_tokens=room)), on_text)

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()


class ApiModel:
    """A model behind an OpenAI-compatible API."""

    def __init__(self, name: str, config: OpenAIModel) -> None:
        self.name = name
        self.price = config.price
        self.identity = None
        self.source = config.model
        self.description = f"{config.model} at {config.base_url}"
        self._chat = BlockingChat(
            OpenAIChatModel(
                name=name,
                base_url=config.base_url,
                model=config.model,
                api_key_env=config.api_key_env,
            )
        )

    def can_answer(self, messages: Sequence[Message]) -> bool:  # noqa: ARG002
        """It tries everything."""
        return True

    def answer(
        self, messages: Sequence[Message], sampling: Sampling, on_text: OnText | None = None
    ) -> Answer:
        """Its answer, streamed; raises ``UpstreamError`` when it does not give a whole one."""
        return self._chat.chat(messages, sampling, on_text=on_text)

    def close(self) -> None:
        """Give up calls under way and close the connections."""
        self._chat.close()


class ReplayedModel:
    """Recorded answers of a model that is not here."""

    def __init__(self, name: str, answers: RecordedAnswers, price: Price | None) -> None:
        self.name = name
        self.price = price
        self.identity = None
        self.source = answers.name
        self.description = f"recordings of {answers.name}, made earlier"
        self._answers = answers

    def can_answer(self, messages: Sequence[Message]) -> bool:
        """Whether these messages were recorded."""
        return messages in self._answers

    def answer(
        self,
        messages: Sequence[Message],
        sampling: Sampling,  # noqa: ARG002 - a recording answers the way it did
        on_text: OnText | None = None,
    ) -> Answer:
        """The recorded answer; ``InputError`` for messages that were not recorded."""
        answer = self._answers.answer(messages)
        if on_text is not None:
            on_text(answer.text)
        return answer

    def close(self) -> None:
        """Nothing to free."""


def answer_room(engine: PrefillEngine, prompt: Prompt, answer_tokens: int) -> int:
    """How long an answer an engine can give: as long as asked, or what its context holds.

    Callers ask for thousands of tokens and need some dozen; a limit is no reason to refuse.
    """
    left = engine.context_tokens - len(prompt.tokens)
    return min(answer_tokens, max(left, _LEAST_ROOM))


def asking(model: AnsweringModel, *, max_tokens: int = 16) -> Callable[[Sequence[Message]], str]:
    """The model as a function from messages to the text of a short, greedy answer."""
    sampling = Sampling(max_tokens=max_tokens)

    def ask(messages: Sequence[Message]) -> str:
        return model.answer(messages, sampling).text

    return ask


def drain(generation: Generation, on_text: OnText | None = None) -> Answer:
    """Read a generation to its end, telling ``on_text`` each piece; gives up when that raises."""
    try:
        for piece in generation:
            if on_text is not None:
                on_text(piece)
        return generation.answer()
    except BaseException:
        generation.close()
        raise
