"""What the tests of both translated APIs share: spoilt bodies, and chat answers in pieces."""

from copy import deepcopy
from itertools import pairwise

import httpx2
from hypothesis import strategies as st

from foretell.gateway._errors import ApiError

# What a schema cannot say: references, order, and whether something is left to answer.
NOT_IN_SCHEMA = (
    "which is not in tools",
    "there are no tools",
    "for the second time",
    "waits for its result",
    "before the result of the call",
    "result does not follow",
    "holds nothing to answer",
)
JUNK = st.one_of(
    st.sampled_from([None, True, False, 0, -1, 0.5, 3, 99.5, 10**400, "", "x", "x" * 300, [], {}]),
    st.sampled_from([[None], [{}], [[]], [""], ["x"] * 17, {"type": "text"}, {"type": "function"}]),
    st.sampled_from(
        [{"role": "user"}, {"type": None}, {"name": "x"}, {"role": "user", "content": ""}]
    ),
    st.sampled_from(["none", "auto", "any", "tool", "assistant", "function", "image", "text"]),
    st.sampled_from(["message", "function_call", "tool_use", "base64", "required", "json_schema"]),
)


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


def spoilt(full):
    """Bodies like ``full``, which has everything, with some of it left out or replaced."""
    paths = [path for path in everywhere(full) if path]

    @st.composite
    def body(draw):
        spoiling = deepcopy(full)
        for path in draw(st.lists(st.sampled_from(paths), min_size=1, max_size=3)):
            place = spoiling
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
        return spoiling

    return body()


def refused(translate, raw):
    """What was wrong with a body, if anything was."""
    try:
        translate(raw)
    except ApiError as error:
        return error
    return None


def completion(message, *, finish_reason="stop", **fields):
    """A whole chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", **message}}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "big-1",
        "choices": [{**choice, "finish_reason": finish_reason}],
        "usage": USAGE,
        **fields,
    }


USAGE = {
    "prompt_tokens": 100,
    "completion_tokens": 20,
    "total_tokens": 120,
    "prompt_tokens_details": {"cached_tokens": 60, "cache_write_tokens": 10},
    "completion_tokens_details": {"reasoning_tokens": 5},
}


def chunk(delta, *, finish_reason=None, **fields):
    """One chunk of a streamed completion."""
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"object": "chat.completion.chunk", "model": "big-1", "choices": [choice], **fields}


@st.composite
def chunked(draw, whole):
    """The chunks in which a model might stream a whole completion."""
    choice = whole["choices"][0]
    message = choice["message"]
    deltas = [{"role": "assistant", "content": ""}]
    for name in ("content", "refusal"):
        deltas += [{name: piece} for piece in draw(cuts(message.get(name) or ""))]
    for index, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        pieces = draw(cuts(function["arguments"]))
        at_once = pieces.pop(0) if pieces and draw(st.booleans()) else ""
        opened = {"name": function["name"], "arguments": at_once}
        deltas.append({"tool_calls": [{**call, "index": index, "function": opened}]})
        deltas += [
            {"tool_calls": [{"index": index, "function": {"arguments": piece}}]} for piece in pieces
        ]
    usage = {"model": "big-1", "choices": [], "usage": whole["usage"]}
    last = chunk({}, finish_reason=choice["finish_reason"])
    return [*(chunk(delta) for delta in deltas), last, usage]


@st.composite
def cuts(draw, text):
    """``text`` in pieces, none of them empty."""
    places = draw(st.sets(st.integers(1, len(text) - 1), max_size=4)) if len(text) > 1 else set()
    edges = [0, *sorted(places), len(text)]
    return [text[a:b] for a, b in pairwise(edges) if a < b]


CALLS = st.lists(
    st.builds(
        lambda number, name, argument: (number, name, argument),
        st.integers(0, 10**6),
        st.sampled_from(["find", "weather"]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    ),
    max_size=3,
    unique_by=lambda call: call[0],
).map(
    lambda calls: [
        {
            "id": f"call_{number}",
            "type": "function",
            "function": {"name": name, "arguments": f'{{"q": "{argument.encode().hex()}"}}'},
        }
        for number, name, argument in calls
    ]
)
ANSWERS = st.builds(
    lambda content, refusal, calls, finish_reason: completion(
        {
            "content": content,
            **({"refusal": refusal} if refusal else {}),
            **({"tool_calls": calls} if calls else {}),
        },
        finish_reason=finish_reason,
    ),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.sampled_from(["", "", "I would rather not."]),
    CALLS,
    st.sampled_from(["stop", "length", "tool_calls", "content_filter"]),
)
STREAMED_ANSWERS = ANSWERS.flatmap(lambda whole: st.tuples(st.just(whole), chunked(whole)))
"""Whole completions, and the same in chunks."""


def replay(body, *, content_type="text/event-stream", status=200):
    """A client for an official SDK that answers every request with ``body``."""
    headers = {"content-type": content_type}
    transport = httpx2.MockTransport(
        lambda _: httpx2.Response(status, headers=headers, content=body)
    )
    return httpx2.Client(transport=transport)
