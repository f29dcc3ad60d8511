"""What responses can be gone on from: each caller's own, within limits of bytes and time."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.gateway._errors import ApiError
from foretell.gateway._memory import ResponseMemory

MESSAGES = [{"role": "user", "content": "größer 🙂"}, {"role": "assistant", "content": "ja"}]


class Clock:
    at = 0.0

    def __call__(self) -> float:
        return self.at


def knows(memory: ResponseMemory, tenant: str, response_id: str) -> bool:
    try:
        memory.messages(tenant, response_id)
    except ApiError as error:
        return (error.status, error.param) != (404, "previous_response_id")
    return True


def size(messages: Any) -> int:
    return len(json.dumps(messages, separators=(",", ":")).encode())


def test_messages_come_back_as_they_were_and_apart_from_what_is_done_to_them() -> None:
    memory = ResponseMemory(clock=Clock())
    memory.keep("me", "resp_1", MESSAGES)
    first = memory.messages("me", "resp_1")
    assert first == MESSAGES
    first.clear()
    assert memory.messages("me", "resp_1") == MESSAGES


def test_nobody_goes_on_from_anothers_response() -> None:
    memory = ResponseMemory(clock=Clock())
    memory.keep("me", "resp_1", MESSAGES)
    assert not knows(memory, "you", "resp_1")
    assert not knows(memory, "", "resp_1")
    with pytest.raises(ApiError) as theirs:
        memory.messages("you", "resp_1")
    with pytest.raises(ApiError) as nobodys:
        memory.messages("you", "resp_2")
    assert theirs.value.body() == nobodys.value.body()


def test_a_response_is_forgotten_after_its_time() -> None:
    clock = Clock()
    memory = ResponseMemory(clock=clock, ttl_s=10)
    memory.keep("me", "resp_1", MESSAGES)
    clock.at = 10
    assert knows(memory, "me", "resp_1")
    clock.at = 10.1
    assert not knows(memory, "me", "resp_1")
    memory.keep("me", "resp_2", MESSAGES)
    assert memory._bytes == size(MESSAGES)


def test_what_is_larger_than_all_of_the_memory_is_not_kept() -> None:
    memory = ResponseMemory(clock=Clock(), max_bytes=10)
    memory.keep("me", "resp_1", MESSAGES)
    assert not knows(memory, "me", "resp_1")
    assert memory._bytes == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a", "b"]),
            st.sampled_from(["r1", "r2", "r3"]),
            st.integers(0, 60),
            st.integers(0, 4),
        )
    )
)
def test_it_never_holds_more_than_it_may_and_forgets_the_oldest_first(
    kept: list[tuple[str, str, int, int]],
) -> None:
    clock = Clock()
    memory = ResponseMemory(clock=clock, max_bytes=150, ttl_s=10)
    model: dict[tuple[str, str], tuple[float, int]] = {}
    for tenant, response_id, length, seconds in kept:
        clock.at += seconds
        messages = [{"content": "x" * length}]
        memory.keep(tenant, response_id, messages)
        model.pop((tenant, response_id), None)
        model[tenant, response_id] = (clock.at, size(messages))
        while model and (
            sum(n for _, n in model.values()) > 150 or clock.at - next(iter(model.values()))[0] > 10
        ):
            del model[next(iter(model))]
        assert memory._bytes == sum(n for _, n in model.values()) <= 150
        for known_tenant in ("", "a", "b"):
            for known_id in ("r1", "r2", "r3"):
                known = knows(memory, known_tenant, known_id)
                assert known == ((known_tenant, known_id) in model)
