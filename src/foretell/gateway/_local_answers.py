"""Answers of models in this process, in the shape that an upstream would give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from foretell.gateway._bodies import json_bytes
from foretell.gateway._frames import DONE_FRAME, frame
from foretell.records import Answer, Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAnswer:
    """Writes one answer as ``chat.completion``, or as the ``chat.completion.chunk`` frames.

    ``created`` is in seconds since 1970; ``model`` names who answers. ``given`` is the beginning
    of the answer that the caller sent as a trailing assistant message: an ``Answer`` repeats it,
    the pieces that are streamed do not, and so neither does the body.
    """

    id: str
    created: int
    model: str
    given: str = ""

    def body(self, answer: Answer) -> bytes:
        """The whole answer as ``chat.completion``."""
        message = {
            "role": "assistant",
            "content": answer.text.removeprefix(self.given),
            "refusal": None,
        }
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": answer.finish_reason,
        }
        return json_bytes(
            {
                "id": self.id,
                "object": "chat.completion",
                "created": self.created,
                "model": self.model,
                "choices": [choice],
                "usage": usage_object(answer.usage),
            }
        )

    def first_frame(self) -> bytes:
        """Who speaks."""
        return self._choice({"role": "assistant", "content": "", "refusal": None}, None)

    def text_frame(self, text: str) -> bytes:
        """A piece of the answer's text."""
        return self._choice({"content": text}, None)

    def last_frames(self, answer: Answer, *, include_usage: bool) -> list[bytes]:
        """Why it ended, its tokens when asked for, and ``[DONE]``."""
        frames = [self._choice({}, answer.finish_reason)]
        if include_usage:
            frames.append(self._chunk([], {"usage": usage_object(answer.usage)}))
        return [*frames, DONE_FRAME]

    def _choice(self, delta: Mapping[str, Any], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return self._chunk([choice], {})

    def _chunk(self, choices: list[dict[str, Any]], more: Mapping[str, Any]) -> bytes:
        return frame(
            {
                "id": self.id,
                "object": "chat.completion.chunk",
                "created": self.created,
                "model": self.model,
                "choices": choices,
                **more,
            }
        )


def usage_object(usage: Usage) -> dict[str, Any]:
    """``usage`` as chat completions has it; cached tokens are part of the prompt's."""
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }
