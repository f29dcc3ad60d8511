"""The three APIs that reach the same routes: how each is read, and how its answers look."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

from foretell.errors import UpstreamError
from foretell.gateway._bodies import answer_json, json_bytes
from foretell.gateway._errors import ApiError
from foretell.gateway._exchange import Api
from foretell.gateway._frames import frame_json
from foretell.gateway._messages_api import (
    MessagesStream,
    anthropic_error,
    chat_to_message,
    messages_to_chat,
)
from foretell.gateway._messages_api import provider_bound as messages_bound
from foretell.gateway._responses_api import ResponsesStream, chat_to_response, responses_to_chat
from foretell.gateway._responses_api import provider_bound as responses_bound

Raw = dict[str, Any]


class ChunkTranslator(Protocol):
    """Turns chat completion chunks into the events of another API."""

    def start(self) -> list[bytes]: ...

    def feed(self, chunk: Raw) -> list[bytes]: ...

    def finish(self, *, foretell: Mapping[str, Any] | None) -> list[bytes]: ...

    def failed(self, error: Raw) -> list[bytes]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """One API.

    ``to_chat`` turns a body into that of a chat completion, ``bound`` says whether it held
    reasoning that only the model which made it can read. ``from_chat`` and ``stream`` are
    ``None`` where answers are passed on as they are.
    """

    api: Api
    to_chat: Callable[[Raw, Sequence[Raw]], Raw]
    bound: Callable[[Raw], bool]
    id_prefix: str
    from_chat: Callable[[Raw, str, int, Raw], Raw] | None = None
    stream: Callable[[str, int, Raw], ChunkTranslator] | None = None
    error: Callable[[ApiError], Raw] = ApiError.body


CHAT: Final = Dialect(
    api="chat", to_chat=lambda raw, _: raw, bound=lambda _: False, id_prefix="req-"
)
RESPONSES: Final = Dialect(
    api="responses",
    to_chat=lambda raw, earlier: responses_to_chat(raw, earlier=earlier),
    bound=responses_bound,
    id_prefix="resp_",
    from_chat=lambda chat, its_id, created, raw: chat_to_response(
        chat, id=its_id, created=created, request=raw
    ),
    stream=lambda its_id, created, raw: ResponsesStream(id=its_id, created=created, request=raw),
)
MESSAGES: Final = Dialect(
    api="messages",
    to_chat=lambda raw, _: messages_to_chat(raw),
    bound=messages_bound,
    id_prefix="msg_",
    from_chat=lambda chat, its_id, _, raw: chat_to_message(chat, id=its_id, request=raw),
    stream=lambda its_id, _, raw: MessagesStream(id=its_id, request=raw),
    error=anthropic_error,
)


def translated_body(
    dialect: Dialect,
    body: bytes,
    *,
    response_id: str,
    created: int,
    raw: Raw,
) -> bytes:
    """A whole chat completion as the caller's API has it."""
    if dialect.from_chat is None:
        return body
    try:
        return json_bytes(dialect.from_chat(answer_json(body), response_id, created, raw))
    except UpstreamError as error:
        raise ApiError(502, str(error), type="upstream_error", code="broke_off") from None


async def joined(frames: AsyncGenerator[list[bytes]]) -> AsyncGenerator[bytes]:
    """Frames as they are."""
    async for some in frames:
        yield some[0] if len(some) == 1 else b"".join(some)


async def translated(
    translator: ChunkTranslator, frames: AsyncGenerator[list[bytes]]
) -> AsyncGenerator[bytes]:
    """Frames of chat completion chunks as the events of another API.

    The last event tells of success only when the chunks came to their proper end.
    """
    yield b"".join(translator.start())
    foretell: Mapping[str, Any] | None = None
    whole = False
    async for some in frames:
        for frame in some:
            try:
                chunk = frame_json(frame)
                if chunk is None:
                    whole = whole or b"[DONE]" in frame
                    continue
                if chunk.get("error"):
                    yield b"".join(translator.failed(chunk))
                    return
                foretell = chunk.get("foretell") or foretell
                if events := translator.feed(chunk):
                    yield b"".join(events)
            except UpstreamError as error:
                failure = ApiError(502, str(error), type="upstream_error", code="broke_off")
                yield b"".join(translator.failed(failure.body()))
                return
    if whole:
        yield b"".join(translator.finish(foretell=foretell))
    else:
        failure = ApiError(502, "the answer broke off", type="upstream_error", code="broke_off")
        yield b"".join(translator.failed(failure.body()))
