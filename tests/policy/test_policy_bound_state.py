import copy

import pytest

from foretell.policy import has_bound_state, without_bound_state

ASKED = {"role": "user", "content": "2+2?"}
THOUGHT = {"type": "thinking", "thinking": "…", "signature": "c2ln"}
REDACTED = {"type": "redacted_thinking", "data": "eGVk"}
TEXT = {"type": "text", "text": "4"}
CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
GEMINI = {"google": {"thought_signature": "Z2Vt"}}

CASES = {
    "anthropic thinking": (
        {"role": "assistant", "content": [THOUGHT, REDACTED, TEXT]},
        {"role": "assistant", "content": [TEXT]},
    ),
    "anthropic thinking alone": ({"role": "assistant", "content": [THOUGHT]}, None),
    "responses reasoning": (
        {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": "eGVk"},
        None,
    ),
    "openrouter details": (
        {
            "role": "assistant",
            "content": "4",
            "reasoning_details": [
                {"type": "reasoning.encrypted", "data": "eGVk"},
                {"type": "reasoning.text", "text": "…", "signature": "c2ln"},
            ],
        },
        {"role": "assistant", "content": "4"},
    ),
    "a signed part beside an open one": (
        {
            "role": "assistant",
            "content": "4",
            "reasoning_details": [
                {"type": "reasoning.summary", "summary": "adds"},
                {"type": "reasoning.text", "text": "…", "signature": "c2ln"},
            ],
        },
        {
            "role": "assistant",
            "content": "4",
            "reasoning_details": [{"type": "reasoning.summary", "summary": "adds"}],
        },
    ),
    "gemini's signature on a call": (
        {"role": "assistant", "content": None, "tool_calls": [CALL | {"extra_content": GEMINI}]},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
    ),
}


@pytest.mark.parametrize(("message", "stripped"), CASES.values(), ids=CASES.keys())
def test_bound_parts_are_found_and_left_out_and_the_rest_stays(message, stripped):
    history = [ASKED, message, ASKED]
    before = copy.deepcopy(history)
    assert has_bound_state(history)
    left = [ASKED, ASKED] if stripped is None else [ASKED, stripped, ASKED]
    assert without_bound_state(history) == left
    assert not has_bound_state(left)
    assert history == before


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "4"},
        {"role": "assistant", "content": "4", "reasoning_content": "adds"},
        {"role": "assistant", "content": None, "tool_calls": [CALL]},
        {"role": "user", "content": [{"type": "text", "text": "x", "signature": "mine"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "signature"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t", "input": {"signature": "the author's"}}],
        },
        {"type": "function_call_output", "call_id": "c", "output": {"signature": "the tool's"}},
        {"type": "reasoning", "id": "r1", "summary": [], "encrypted_content": None},
    ],
)
def test_what_any_model_can_read_is_left_as_it_is(message):
    history = [ASKED, message]
    assert not has_bound_state(history)
    assert without_bound_state(history) == history
