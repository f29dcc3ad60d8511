import json
from copy import deepcopy

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.gateway._bodies import parse_json
from foretell.gateway._chat_request import (
    CHAT_REQUEST_SCHEMA,
    DEFAULT_ANSWER_TOKENS,
    Control,
    chat_request,
    control_headers,
    upstream_body,
)
from foretell.gateway._errors import ApiError
from foretell.policy import Needs
from foretell.records import Sampling

SCHEMA = jsonschema_rs.Draft202012Validator(CHAT_REQUEST_SCHEMA)
CALL = {"id": "call_1", "type": "function", "function": {"name": "find", "arguments": "{}"}}
TOOL = {
    "type": "function",
    "function": {
        "name": "find",
        "description": "Finds.",
        "parameters": {"type": "object"},
        "strict": True,
    },
}
FULL = {
    "model": "auto",
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "developer", "content": [{"type": "text", "text": "And kind."}]},
        {
            "role": "user",
            "name": "ann",
            "content": [
                {"type": "text", "text": "What is this?"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "wav"}},
                {"type": "file", "file": {"file_id": "file-1"}},
                {"type": "video_url", "video_url": {"url": "https://x"}},
            ],
        },
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                CALL,
                {"id": "call_2", "type": "custom", "custom": {"name": "sh", "input": "ls"}},
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "found"},
        {"role": "tool", "tool_call_id": "call_2", "content": [{"type": "text", "text": "a"}]},
        {"role": "assistant", "function_call": {"name": "old", "arguments": ""}},
        {"role": "function", "name": "old", "content": None},
        {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]},
        {"role": "assistant", "refusal": "no"},
        {"role": "assistant", "audio": {"id": "audio_1"}},
        {"role": "user", "content": "Go on."},
    ],
    "audio": {"voice": "a", "format": "wav"},
    "frequency_penalty": 0.5,
    "function_call": {"name": "old"},
    "functions": [{"name": "old"}],
    "logit_bias": {"50256": -100},
    "logprobs": True,
    "max_completion_tokens": 100,
    "max_tokens": 50,
    "metadata": {"a": "b"},
    "modalities": ["text", "audio"],
    "n": 2,
    "parallel_tool_calls": False,
    "prediction": {"type": "content", "content": "x"},
    "presence_penalty": -0.5,
    "reasoning_effort": "low",
    "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}},
    "seed": 7,
    "service_tier": "auto",
    "stop": ["\n", "END"],
    "store": False,
    "stream": True,
    "stream_options": {"include_usage": True},
    "temperature": 0.7,
    "tool_choice": {"type": "function", "function": {"name": "find"}},
    "tools": [TOOL, {"type": "custom", "custom": {"name": "sh"}}, {"type": "web_search"}],
    "top_logprobs": 3,
    "top_p": 0.9,
    "user": "ann",
    "verbosity": "low",
    "web_search_options": {},
    "something_new": {"any": ["thing"]},
}


def asking(*messages, **fields):
    return {"model": "auto", "messages": [*messages] or [user("hi")], **fields}


def user(content):
    return {"role": "user", "content": content}


def refusal(raw):
    with pytest.raises(ApiError) as caught:
        chat_request(raw)
    assert caught.value.status == 400
    assert caught.value.type == "invalid_request_error"
    return caught.value


def refused(raw):
    """What was wrong with a body, if anything was."""
    try:
        chat_request(raw)
    except ApiError as error:
        return error
    return None


def everywhere(value, path=()):
    """Paths of all that is in a body."""
    yield path
    members = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    for key, member in members:
        yield from everywhere(member, (*path, key))


PATHS = [path for path in everywhere(FULL) if path]
JUNK = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 0.5, 3, 99.5, 10**400, "", "x", "x" * 300, [], {}]),
    st.sampled_from([[None], [{}], [[]], [""], ["x"] * 17, {"type": "text"}, {"type": "function"}]),
    st.sampled_from([{"role": "user"}, {"type": None}, {"name": "x"}, [user("x")]]),
    st.sampled_from(["none", "auto", "tool", "assistant", "function", "custom", "image_url"]),
)


@st.composite
def spoilt(draw):
    """A body that has everything, with some of it left out or replaced."""
    body = deepcopy(FULL)
    for path in draw(st.lists(st.sampled_from(PATHS), min_size=1, max_size=3)):
        place = body
        try:
            for key in path[:-1]:
                place = place[key]
            place[path[-1]]
        except (KeyError, IndexError, TypeError):
            continue
        if isinstance(place, str):
            continue
        if draw(st.booleans()):
            del place[path[-1]]
        else:
            place[path[-1]] = draw(JUNK)
    return body


def test_a_body_with_everything_is_accepted():
    assert chat_request(FULL).raw is FULL
    assert SCHEMA.is_valid(FULL)


@given(spoilt())
def test_whatever_is_wrong_is_refused_with_the_path_of_a_field(body):
    error = refused(body)
    if error is None:
        upstream_body(chat_request(body), "big-1")
    else:
        assert error.status == 400
        assert error.param is not None
        assert error.message.startswith(error.param)
        assert len(error.message) < 400


def breaks_order(error):
    return error.param.endswith("tool_call_id") and "no message before" in error.message


@settings(max_examples=500)
@given(spoilt())
def test_the_schema_says_what_is_accepted(body):
    error = refused(body)
    if error is None or not breaks_order(error):  # an order is what no schema can say
        assert SCHEMA.is_valid(body) == (error is None)


@given(st.dictionaries(st.sampled_from(sorted(FULL)), JUNK))
def test_any_object_is_accepted_or_refused(body):
    error = refused(body)
    assert error is None or error.status == 400


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ""}, "model"),
        ({"model": 7}, "model"),
        ({"model": None}, "model"),
        ({"model": "x" * 257}, "model"),
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": {}}, "messages"),
        ({"messages": [user("x")] * 10_001}, "messages"),
        ({"messages": ["x"]}, "messages.0"),
        ({"messages": [{"content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages.0.role"),
        ({"messages": [user("x"), user(None)]}, "messages.1.content"),
        ({"messages": [user([])]}, "messages.0.content"),
        ({"messages": [user(7)]}, "messages.0.content"),
        ({"messages": [user({"type": "text"})]}, "messages.0.content"),
        ({"messages": [user(["x"])]}, "messages.0.content.0"),
        ({"messages": [user([{"text": "x"}])]}, "messages.0.content.0.type"),
        ({"messages": [user([{"type": 3}])]}, "messages.0.content.0.type"),
        ({"messages": [user([{"type": "text"}])]}, "messages.0.content.0.text"),
        (
            {"messages": [user([{"type": "image_url", "image_url": {}}])]},
            "messages.0.content.0.image_url.url",
        ),
        ({"messages": [{"role": "assistant"}]}, "messages.0.content"),
        ({"messages": [{"role": "assistant", "tool_calls": []}]}, "messages.0.content"),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{**CALL, "id": None}]}]},
            "messages.0.tool_calls.0.id",
        ),
        (
            {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "function": {}}]}]},
            "messages.0.tool_calls.0.function.name",
        ),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.tool_call_id"),
        (
            {"messages": [user("x"), {"role": "tool", "content": "x", "tool_call_id": "call_1"}]},
            "messages.1.tool_call_id",
        ),
        ({"messages": [{"role": "function", "content": "x"}]}, "messages.0.name"),
        ({"messages": [{**user("x"), "name": 3}]}, "messages.0.name"),
        ({"stream": 1}, "stream"),
        ({"stream_options": {}}, "stream_options"),
        ({"stream": False, "stream_options": {}}, "stream_options"),
        ({"stream": True, "stream_options": []}, "stream_options"),
        (
            {"stream": True, "stream_options": {"include_usage": 1}},
            "stream_options.include_usage",
        ),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
        ({"n": True}, "n"),
        ({"n": 1.5}, "n"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"temperature": 2.1}, "temperature"),
        ({"temperature": False}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"stop": ""}, "stop"),
        ({"stop": 3}, "stop"),
        ({"stop": ["a", ""]}, "stop.1"),
        ({"stop": ["a"] * 17}, "stop"),
        ({"seed": 1.5}, "seed"),
        ({"logprobs": "yes"}, "logprobs"),
        ({"top_logprobs": 21}, "top_logprobs"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {}}, "response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        ({"tools": {}}, "tools"),
        ({"tools": [{}]}, "tools.0.type"),
        ({"tools": [{"type": "function"}]}, "tools.0.function"),
        ({"tools": [TOOL, {"type": "custom", "custom": {}}]}, "tools.1.custom.name"),
        (
            {"tools": [{"type": "function", "function": {"name": "x", "parameters": []}}]},
            "tools.0.function.parameters",
        ),
        ({"tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": 3}, "tool_choice"),
        ({"tool_choice": {"type": "function"}}, "tool_choice.function"),
        ({"functions": [{}]}, "functions.0.name"),
        ({"function_call": []}, "function_call"),
        ({"function_call": {}}, "function_call.name"),
        ({"modalities": "audio"}, "modalities"),
        ({"modalities": ["text", 3]}, "modalities.1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_field_at_fault_is_named(fields, param):
    body = asking(**fields)
    assert refusal(body).param == param
    if not breaks_order(refusal(body)):
        assert not SCHEMA.is_valid(body)


@pytest.mark.parametrize(
    "fields",
    [
        {"tool_choice": "none"},
        {"tool_choice": "auto"},
        {"tool_choice": "required"},
        {"tool_choice": {"type": "custom", "custom": {"name": "sh"}}},
        {"tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto"}}},
        {"function_call": "none"},
        {"function_call": "auto"},
        {"stop": "END"},
        {"stop": []},
        {"temperature": 0, "top_p": 1, "top_logprobs": 0},
        {"reasoning_effort": "a word that is not known yet"},
        {"messages": [user("")]},
        {"messages": [{"role": "assistant", "content": "first"}]},
    ],
)
def test_what_some_api_takes_is_accepted(fields):
    assert refused(asking(**fields)) is None
    assert SCHEMA.is_valid(asking(**fields))


def test_what_was_said_is_not_repeated():
    secret = "my secret " * 50
    for body in [
        asking({"role": secret, "content": secret}),
        asking(user([{"type": "text", "text": [secret]}])),
        asking(tool_choice=secret),
        asking({"role": "tool", "content": secret, "tool_call_id": secret}),
    ]:
        assert len(refusal(body).message) < 200


@pytest.mark.parametrize("name", sorted(FULL.keys() - {"model", "messages", "something_new"}))
def test_a_field_that_is_null_is_absent(name):
    request = chat_request(asking(**{name: None}))
    assert request.needs == Needs()
    assert SCHEMA.is_valid(request.raw)


@pytest.mark.parametrize(
    ("fields", "needs"),
    [
        ({}, Needs()),
        ({"tools": []}, Needs()),
        ({"tools": [TOOL]}, Needs(tools=True)),
        ({"functions": [{"name": "old"}]}, Needs(tools=True)),
        ({"response_format": {"type": "text"}}, Needs()),
        ({"response_format": {"type": "json_object"}}, Needs(json_schema=True)),
        ({"response_format": FULL["response_format"]}, Needs(json_schema=True)),
        ({"modalities": ["text"]}, Needs()),
        ({"modalities": ["text", "audio"]}, Needs(audio=True)),
        ({"modalities": ["image"]}, Needs(images=True)),
        ({"audio": {"voice": "a"}}, Needs(audio=True)),
        ({"max_tokens": 9}, Needs(answer_tokens=9)),
        ({"max_tokens": 9, "max_completion_tokens": 5}, Needs(answer_tokens=5)),
        ({"n": 1}, Needs()),
        ({"n": 2}, Needs(other=frozenset({"n"}))),
        ({"logprobs": False}, Needs()),
        ({"logprobs": True}, Needs(other=frozenset({"logprobs"}))),
        ({"logit_bias": {}}, Needs()),
        ({"logit_bias": {"1": 2}}, Needs(other=frozenset({"logit_bias"}))),
        ({"presence_penalty": 0}, Needs()),
        ({"presence_penalty": 1}, Needs(other=frozenset({"presence_penalty"}))),
        ({"frequency_penalty": -1}, Needs(other=frozenset({"frequency_penalty"}))),
        ({"web_search_options": {}}, Needs(other=frozenset({"web_search"}))),
        ({"reasoning_effort": "high", "prediction": {}, "top_k": 5, "x": [1]}, Needs()),
    ],
)
def test_a_field_that_changes_the_answer_is_a_need(fields, needs):
    assert chat_request(asking(**fields)).needs == needs


@pytest.mark.parametrize(
    ("message", "needs"),
    [
        (user([{"type": "text", "text": "x"}]), Needs()),
        (user([{"type": "image_url", "image_url": {"url": "u"}}]), Needs(images=True)),
        (user([{"type": "image_url", "image_url": "u"}]), Needs(images=True)),
        (user([{"type": "input_image"}]), Needs(images=True)),
        (user([{"type": "file", "file": {}}]), Needs(images=True)),
        (
            user([{"type": "input_audio", "input_audio": {"data": "A", "format": "wav"}}]),
            Needs(audio=True),
        ),
        (user([{"type": "video_url"}]), Needs(other=frozenset({"content"}))),
        ({"role": "assistant", "refusal": "no"}, Needs(other=frozenset({"content"}))),
        ({"role": "assistant", "audio": {"id": "a"}}, Needs(audio=True)),
        ({"role": "assistant", "tool_calls": [CALL]}, Needs(tools=True)),
        ({"role": "assistant", "content": "x", "tool_calls": []}, Needs()),
        ({"role": "function", "name": "old"}, Needs(tools=True)),
    ],
)
def test_what_is_in_the_conversation_is_a_need(message, needs):
    assert chat_request(asking(user("hi"), message)).needs == needs


def test_a_model_here_decodes_greedily_unless_it_is_told_otherwise():
    assert chat_request(asking()).sampling == Sampling(max_tokens=DEFAULT_ANSWER_TOKENS)


def test_a_model_here_decodes_as_it_is_told():
    request = chat_request(asking(temperature=1, top_p=0.5, stop="END", seed=-1, max_tokens=9))
    assert request.sampling == Sampling(
        max_tokens=9, temperature=1.0, top_p=0.5, stop=("END",), seed=2**31 - 1
    )
    assert chat_request(asking(stop=["a", "b"])).sampling.stop == ("a", "b")
    assert chat_request(asking(seed=10**30)).sampling.seed in range(2**31)


def test_what_it_may_cost_at_most_is_known_beforehand():
    plain = chat_request(asking(user("héllo"), max_tokens=10, n=3))
    assert plain.characters == 5
    assert plain.most_prompt_tokens >= 6
    assert plain.most_answer_tokens == 30
    unlimited = chat_request(asking(user("héllo")))
    assert unlimited.most_answer_tokens >= 4096
    assert unlimited.most_prompt_tokens == plain.most_prompt_tokens
    with_tools = chat_request(asking(user("héllo"), tools=[TOOL]))
    assert with_tools.characters > plain.characters + len("find")
    picture = {"type": "image_url", "image_url": {"url": "x" * 10_000}}
    with_picture = chat_request(asking(user([{"type": "text", "text": "héllo"}, picture])))
    assert 1000 < with_picture.most_prompt_tokens - plain.most_prompt_tokens < 10_000
    assert with_picture.characters == 5


def test_the_upstream_gets_the_body_as_it_was_sent_under_its_own_name_for_the_model():
    raw = asking(user("héllo 😀"), something_new={"a": [1.5, None]}, temperature=1)
    sent = upstream_body(chat_request(raw), "big-1")
    assert json.loads(sent) == {**raw, "model": "big-1"}
    assert list(json.loads(sent)) == list(raw)
    assert raw["model"] == "auto"


@pytest.mark.parametrize(
    ("options", "sent", "wanted"),
    [
        ({}, {"include_usage": True}, False),
        ({"stream_options": None}, {"include_usage": True}, False),
        ({"stream_options": {"include_usage": False}}, {"include_usage": True}, False),
        ({"stream_options": {"include_usage": True}}, {"include_usage": True}, True),
        ({"stream_options": {"x": 1}}, {"x": 1, "include_usage": True}, False),
    ],
)
def test_a_stream_is_always_asked_to_report_its_tokens(options, sent, wanted):
    request = chat_request(asking(stream=True, **options))
    assert request.include_usage is wanted
    assert json.loads(upstream_body(request, "big-1"))["stream_options"] == sent


def test_a_whole_answer_is_asked_for_without_stream_options():
    request = chat_request(asking(stream=False, stream_options=None))
    assert not request.stream
    assert json.loads(upstream_body(request, "big-1"))["stream_options"] is None


def test_a_hundred_messages_are_read():
    messages = [user("x"), {"role": "assistant", "content": "y"}] * 50
    request = chat_request(parse_json(json.dumps(asking(*messages)).encode()))
    assert request.messages == messages
    assert request.characters == 100


def test_headers_steer_the_routing():
    headers = {
        "X-Foretell-Route": "shadow",
        "x-foretell-session": "chat 7",
        "x-foretell-domain": "geo",
        "accept": "*/*",
    }
    assert control_headers(headers) == Control(route="shadow", session="chat 7", domain="geo")
    assert control_headers({}) == Control()


@pytest.mark.parametrize("route", ["off", "weak", "strong", "shadow"])
def test_every_way_to_route_is_known(route):
    assert control_headers({"x-foretell-route": route}).route == route


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("x-foretell-route", "Strong"),
        ("x-foretell-route", ""),
        ("x-foretell-route", "x" * 1000),
        ("x-foretell-session", ""),
        ("x-foretell-session", "x" * 257),
        ("x-foretell-session", "caf\xe9"),
        ("x-foretell-session", "a\tb"),
        ("x-foretell-domain", "\x7f"),
        ("x-foretell-rout", "weak"),
        ("x-foretell-model", "small"),
    ],
)
def test_a_header_that_means_nothing_is_refused(name, value):
    with pytest.raises(ApiError, match=name) as caught:
        control_headers({name: value})
    assert caught.value.status == 400
    assert caught.value.param == name
    assert len(caught.value.message) < 200
    caught.value.message.encode("ascii")


def test_a_header_that_is_given_twice_is_refused():
    with pytest.raises(ApiError, match="x-foretell-route is given twice"):
        control_headers({"x-foretell-route": "weak", "X-Foretell-Route": "strong"})


def test_a_header_that_something_else_reads_is_let_through():
    headers = {"x-foretell-tenant": "caf\xe9"}
    assert control_headers(headers, also={"x-foretell-tenant", "x-foretell-domain"}) == Control()


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=70))
def test_whatever_a_header_is_called_the_refusal_is_short(name):
    with pytest.raises(ApiError) as caught:
        control_headers({f"x-foretell-?{name}": "1"})
    assert len(caught.value.param) <= 64
