"""What is remembered of a conversation from turn to turn."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b

from foretell.errors import InputError
from foretell.policy._conversations import Conversation
from foretell.records import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class ConversationState:
    """A conversation after one of its turns.

    ``session`` names it, ``model`` and ``role`` say who answered last, ``turns`` counts answers.
    ``prompt_tokens`` are those of the last request: about what ``model`` has in its prefix cache.
    ``at`` is the time of the last answer, in seconds of the clock that ``ConversationStates`` goes
    by. ``bound_to`` names the model whose signed or encrypted reasoning the history holds,
    ``explored`` says that chance picked ``model``. ``opened`` counts the messages of the first
    request, ``length`` those of the last; 0 where a header or a response's id names it.
    """

    session: str
    model: str
    role: Role
    turns: int
    prompt_tokens: int
    at: float
    bound_to: str | None = None
    explored: bool = False
    opened: int = 0
    length: int = 0


def thread_of(conversation: Conversation, state: ConversationState | None) -> str | None:
    """What the later turns of a conversation have in common, and no other one has.

    ``None`` for a first turn, and where the request does not follow the very answer that ``state``
    is after: the first example of a prompt, say, may have been asked by itself before. Chats that
    open alike (``hi``) part by what was answered to that, and asked next.
    """
    if state is None or not _follows(conversation, state):
        return None
    if conversation.source != "opening":
        return state.session
    return conversation.chain[_asked_from(conversation, state.opened)[0]]


def _follows(conversation: Conversation, state: ConversationState) -> bool:
    """Whether nothing lies between the answer that ``state`` is after and what is asked now."""
    if conversation.source != "opening":
        return True
    asked = _asked_from(conversation, state.length)
    in_one_go = bool(asked) and asked[-1] - asked[0] == len(asked) - 1
    return in_one_go and asked[0] > state.length


def _asked_from(conversation: Conversation, start: int) -> list[int]:
    """Places in the history, from ``start`` on, of what is not the assistant's."""
    places = range(start, len(conversation.chain))
    return [place for place in places if place not in conversation.answered]


def after_turn(
    before: ConversationState | None,
    conversation: Conversation,
    *,
    model: str,
    role: Role,
    prompt_tokens: int,
    at: float,
    bound: bool = False,
    explored: bool = False,
) -> ConversationState:
    """The state after ``model`` answered.

    ``bound`` says that the history, as it went to the model, or its answer holds bound state.
    """
    made_before = before.bound_to if before else None
    length = len(conversation.chain)
    return ConversationState(
        session=before.session if before else conversation.id,
        model=model,
        role=role,
        turns=before.turns + 1 if before else 1,
        prompt_tokens=prompt_tokens,
        at=at,
        bound_to=(made_before or model) if bound else None,
        explored=explored,
        opened=before.opened if before and _follows(conversation, before) else length,
        length=length,
    )


class ConversationStates:
    """The states of the conversations heard of last; bounded, and of one tenant each.

    A conversation named by a header is found by that name, one that goes on from a response by the
    response's id. One that has no name is found by its history: by the longest part of it that was
    served before and that an answer follows. So two chats that open alike do not share a state once
    their second requests were served, and a fresh one never gets that of another; before, the
    second turn of one may find the first turn of the other, whose history is the same.

    What was not heard of for ``ttl_s`` seconds is forgotten; beyond ``limit`` entries (each turn
    is one) the least recently used goes. Nothing here is safe from other threads.
    """

    def __init__(self, *, limit: int, ttl_s: float, clock: Callable[[], float]) -> None:
        if limit < 1:
            raise InputError(f"limit is {limit}; wanted room for at least 1 state")
        self._limit = limit
        self._ttl_s = ttl_s
        self._clock = clock
        self._states: OrderedDict[bytes, ConversationState] = OrderedDict()

    def __len__(self) -> int:
        return len(self._states)

    def find(self, tenant: str, conversation: Conversation) -> ConversationState | None:
        """The state after the last turn; ``None`` for a conversation that is new or forgotten."""
        if conversation.source != "opening":
            return self._get(_key(tenant, conversation.source, conversation.id))
        for length in reversed(conversation.answered):
            if state := self._get(_key(tenant, "opening", conversation.chain[length - 1])):
                return state
        return None

    def remember(
        self,
        tenant: str,
        conversation: Conversation,
        state: ConversationState,
        *,
        response_id: str | None = None,
    ) -> None:
        """Keep the state after a turn; a later request may go on from ``response_id``."""
        if conversation.source == "header":
            self._put(_key(tenant, "header", conversation.id), state)
        elif conversation.source == "opening" and conversation.chain:
            self._put(_key(tenant, "opening", conversation.chain[-1]), state)
        if response_id is not None:
            self._put(_key(tenant, "previous", response_id), state)

    def _get(self, key: bytes) -> ConversationState | None:
        state = self._states.get(key)
        if state is None:
            return None
        if self._clock() - state.at > self._ttl_s:
            del self._states[key]
            return None
        self._states.move_to_end(key)
        return state

    def _put(self, key: bytes, state: ConversationState) -> None:
        self._states[key] = state
        self._states.move_to_end(key)
        while len(self._states) > self._limit or self._is_over(next(iter(self._states.values()))):
            self._states.popitem(last=False)
            if not self._states:
                return

    def _is_over(self, state: ConversationState) -> bool:
        return self._clock() - state.at > self._ttl_s


def _key(tenant: str, source: str, name: str) -> bytes:
    # A hash, so that no caller's long name takes memory; repr keeps the three apart.
    return blake2b(repr((tenant, source, name)).encode(), digest_size=16).digest()
