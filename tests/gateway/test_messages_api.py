import json

import anthropic
import jsonschema_rs
import pytest
from api_translation import (
    ANSWERS,
    NOT_IN_SCHEMA,
    STREAMED_ANSWERS,
    chunk,
    completion,
    refused,
    replay,
    spoilt,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import UpstreamError
from foretell.gateway._chat_request import chat_request
from foretell.gateway._errors import ApiError
from foretell.gateway._messages_api import (
    MESSAGES_REQUEST_SCHEMA,
    MessagesStream,
    anthropic_error,
    chat_to_message,
    messages_to_chat,
    provider_bound,
)

SCHEMA = jsonschema_rs.Draft202012Validator(MESSAGES_REQUEST_SCHEMA)
TOOL = {
    "name": "find",
    "description": "Finds.",
    "input_schema": {"type": "object"},
    "strict": True,
    "cache_control": {"type": "ephemeral"},
}
TEXT = {"type": "text", "text": "What is this?", "cache_control": {"type": "ephemeral"}}
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
DATA = {"type": "base64", "media_type": "image/png", "data": "AAAA"}
USE = {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": "ü"}}
RESULT = {"type": "tool_result", "tool_use_id": "t1", "content": "found"}
FULL = {
    "model": "auto",
    "max_tokens": 99,
    "system": [{"type": "text", "text": "Be brief."}, {"type": "text", "text": "Be kind."}],
    "messages": [
        {"role": "user", "content": [TEXT, {"type": "image", "source": DATA}]},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "Hm.", "signature": "EqQB"},
                {"type": "redacted_thinking", "data": "EmwK"},
                {"type": "text", "text": "I look."},
                USE,
                {**USE, "id": "t2", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "And now?"},
                RESULT,
                {
                    "type": "tool_result",
                    "tool_use_id": "t2",
                    "is_error": True,
                    "content": [{"type": "text", "text": "none"}, IMAGE],
                },
            ],
        },
        {"role": "system", "content": "Be quick."},
        {"role": "assistant", "content": "Well,"},
    ],
    "metadata": {"user_id": "ann"},
    "output_config": {
        "effort": "high",
        "format": {"type": "json_schema", "schema": {"type": "object"}},
    },
    "seed": 7,
    "service_tier": "auto",
    "stop_sequences": ["END"],
    "stream": True,
    "temperature": 0.5,
    "thinking": {"type": "adaptive"},
    "tool_choice": {"type": "tool", "name": "find", "disable_parallel_tool_use": True},
    "tools": [TOOL, {"type": "custom", "name": "other", "input_schema": {}}],
    "top_k": 40,
    "top_p": 0.9,
}


ASKED = {"model": "auto", "max_tokens": 9, "messages": [{"role": "user", "content": "hi"}]}
CALL = {"id": "t1", "type": "function", "function": {"name": "find", "arguments": '{"q": 1}'}}


def chat_of(*messages, **fields):
    return messages_to_chat({**ASKED, "messages": list(messages) or [user("hi")], **fields})


def refusal(**fields):
    with pytest.raises(ApiError) as caught:
        messages_to_chat({**ASKED, **fields})
    return caught.value


def user(*content):
    return {"role": "user", "content": content[0] if isinstance(content[0], str) else [*content]}


def assistant(*content):
    return {"role": "assistant", "content": [*content]}


def whole(message, *, request=None, **fields):
    return chat_to_message(
        completion(message, **fields), id="msg_1", request={"model": "auto", **(request or {})}
    )


def streaming(**request):
    return MessagesStream(id="msg_1", request={"model": "auto", **request})


def streamed(chunks, *, foretell=None, **request):
    stream = streaming(**request)
    frames = stream.start()
    for some in chunks:
        frames += stream.feed(some)
    return frames + stream.finish(foretell=foretell)


def events_of(frames):
    events = []
    for frame in frames:
        name, data = frame.decode().removesuffix("\n\n").split("\n")
        event = json.loads(data.removeprefix("data: "))
        assert name == f"event: {event['type']}"
        events.append(event)
    return events


def official(body, **fields):
    return anthropic.Anthropic(
        api_key="x", base_url="http://gateway", http_client=replay(body, **fields), max_retries=0
    )


def test_a_body_with_everything_becomes_a_chat_completion():
    assert messages_to_chat(FULL) == {
        "model": "auto",
        "max_tokens": 99,
        "messages": [
            {"role": "system", "content": "Be brief.\n\nBe kind."},
            user(
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
            ),
            {
                "role": "assistant",
                "content": "I look.",
                "tool_calls": [
                    {
                        "id": "t1",
                        "type": "function",
                        "function": {"name": "find", "arguments": '{"q": "ü"}'},
                    },
                    {
                        "id": "t2",
                        "type": "function",
                        "function": {"name": "find", "arguments": "{}"},
                    },
                ],
            },
            {"role": "tool", "tool_call_id": "t1", "content": "found"},
            {
                "role": "tool",
                "tool_call_id": "t2",
                "content": "Error:\nnone\n(an image, shown in the next message)",
            },
            user({"type": "image_url", "image_url": {"url": "https://x/y.png"}}),
            user("And now?"),
            {"role": "system", "content": "Be quick."},
            {"role": "assistant", "content": "Well,"},
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "stop": ["END"],
        "user": "ann",
        "seed": 7,
        "temperature": 0.5,
        "top_k": 40,
        "top_p": 0.9,
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "parallel_tool_calls": False,
        "tools": [
            {
                "type": "function",
                "function": {
                    "name": "find",
                    "description": "Finds.",
                    "parameters": {"type": "object"},
                    "strict": True,
                },
            },
            {"type": "function", "function": {"name": "other", "parameters": {}}},
        ],
    }


@settings(max_examples=300)
@given(spoilt(FULL))
def test_what_is_accepted_is_a_chat_request_and_the_rest_is_refused_with_a_path(body):
    error = refused(messages_to_chat, body)
    provider_bound(body)
    if error is None:
        chat_request(messages_to_chat(body))
    else:
        assert error.status == 400
        assert error.param is not None
        assert error.message.startswith(error.param)
        assert len(error.message) < 400


@settings(max_examples=300)
@given(spoilt(FULL))
def test_the_schema_says_what_is_accepted(body):
    error = refused(messages_to_chat, body)
    if error is None or not any(words in error.message for words in NOT_IN_SCHEMA):
        assert SCHEMA.is_valid(body) == (error is None), error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"max_tokens": None}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": "hi"}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content"),
        ({"messages": [user({"type": "document"})]}, "messages.0.content.0.type"),
        ({"messages": [user(TEXT, {"type": "search_result"})]}, "messages.0.content.1.type"),
        (
            {"messages": [user({"type": "image", "source": {"type": "file"}})]},
            "messages.0.content.0.source.type",
        ),
        (
            {"messages": [user({"type": "image", "source": {**DATA, "data": ""}})]},
            "messages.0.content.0.source.data",
        ),
        ({"messages": [user(RESULT)]}, "messages.0.content.0.tool_use_id"),
        ({"messages": [assistant(USE), user("x")]}, "messages.0.content.0.id"),
        ({"messages": [assistant(USE)]}, "messages.0.content.0.id"),
        ({"messages": [assistant(USE, USE)]}, "messages.0.content.1.id"),
        ({"messages": [assistant({**USE, "input": "{}"})]}, "messages.0.content.0.input"),
        (
            {"messages": [assistant({"type": "server_tool_use"})]},
            "messages.0.content.0.type",
        ),
        (
            {"messages": [assistant({"type": "thinking", "thinking": "", "signature": "x"})]},
            "messages",
        ),
        (
            {"messages": [assistant(USE), user({**RESULT, "content": [{"type": "document"}]})]},
            "messages.1.content.0.content.0.type",
        ),
        ({"system": [IMAGE]}, "system.0.type"),
        ({"system": 7}, "system"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"name": "find"}]}, "tools.0.input_schema"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tool_choice": "auto"}, "tool_choice"),
        ({"tool_choice": {"type": "required"}}, "tool_choice.type"),
        ({"tool_choice": {"type": "tool", "name": "x"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"stop_sequences": ["x"] * 17}, "stop_sequences"),
        ({"stop_sequences": ["x", ""]}, "stop_sequences.1"),
        ({"metadata": {"user_id": 7}}, "metadata.user_id"),
        ({"output_config": {"effort": "huge"}}, "output_config.effort"),
        ({"output_config": {"format": {"type": "json"}}}, "output_config.format.type"),
        ({"temperature": -1}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"container": "c"}, "container"),
        ({"mcp_servers": []}, "mcp_servers"),
        ({"n": 2}, "n"),
    ],
)
def test_the_field_at_fault_is_named(fields, param):
    assert refusal(**fields).param == param


@pytest.mark.parametrize(
    ("choice", "chosen"), [("auto", "auto"), ("any", "required"), ("none", "none")]
)
def test_each_way_to_choose_a_tool_has_its_counterpart(choice, chosen):
    chat = chat_of(tools=[TOOL], tool_choice={"type": choice})
    assert chat["tool_choice"] == chosen
    assert "parallel_tool_calls" not in chat


def test_settings_of_tools_are_left_out_where_there_are_none():
    chat = chat_of(tools=[], tool_choice={"type": "auto", "disable_parallel_tool_use": True})
    assert set(chat) == {"model", "messages", "max_tokens"}


def test_the_name_of_a_user_has_a_length_that_every_api_takes():
    assert chat_of(metadata={"user_id": "x" * 64})["user"] == "x" * 64
    first, second = (chat_of(metadata={"user_id": "x" * 99 + end})["user"] for end in "ab")
    assert len(first) == len(second) == 64
    assert first != second
    assert "user" not in chat_of(metadata={})


def test_texts_of_one_turn_are_one_message():
    said = [{"type": "text", "text": text} for text in ("a", "b")]
    assert chat_of(user("hi"), assistant(*said), {"role": "assistant", "content": "c"})[
        "messages"
    ] == [
        user("hi"),
        assistant(*said, {"type": "text", "text": "c"}),
    ]


@pytest.mark.parametrize("content", [None, "", []])
def test_a_tool_may_bring_nothing(content):
    messages = chat_of(user("hi"), assistant(USE), user({**RESULT, "content": content}))["messages"]
    assert messages[-1] == {"role": "tool", "tool_call_id": "t1", "content": ""}


@pytest.mark.parametrize(
    ("block", "bound"),
    [
        ({"type": "thinking", "thinking": "Hm.", "signature": "EqQB"}, True),
        ({"type": "redacted_thinking", "data": "EmwK"}, True),
        ({"type": "thinking", "thinking": "Hm.", "signature": ""}, False),
        ({"type": "text", "text": "thinking"}, False),
        ("thinking", False),
    ],
)
def test_signed_thinking_binds_to_the_model_that_made_it(block, bound):
    assert provider_bound({"messages": [user("hi"), "x", assistant(block)]}) is bound


@pytest.mark.parametrize("asked", [{}, {"messages": None}, {"messages": "thinking"}])
def test_nothing_else_binds(asked):
    assert not provider_bound(asked)


def test_a_whole_answer_becomes_a_message():
    message = whole(
        {"content": "Rain.", "tool_calls": [CALL]},
        finish_reason="tool_calls",
        foretell={"decision": "keep"},
    )
    assert message == {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "big-1",
        "content": [
            {"type": "text", "text": "Rain."},
            {"type": "tool_use", "id": "t1", "name": "find", "input": {"q": 1}},
        ],
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "usage": {
            # 100 in the prompt, of which 60 came from the cache and 10 went into it
            "input_tokens": 30,
            "cache_read_input_tokens": 60,
            "cache_creation_input_tokens": 10,
            "output_tokens": 20,
            "output_tokens_details": {"thinking_tokens": 5},
        },
        "foretell": {"decision": "keep"},
    }


@pytest.mark.parametrize(
    ("message", "finish_reason", "stop_reason"),
    [
        ({"content": "x"}, "stop", "end_turn"),
        ({"content": "x"}, None, "end_turn"),
        ({"content": "x"}, "eos", "end_turn"),
        ({"content": "x"}, "length", "max_tokens"),
        ({"content": "x"}, "content_filter", "refusal"),
        ({"refusal": "No."}, "stop", "refusal"),
        ({"tool_calls": [CALL]}, "tool_calls", "tool_use"),
        ({"tool_calls": [CALL]}, "stop", "tool_use"),
        ({"tool_calls": [CALL]}, "length", "max_tokens"),
    ],
)
def test_every_end_has_its_reason(message, finish_reason, stop_reason):
    answer = whole(message, finish_reason=finish_reason)
    assert answer["stop_reason"] == stop_reason
    assert answer["stop_sequence"] is None
    delta = {**message, "tool_calls": message.get("tool_calls")}
    told = events_of(streamed([chunk(delta, finish_reason=finish_reason)]))
    assert told[-2]["delta"]["stop_reason"] == stop_reason


@pytest.mark.parametrize(("stop", "told"), [("END", "END"), ("</s>", None), (2, None)])
def test_the_stop_sequence_is_told_where_the_model_tells_it(stop, told):
    answer = completion({"content": "x"})
    answer["choices"][0]["stop_reason"] = stop
    message = chat_to_message(
        answer, id="msg_1", request={"model": "auto", "stop_sequences": ["END"]}
    )
    assert message["stop_sequence"] == told
    assert message["stop_reason"] == ("stop_sequence" if told else "end_turn")


def test_tokens_that_are_not_known_are_none_for_the_client():
    assert whole({"content": "x"}, usage=None)["usage"] == {"input_tokens": 0, "output_tokens": 0}


@pytest.mark.parametrize("arguments", ["", "{}"])
def test_a_call_without_arguments_has_an_empty_input(arguments):
    call = {"id": "t1", "function": {"name": "now", "arguments": arguments}}
    assert whole({"tool_calls": [call]})["content"][0]["input"] == {}


@pytest.mark.parametrize("arguments", ["{", "[]", "null", '{"a": NaN}', "[" * 100_000])
def test_arguments_that_are_no_object_are_the_models_fault_unless_they_were_cut_short(arguments):
    call = {"index": 0, "id": "t1", "function": {"name": "find", "arguments": arguments}}
    with pytest.raises(UpstreamError, match="not a JSON object"):
        whole({"tool_calls": [call]})
    cut = whole({"tool_calls": [call]}, finish_reason="length")
    assert cut["content"][0]["input"] == {}
    events = events_of(streamed([chunk({"tool_calls": [call]}, finish_reason="tool_calls")]))
    assert events[-1]["type"] == "error"
    events = events_of(streamed([chunk({"tool_calls": [call]}, finish_reason="length")]))
    assert events[-1]["type"] == "message_stop"


def said(answer):
    """What a message has to say: its text, with the words of a refusal, and its calls."""
    message = answer["choices"][0]["message"]
    calls = [
        (call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
        for call in message.get("tool_calls", ())
    ]
    return (message["content"] or "") + message.get("refusal", ""), calls


def read(message):
    """The same of what an official client made of it."""
    text = "".join(block.text for block in message.content if block.type == "text")
    uses = [(b.id, b.name, b.input) for b in message.content if b.type == "tool_use"]
    return text, uses


@given(ANSWERS)
def test_the_official_client_reads_a_whole_answer(answer):
    body = chat_to_message(answer, id="msg_1", request=FULL)
    client = official(json.dumps(body), content_type="application/json")
    message = client.messages.create(**ASKED)
    type(message).model_validate(message.to_dict())
    assert read(message) == said(answer)
    assert message.usage.cache_read_input_tokens == 60


@given(STREAMED_ANSWERS)
def test_the_official_client_reads_a_stream_as_the_whole_answer(answers):
    answer, chunks = answers
    with official(b"".join(streamed(chunks))).messages.stream(**ASKED) as stream:
        text = "".join(stream.text_stream)
        message = stream.get_final_message()
    assert read(message) == said(answer)
    assert text == said(answer)[0]
    expected = chat_to_message(answer, id="msg_1", request={"model": "auto"})
    assert message.stop_reason == expected["stop_reason"]
    assert message.usage.to_dict() == expected["usage"]


@given(STREAMED_ANSWERS)
def test_the_events_of_a_stream_fit_together(answers):
    events = events_of(streamed(answers[1], foretell={"cost_usd": None}))
    assert events[0]["type"] == "message_start"
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    assert events[-2]["foretell"] == {"cost_usd": None}
    opened = None
    begun = 0
    for event in events[1:-2]:
        if event["type"] == "content_block_start":
            assert opened is None
            assert event["index"] == begun
            opened = begun
            begun += 1
        else:
            assert event["index"] == opened
            if event["type"] == "content_block_stop":
                opened = None
    assert opened is None


@given(STREAMED_ANSWERS, st.data())
def test_a_stream_that_breaks_ends_with_an_error(answers, data):
    _, chunks = answers
    stream = streaming()
    frames = stream.start()
    for some in chunks[: data.draw(st.integers(0, len(chunks)))]:
        frames += stream.feed(some)
    frames += stream.failed({"error": {"message": "gone", "type": "upstream_error"}})
    with (
        pytest.raises(anthropic.APIStatusError, match="gone") as caught,
        official(b"".join(frames)).messages.stream(**ASKED) as events,
    ):
        list(events)
    assert caught.value.body == {
        "type": "error",
        "error": {"type": "api_error", "message": "gone"},
    }
    assert "message_stop" not in b"".join(frames).decode()


def test_text_after_a_call_is_a_block_of_its_own():
    call = {"index": 0, "id": "t1", "function": {"name": "find", "arguments": "{}"}}
    chunks = [chunk({"content": "a"}), chunk({"tool_calls": [call]}), chunk({"content": "b"})]
    with official(b"".join(streamed(chunks))).messages.stream(**ASKED) as stream:
        blocks = stream.get_final_message().content
    assert [block.type for block in blocks] == ["text", "tool_use", "text"]


def test_the_one_who_answers_may_be_named_from_the_start():
    stream = MessagesStream(id="msg_1", request={"model": "auto"}, model="large")
    assert events_of(stream.start())[0]["message"]["model"] == "large"


def test_a_failure_of_a_known_kind_is_told_as_such():
    told = events_of(streaming().failed({"type": "rate_limit_error", "message": "slow down"}))
    assert told[0]["error"] == {"type": "rate_limit_error", "message": "slow down"}
    assert events_of(streaming().failed({}))[0]["error"]["message"] == "the model broke off"


@pytest.mark.parametrize(
    ("status", "kind", "raised"),
    [
        (400, "invalid_request_error", anthropic.BadRequestError),
        (401, "authentication_error", anthropic.AuthenticationError),
        (403, "permission_error", anthropic.PermissionDeniedError),
        (404, "not_found_error", anthropic.NotFoundError),
        (413, "request_too_large", anthropic.APIStatusError),
        (415, "invalid_request_error", anthropic.APIStatusError),
        (429, "rate_limit_error", anthropic.RateLimitError),
        (500, "api_error", anthropic.InternalServerError),
        (502, "api_error", anthropic.InternalServerError),
        (503, "overloaded_error", anthropic.InternalServerError),
        (504, "timeout_error", anthropic.InternalServerError),
    ],
)
def test_the_official_client_knows_the_errors(status, kind, raised):
    body = anthropic_error(ApiError(status, "model is missing", param="model"))
    assert body == {"type": "error", "error": {"type": kind, "message": "model is missing"}}
    client = official(json.dumps(body), content_type="application/json", status=status)
    with pytest.raises(raised, match="model is missing"):
        client.messages.create(**ASKED)
