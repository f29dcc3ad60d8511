import json

import jsonschema_rs
import openai
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
from foretell.gateway._responses_api import (
    RESPONSES_REQUEST_SCHEMA,
    ResponsesStream,
    chat_to_response,
    kept_messages,
    provider_bound,
    response_messages,
    responses_to_chat,
)

SCHEMA = jsonschema_rs.Draft202012Validator(RESPONSES_REQUEST_SCHEMA)
TOOL = {
    "type": "function",
    "name": "find",
    "description": "Finds.",
    "parameters": {"type": "object"},
    "strict": True,
}
CALL = {"type": "function_call", "id": "fc_1", "call_id": "c1", "name": "find", "arguments": "{}"}
OUTPUT = {"type": "function_call_output", "call_id": "c1", "output": "found"}
IMAGE = {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"}
FULL = {
    "model": "auto",
    "instructions": "Be brief.",
    "input": [
        {"role": "developer", "content": [{"type": "input_text", "text": "And kind."}]},
        {
            "type": "message",
            "role": "user",
            "content": [{"type": "input_text", "text": "What is this?"}, IMAGE],
        },
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"},
        {
            "type": "message",
            "id": "msg_1",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "I look.", "annotations": []},
                {"type": "refusal", "refusal": "No."},
            ],
        },
        CALL,
        {**CALL, "call_id": "c2", "arguments": ""},
        OUTPUT,
        {**OUTPUT, "call_id": "c2", "output": [{"type": "input_text", "text": "a"}, IMAGE]},
        {"role": "user", "content": "And now?"},
    ],
    "background": False,
    "conversation": None,
    "include": ["reasoning.encrypted_content", "message.output_text.logprobs"],
    "max_output_tokens": 99,
    "max_tool_calls": 3,
    "metadata": {"a": "b"},
    "parallel_tool_calls": False,
    "previous_response_id": "resp_0",
    "prompt_cache_key": "k",
    "reasoning": {"effort": "low", "summary": "auto"},
    "seed": 7,
    "store": True,
    "stream": True,
    "stream_options": {"include_obfuscation": False},
    "temperature": 0.5,
    "text": {
        "format": {
            "type": "json_schema",
            "name": "x",
            "schema": {"type": "object"},
            "strict": True,
        },
        "verbosity": "low",
    },
    "tool_choice": {"type": "function", "name": "find"},
    "tools": [TOOL, {"type": "function", "name": "other"}],
    "top_logprobs": 2,
    "top_p": 0.9,
    "truncation": "auto",
    "user": "ann",
}


CALL_IN_CHAT = {"id": "c1", "type": "function", "function": {"name": "find", "arguments": "{}"}}


def chat_of(input="hi", **fields):  # noqa: A002 (the field's name)
    return responses_to_chat({"model": "auto", "input": input, **fields})


def refusal(input="hi", **fields):  # noqa: A002
    with pytest.raises(ApiError) as caught:
        chat_of(input, **fields)
    assert caught.value.status == 400
    assert caught.value.message.startswith(caught.value.param or "one of the fields")
    return caught.value


def user(content):
    return {"role": "user", "content": content}


def whole(message, **fields):
    return chat_to_response(
        completion(message, **fields), id="resp_1", created=1, request={"model": "auto"}
    )


def streaming():
    return ResponsesStream(id="resp_1", created=1, request={"model": "auto"})


def streamed(chunks, *, foretell=None):
    stream = streaming()
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
    return openai.OpenAI(
        api_key="x", base_url="http://gateway/v1", http_client=replay(body, **fields), max_retries=0
    )


def test_a_body_with_everything_becomes_a_chat_completion():
    assert responses_to_chat(FULL) == {
        "model": "auto",
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "developer", "content": "And kind."},
            user(
                [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}},
                ]
            ),
            {
                "role": "assistant",
                "content": [{"type": "text", "text": "I look."}, {"type": "text", "text": "No."}],
                "tool_calls": [
                    {
                        "id": "c1",
                        "type": "function",
                        "function": {"name": "find", "arguments": "{}"},
                    },
                    {"id": "c2", "type": "function", "function": {"name": "find", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "found"},
            {
                "role": "tool",
                "tool_call_id": "c2",
                "content": "a\n(an image, shown in the next message)",
            },
            user([{"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "low"}}]),
            user("And now?"),
        ],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_completion_tokens": 99,
        "metadata": {"a": "b"},
        "parallel_tool_calls": False,
        "prompt_cache_key": "k",
        "reasoning_effort": "low",
        "seed": 7,
        "temperature": 0.5,
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"type": "object"}, "strict": True},
        },
        "verbosity": "low",
        "tool_choice": {"type": "function", "function": {"name": "find"}},
        "tools": [
            {"type": "function", "function": {k: v for k, v in TOOL.items() if k != "type"}},
            {"type": "function", "function": {"name": "other"}},
        ],
        "logprobs": True,
        "top_logprobs": 2,
        "top_p": 0.9,
        "user": "ann",
    }


@settings(max_examples=300)
@given(spoilt(FULL))
def test_what_is_accepted_is_a_chat_request_and_the_rest_is_refused_with_a_path(body):
    error = refused(responses_to_chat, body)
    provider_bound(body)
    if error is None:
        chat_request(responses_to_chat(body))
    else:
        assert error.status == 400
        assert error.param is not None
        assert error.message.startswith(error.param)
        assert len(error.message) < 400


@settings(max_examples=300)
@given(spoilt(FULL))
def test_the_schema_says_what_is_accepted(body):
    error = refused(responses_to_chat, body)
    if error is None or not any(words in error.message for words in NOT_IN_SCHEMA):
        assert SCHEMA.is_valid(body) == (error is None), error


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"input": None}, "input"),
        ({"input": 7}, "input"),
        ({"input": []}, "input"),
        ({"input": ["x"]}, "input.0"),
        ({"input": [{}]}, "input.0.type"),
        ({"input": [{"type": "message", "content": "x"}]}, "input.0.role"),
        ({"input": [{"role": "tool", "content": "x"}]}, "input.0.role"),
        ({"input": [user([])]}, "input.0.content"),
        ({"input": [user([{"type": "input_file"}])]}, "input.0.content.0.type"),
        (
            {"input": [user([{"type": "input_text", "text": "x"}, {"type": "x"}])]},
            "input.0.content.1.type",
        ),
        (
            {"input": [user([{**IMAGE, "file_id": "file-1"}])]},
            "input.0.content.0.file_id",
        ),
        ({"input": [{"role": "system", "content": [IMAGE]}]}, "input.0.content.0.type"),
        ({"input": [{"type": "computer_call"}]}, "input.0.type"),
        ({"input": [{"type": "item_reference", "id": "x"}]}, "input.0.type"),
        ({"input": [{"type": "reasoning"}]}, "input"),
        ({"input": [OUTPUT]}, "input.0.call_id"),
        ({"input": [CALL, user("x")]}, "input.0.call_id"),
        ({"input": [CALL]}, "input.0.call_id"),
        ({"input": [CALL, CALL]}, "input.1.call_id"),
        ({"input": [CALL, OUTPUT, OUTPUT]}, "input.2.call_id"),
        ({"input": [{**CALL, "arguments": {}}]}, "input.0.arguments"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"type": "custom", "name": "sh"}]}, "tools.0.type"),
        ({"tools": [{**TOOL, "name": ""}]}, "tools.0.name"),
        ({"tools": [{**TOOL, "parameters": []}]}, "tools.0.parameters"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": "any"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "name": "x"}, "tools": [TOOL]}, "tool_choice.name"),
        ({"tool_choice": {"type": "web_search"}, "tools": [TOOL]}, "tool_choice.type"),
        (
            {"tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}},
            "tool_choice.tools",
        ),
        ({"background": True}, "background"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"moderation": {"model": "m"}}, "moderation"),
        ({"messages": []}, "messages"),
        ({"n": 2}, "n"),
        ({"\n": 2}, None),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"truncation": "some"}, "truncation"),
        ({"reasoning": {"effort": "much"}}, "reasoning.effort"),
        ({"text": {"format": {"type": "json_schema", "name": "x"}}}, "text.format.schema"),
        ({"text": {"format": {"type": "grammar"}}}, "text.format.type"),
        ({"metadata": {"a": 1}}, "metadata"),
        ({"stream": "yes"}, "stream"),
        ({"store": 1}, "store"),
        ({"previous_response_id": ""}, "previous_response_id"),
    ],
)
def test_the_field_at_fault_is_named(fields, param):
    assert refusal(**fields).param == param


def test_an_empty_text_may_be_asked():
    assert chat_of([user([{"type": "input_text", "text": ""}])])["messages"] == [user("")]


def test_too_long_a_conversation_is_refused():
    assert refusal([user("x")] * 10_000).param == "input"


@pytest.mark.parametrize("choice", ["none", "auto"])
def test_settings_of_tools_are_left_out_where_there_are_none(choice):
    chat = chat_of(tool_choice=choice, parallel_tool_calls=True, tools=[])
    assert set(chat) == {"model", "messages"}


def test_allowed_tools_are_the_only_ones_offered():
    other = {**TOOL, "name": "other"}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"name": "other"}]}
    chat = chat_of(tools=[TOOL, other], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in chat["tools"]] == ["other"]
    assert chat["tool_choice"] == "required"


@pytest.mark.parametrize(
    ("text", "response_format"),
    [({"format": {"type": "text"}}, None), ({"format": {"type": "json_object"}}, "json_object")],
)
def test_the_form_of_the_text_is_passed_on(text, response_format):
    asked = chat_of(text=text).get("response_format")
    assert (asked and asked["type"]) == response_format


def test_an_answer_to_a_kept_response_goes_on_where_that_one_ended():
    first = {"model": "auto", "instructions": "Be brief.", "input": "Weather?", "tools": [TOOL]}
    chat = responses_to_chat(first)
    stream = streaming()
    called = {"id": "c1", "function": {"name": "find", "arguments": "{}"}}
    stream.feed(chunk({"tool_calls": [{"index": 0, **called}]}, finish_reason="tool_calls"))
    kept = kept_messages(first, chat, stream.output_messages())
    call = {"role": "assistant", "content": None, "tool_calls": [{"type": "function", **called}]}
    assert kept == [user("Weather?"), call]

    second = {"model": "auto", "instructions": "Be kind.", "input": [OUTPUT, user("And?")]}
    assert responses_to_chat(second, earlier=kept)["messages"] == [
        {"role": "system", "content": "Be kind."},
        user("Weather?"),
        call,
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
        user("And?"),
    ]


def test_a_call_of_a_kept_response_wants_its_result():
    calls = [{"id": i, "type": "function", "function": {}} for i in ("c1", "c2")]
    earlier = [
        user("Weather?"),
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c1", "content": "found"},
    ]
    for asked in ("And?", [user("And?")], [OUTPUT]):
        with pytest.raises(ApiError, match=r"c[12]"):
            responses_to_chat({"model": "auto", "input": asked}, earlier=earlier)


def test_a_kept_conversation_alone_is_nothing_to_answer():
    body = {"model": "auto", "input": [{"type": "reasoning"}]}
    with pytest.raises(ApiError, match="input holds nothing to answer"):
        responses_to_chat(body, earlier=[user("hi"), {"role": "assistant", "content": "ho"}])


@pytest.mark.parametrize(
    ("item", "bound"),
    [
        ({"type": "reasoning", "encrypted_content": "gAAA"}, True),
        ({"type": "reasoning", "encrypted_content": None}, False),
        ({"type": "message", "encrypted_content": "gAAA"}, False),
        ("reasoning", False),
    ],
)
def test_encrypted_reasoning_binds_to_the_model_that_made_it(item, bound):
    assert provider_bound({"input": [item]}) is bound


@pytest.mark.parametrize("asked", [{}, {"input": None}, {"input": "reasoning"}, {"input": {}}])
def test_nothing_else_binds(asked):
    assert not provider_bound(asked)


def test_a_whole_answer_becomes_a_response():
    response = whole(
        {"content": "Rain.", "tool_calls": [CALL_IN_CHAT]},
        finish_reason="tool_calls",
        foretell={"decision": "keep"},
    )
    assert response["model"] == "big-1"
    assert response["status"] == "completed"
    assert response["foretell"] == {"decision": "keep"}
    assert response["output"] == [
        {
            "id": "msg_1_0",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [
                {"type": "output_text", "text": "Rain.", "annotations": [], "logprobs": []}
            ],
        },
        {
            "id": "fc_1_1",
            "type": "function_call",
            "call_id": "c1",
            "name": "find",
            "arguments": "{}",
            "status": "completed",
        },
    ]
    assert response["usage"] == {
        "input_tokens": 100,
        "input_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
        "output_tokens": 20,
        "output_tokens_details": {"reasoning_tokens": 5},
        "total_tokens": 120,
    }


def test_a_response_repeats_the_settings_of_its_request():
    response = chat_to_response(
        completion({"content": "x"}), id="resp_1", created=7, request={**FULL, "user": None}
    )
    for name in ("instructions", "tools", "tool_choice", "text", "temperature", "metadata"):
        assert response[name] == FULL[name]
    assert response["created_at"] == 7
    assert response["user"] is None


@pytest.mark.parametrize(
    ("finish_reason", "status", "reason"),
    [
        ("stop", "completed", None),
        ("tool_calls", "completed", None),
        (None, "completed", None),
        ("length", "incomplete", "max_output_tokens"),
        ("content_filter", "incomplete", "content_filter"),
    ],
)
def test_an_answer_that_was_cut_short_says_why(finish_reason, status, reason):
    response = whole({"content": "Ra"}, finish_reason=finish_reason)
    assert response["status"] == status
    assert response["incomplete_details"] == (reason and {"reason": reason})
    assert response["output"][0]["status"] == status


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": -1, "completion_tokens": 2}])
def test_tokens_that_are_not_known_are_null(usage):
    assert whole({"content": "x"}, usage=usage)["usage"] is None


def test_log_probabilities_of_the_text_are_passed_on():
    entry = {"token": "x", "logprob": -0.5, "bytes": [120], "top_logprobs": []}
    first = chunk({"content": "x"})
    first["choices"][0]["logprobs"] = {"content": [entry]}
    events = events_of(streamed([first, chunk({"content": "y"})]))
    part = events[-1]["response"]["output"][0]["content"][0]
    assert part["logprobs"] == [entry]
    assert [e["logprobs"] for e in events if e["type"].endswith("text.delta")] == [[entry], []]


@given(ANSWERS)
def test_the_official_client_reads_a_whole_answer(answer):
    message = answer["choices"][0]["message"]
    body = chat_to_response(answer, id="resp_1", created=1, request=FULL)
    client = official(json.dumps(body), content_type="application/json")
    response = client.responses.create(model="auto", input="hi")
    type(response).model_validate(response.to_dict())
    assert response.output_text == message["content"]
    assert [
        (item.call_id, item.name, item.arguments)
        for item in response.output
        if item.type == "function_call"
    ] == [
        (call["id"], call["function"]["name"], call["function"]["arguments"])
        for call in message.get("tool_calls", ())
    ]
    assert response.usage is not None
    assert response.usage.input_tokens_details.cached_tokens == 60


@given(STREAMED_ANSWERS)
def test_a_streamed_answer_ends_as_the_whole_one_would_have_been(answers):
    answer, chunks = answers
    events = events_of(streamed(chunks, foretell={"cost_usd": None}))
    expected = chat_to_response(
        {**answer, "foretell": {"cost_usd": None}},
        id="resp_1",
        created=1,
        request={"model": "auto"},
    )
    assert events[-1]["response"] == expected
    assert events[-1]["type"] == f"response.{expected['status']}"


@given(STREAMED_ANSWERS)
def test_the_events_of_a_stream_fit_together(answers):
    events = events_of(streamed(answers[1]))
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    output = events[-1]["response"]["output"]
    assert len({item["id"] for item in output}) == len(output)
    for event in events:
        if "item_id" in event:
            item = output[event["output_index"]]
            assert item["id"] == event["item_id"]
            if event["type"] == "response.content_part.done":
                assert item["content"][event["content_index"]] == event["part"]
    told = [e["item"] for e in events if e["type"] == "response.output_item.done"]
    assert told == output
    for index, item in enumerate(output):
        deltas = [
            event["delta"]
            for event in events
            if event.get("output_index") == index and event["type"].endswith(".delta")
        ]
        said = item.get("arguments") or "".join(
            part.get("text") or part.get("refusal") for part in item.get("content", ())
        )
        assert "".join(deltas) == said


@given(STREAMED_ANSWERS)
def test_the_official_client_reads_a_stream(answers):
    answer, chunks = answers
    message = answer["choices"][0]["message"]
    client = official(b"".join(streamed(chunks)))
    with client.responses.stream(model="auto", input="hi") as stream:
        events = list(stream)
        deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
        assert "".join(deltas) == message["content"]
        if answer["choices"][0]["finish_reason"] in ("length", "content_filter"):
            assert events[-1].type == "response.incomplete"
            return
        response = stream.get_final_response()
    assert response.output_text == message["content"]
    calls = [item for item in response.output if item.type == "function_call"]
    assert [(c.call_id, c.arguments) for c in calls] == [
        (c["id"], c["function"]["arguments"]) for c in message.get("tool_calls", ())
    ]


@given(STREAMED_ANSWERS, st.data())
def test_a_stream_that_breaks_never_looks_complete(answers, data):
    _, chunks = answers
    stream = streaming()
    frames = stream.start()
    for some in chunks[: data.draw(st.integers(0, len(chunks)))]:
        frames += stream.feed(some)
    frames += stream.failed({"error": {"message": "gone", "type": "upstream_error", "code": "x"}})
    client = official(b"".join(frames))
    events = list(client.responses.create(model="auto", input="hi", stream=True))
    assert events[-1].type == "response.failed"
    assert events[-1].response.status == "failed"
    assert events[-1].response.error.message == "gone"
    assert events[-1].response.error.code == "server_error"
    assert not {event.type for event in events} & {"response.completed", "response.incomplete"}


def test_a_stream_that_fails_before_it_began_is_opened_first():
    types = [event["type"] for event in events_of(streaming().failed({"message": "gone"}))]
    assert types == ["response.created", "response.in_progress", "response.failed"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        ({"type": "rate_limit_error"}, "rate_limit_exceeded"),
        ({"type": "x", "code": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"type": "invalid_request_error"}, "invalid_prompt"),
        ({"error": "out of memory"}, "server_error"),
        ({}, "server_error"),
    ],
)
def test_a_failure_has_a_code_that_responses_know(error, code):
    told = events_of(streaming().failed(error))[-1]["response"]["error"]
    assert told["code"] == code
    assert told["message"]


@pytest.mark.parametrize(
    "chunks",
    [
        # As Gemini's compatible API: every call has the index 0.
        [
            {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{}"}}]},
            {
                "tool_calls": [
                    {"index": 0, "id": "b", "function": {"name": "g", "arguments": '{"q": 1}'}}
                ]
            },
        ],
        # No index, and the calls at once, with arguments that are an object, as Ollama.
        [
            {
                "tool_calls": [
                    {"id": "a", "function": {"name": "f", "arguments": {}}},
                    {"id": "b", "function": {"name": "g", "arguments": {"q": 1}}},
                ]
            }
        ],
        # The id in every chunk.
        [
            {"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": "{"}}]},
            {"tool_calls": [{"index": 0, "id": "a", "function": {"arguments": "}"}}]},
            {"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g"}}]},
            {"tool_calls": [{"index": 1, "id": "", "function": {"arguments": '{"q": 1}'}}]},
        ],
    ],
)
def test_calls_are_told_apart_however_a_model_streams_them(chunks):
    output = events_of(streamed(map(chunk, chunks)))[-1]["response"]["output"]
    assert [(call["call_id"], call["name"], call["arguments"]) for call in output] == [
        ("a", "f", "{}"),
        ("b", "g", '{"q": 1}'),
    ]


@pytest.mark.parametrize("call_id", [None, "", "same"])
def test_calls_without_an_id_of_their_own_get_one(call_id):
    call = {"id": call_id, "function": {"name": "f", "arguments": "{}"}}
    output = whole({"tool_calls": [call, call]})["output"]
    ids = [item["call_id"] for item in output]
    assert len(set(ids)) == 2
    assert all(ids)
    kept = response_messages(completion({"tool_calls": [call, call]}), id="resp_1")
    assert [call["id"] for call in kept[0]["tool_calls"]] == ids


def test_text_after_a_call_is_a_message_of_its_own():
    call = {"index": 0, "id": "c1", "function": {"name": "find", "arguments": "{}"}}
    frames = streamed([chunk({"tool_calls": [call]}), chunk({"content": "Done."})])
    output = events_of(frames)[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["function_call", "message"]


def test_text_in_parts_and_other_choices_are_read_as_they_should():
    other = {"index": 1, "delta": {"content": "other"}}
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "Rain."}]
    mixed = chunk({"content": parts})
    mixed["choices"].insert(0, other)
    frames = streamed([mixed, {"choices": [other]}, {"choices": None}])
    assert events_of(frames)[-1]["response"]["output"][0]["content"][0]["text"] == "Rain."


def test_an_answer_of_nothing_is_a_response_of_nothing():
    assert whole({"content": None})["output"] == []
    assert response_messages(completion({"content": None}), id="resp_1") == [
        {"role": "assistant", "content": ""}
    ]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"choices": []},
        {"choices": "x"},
        {"choices": ["x"]},
        {"choices": [{"message": "x"}]},
        {"choices": [{"message": {"content": 7}}]},
        {"choices": [{"message": {"tool_calls": "x"}}]},
        {"choices": [{"message": {"tool_calls": ["x"]}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {}}]}}]},
        {"choices": [{"message": {"tool_calls": [{"function": {"name": "f", "arguments": 7}}]}}]},
        {"error": {"message": "x"}},
    ],
)
def test_what_is_no_chat_completion_is_the_upstreams_fault(answer):
    with pytest.raises(UpstreamError):
        chat_to_response(answer, id="resp_1", created=1, request={"model": "auto"})


def test_a_model_must_not_go_back_to_an_ended_call():
    stream = streaming()
    for index in (0, 1):
        call = {"index": index, "id": f"c{index}", "function": {"name": "f"}}
        stream.feed(chunk({"tool_calls": [call]}))
    stream.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": ""}}]}))
    with pytest.raises(UpstreamError, match="went back to a tool call"):
        stream.feed(chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}))


def test_half_a_character_at_the_end_of_a_chunk_harms_nobody():
    frames = streamed([chunk({"content": "\ud83d"}), chunk({"content": "\ude00"})])
    deltas = [e["delta"] for e in events_of(frames) if e["type"].endswith("text.delta")]
    assert deltas == ["\ud83d", "\ude00"]
    assert b"".join(frames).isascii()


def test_the_one_who_answers_may_be_named_from_the_start():
    stream = ResponsesStream(id="resp_1", created=1, request={"model": "auto"}, model="large")
    assert events_of(stream.start())[0]["response"]["model"] == "large"
