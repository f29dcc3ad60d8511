"""A recorded model as one that only answers: the strong model of an offline route."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from foretell.errors import InputError
from foretell.prefill.engines.recorded._recording import (
    RecordedAnswer,
    Recording,
    key_of,
    load_recording,
)
from foretell.records import Answer, Message, last_asked


class RecordedAnswers:
    """Gives again what a model once answered; it can answer nothing else.

    Raises ``InputError`` when the file is not a recording.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._recording = load_recording(path, with_vectors=False)

    @property
    def name(self) -> str:
        """Of the model that was recorded."""
        return self._recording.model

    def __len__(self) -> int:
        return len(self._recording.answers)

    def __contains__(self, messages: Sequence[Message]) -> bool:
        return key_of(messages) in self._recording.answers

    def answer(
        self, messages: Sequence[Message], *, tools: Sequence[Mapping[str, Any]] = ()
    ) -> Answer:
        """The recorded answer; raises ``InputError`` when these messages were not recorded."""
        return find(self._recording, self._path, messages, tools).answer


def find(
    recording: Recording,
    path: Path,
    messages: Sequence[Message],
    tools: Sequence[Mapping[str, Any]],
) -> RecordedAnswer:
    """The answer to ``messages``; raises ``InputError`` when there is none."""
    found = recording.answers.get(key_of(messages, tools))
    if found is None:
        raise InputError(
            f"the recording {path.name} has no prompt that asks {last_asked(messages)[:60]!r} "
            f"with these earlier messages, among its {len(recording.answers)}; ask what was "
            f"recorded, or serve the model {recording.model!r} itself"
        )
    return found
