"""Recording an engine, as it answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from foretell.prefill._protocol import PrefillEngine
from foretell.prefill.engines.recorded._recording import RecordedAnswer, key_of, save_recording
from foretell.records import Message, ReadPoint, Sampling, Usage


def record(
    engine: PrefillEngine,
    conversations: Iterable[Sequence[Message]],
    path: Path,
    *,
    read_points: Sequence[ReadPoint] = (),
    sampling: Sampling | None = None,
) -> None:
    """Let ``engine`` answer each conversation, and keep answers, pieces and activations.

    ``path`` is ``NAME.jsonl.gz``; activations go to ``NAME.parquet`` beside it. What the engine
    raises ends the recording, and nothing is written.
    """
    sampling = sampling or Sampling()
    save_recording(
        path,
        model=engine.identity.source,
        answers=[_recorded(engine, asked, read_points, sampling) for asked in conversations],
        identity=engine.identity,
        context_tokens=engine.context_tokens,
    )


def _recorded(
    engine: PrefillEngine,
    messages: Sequence[Message],
    read_points: Sequence[ReadPoint],
    sampling: Sampling,
) -> RecordedAnswer:
    prompt = engine.render(messages)
    with engine.prefill(prompt, read_points, answer_tokens=sampling.max_tokens) as prefill:
        generation = prefill.decode(sampling)
        pieces = tuple(generation)
        answer = generation.answer()
        usage = Usage(
            prompt_tokens=answer.usage.prompt_tokens,
            completion_tokens=answer.usage.completion_tokens,
        )
        return RecordedAnswer(
            key=key_of(messages),
            # What was cached is of that run; a replay evaluates nothing.
            answer=replace(answer, usage=usage),
            own_tokens=prompt.own_tokens,
            first_token=prefill.first_token,
            pieces=pieces,
            activations=dict(prefill.activations),
        )
