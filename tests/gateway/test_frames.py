import json

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import UpstreamError
from foretell.gateway._errors import ApiError
from foretell.gateway._frames import AnswerFrames, error_frame, frame, frame_json

BLOCK = {"decision": "keep", "p_success": 0.9}
DONE = b"data: [DONE]\n\n"
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(content=None, *, finish=None, index=0, **more):
    """A frame as OpenAI sends it."""
    choice = {
        "index": index,
        "delta": {} if content is None else {"content": content},
        "logprobs": None,
        "finish_reason": finish,
    }
    return frame(
        {
            "id": "chatcmpl-1",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "big-1",
            "choices": [choice],
            **more,
        }
    )


def usage_chunk(usage=USAGE):
    return frame({"id": "chatcmpl-1", "model": "big-1", "choices": [], "usage": usage})


def passing(*, include_usage=False, **options):
    return AnswerFrames(foretell=lambda: BLOCK, include_usage=include_usage, **options)


def told(frames):
    """What is known of the answer in the end."""
    return (
        frames.done,
        frames.broken,
        frames.error,
        frames.usage,
        frames.model,
        frames.finish_reason,
    )


def passed(*chunks, **options):
    frames = passing(**options)
    out = [raw for piece in chunks for raw in frames.feed(piece)]
    return frames, out + frames.end()


def cut(data, stream):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    return [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]


ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
objects = st.fixed_dictionaries(
    {},
    optional={
        "choices": st.one_of(
            st.none(),
            st.lists(
                st.one_of(
                    st.integers(),
                    st.fixed_dictionaries(
                        {"delta": st.fixed_dictionaries({"content": texts})},
                        optional={
                            "index": st.integers(0, 2),
                            "finish_reason": st.sampled_from([None, "stop", "length", 7]),
                        },
                    ),
                ),
                max_size=2,
            ),
        ),
        "usage": st.sampled_from([None, {}, USAGE, 3]),
        "model": st.sampled_from(["big-1", 5]),
        "foretell": st.just({"decision": "escalate"}),
    },
)


@st.composite
def events(draw):
    """One event in any of the forms that the standard allows."""
    end = draw(ends)
    lines = draw(
        st.lists(st.sampled_from([b": ping", b"event: x", b"id: 7", b"other"]), max_size=2)
    )
    indent = draw(st.sampled_from([None, None, 1]))
    data = json.dumps(draw(objects), indent=indent).encode().split(b"\n")
    colon = draw(st.sampled_from([b"data:", b"data: "]))
    return end.join([*lines, *(colon + line for line in data), b"", b""])


others = st.sampled_from(
    [
        b": ping\n\n",
        b"\n",
        b"\r\n",
        b"data:\n\n",
        b"retry: 5\r\r",
        b"data: [DONE]\r\n\r\n",
        DONE,
        b'data: {"error": {"message": "overloaded"}}\n\n',
        b"data: nonsense\n\n",
        b"data: {\n\n",
    ]
)
streams = st.lists(st.one_of(events(), events(), others), max_size=8).map(b"".join)


@given(streams, st.booleans(), st.data())
def test_where_a_stream_is_cut_makes_no_difference(stream, include_usage, data):
    whole, at_once = passed(stream, include_usage=include_usage)
    pieces, piecewise = passed(*cut(data, stream), include_usage=include_usage)
    assert piecewise == at_once
    assert told(pieces) == told(whole)


scraps = st.sampled_from(
    [b"data:", b" ", b"{", b"}", b'"usage":{', b"\r", b"\n", b"\xff", b"[DONE]"]
)


@given(st.lists(scraps, max_size=20).map(b"".join), streams, st.data())
def test_any_bytes_at_all_are_taken_without_an_exception(start, stream, data):
    passed(*cut(data, start + stream))


plain = st.lists(
    st.one_of(texts.map(chunk), st.sampled_from([b": ping\n\n", b"event: x\ndata: {}\r\n\r\n"])),
    max_size=6,
).map(b"".join)


@given(plain, st.data())
def test_what_need_not_change_goes_on_byte_for_byte(stream, data):
    frames, out = passed(*cut(data, stream))
    assert b"".join(out) == stream
    assert not frames.done
    assert frames.broken is None


@given(st.lists(texts, max_size=5), st.booleans(), st.data())
def test_a_stream_changes_in_its_last_frame_alone(pieces, include_usage, data):
    start = [chunk(text) for text in pieces]
    stream = b"".join([*start, chunk(finish="stop"), usage_chunk(), DONE])
    frames, out = passed(*cut(data, stream), include_usage=include_usage)
    asked = [chunk(finish="stop")] if include_usage else []
    last = usage_chunk() if include_usage else chunk(finish="stop")
    assert out == [*start, *asked, last[:-3] + b',"foretell":%b}\n\n' % json_bytes(BLOCK), DONE]
    assert told(frames) == (True, None, None, USAGE, "big-1", "stop")


def json_bytes(value):
    return json.dumps(value, separators=(",", ":")).encode()


def test_every_frame_before_the_first_finish_reason_goes_on_at_once():
    frames = passing()
    for text in "abc":
        assert frames.feed(chunk(text)) == [chunk(text)]


def test_the_cost_is_asked_for_after_the_tokens_are_known():
    seen = []

    def block():
        seen.append(frames.usage)
        return {}

    frames = AnswerFrames(foretell=block, include_usage=False)
    frames.feed(chunk("a") + chunk(finish="stop"))
    assert seen == []
    frames.feed(usage_chunk() + DONE)
    assert seen == [USAGE]


def test_of_several_choices_the_last_to_finish_carries_the_word():
    stream = [
        chunk("a"),
        chunk(finish="stop"),
        chunk("b", index=1),
        chunk(finish="length", index=1),
    ]
    frames, out = passed(*stream, DONE)
    assert out[:3] == stream[:3]
    assert frame_json(out[3])["foretell"] == BLOCK
    assert frames.finish_reason == "stop"


def test_the_first_choice_says_why_the_answer_ended_even_if_it_ends_last():
    frames, _ = passed(chunk(finish="length", index=1), chunk(finish="stop"), DONE)
    assert frames.finish_reason == "stop"


def test_a_comment_does_not_take_the_place_of_the_last_frame():
    _, out = passed(chunk(finish="stop"), b": ping\n\n", DONE)
    assert out[0] == b": ping\n\n"
    assert frame_json(out[1])["foretell"] == BLOCK


def test_a_frame_that_follows_the_finish_reason_carries_the_word():
    late = frame({"choices": [], "usage": None, "note": "filtered"})
    _, out = passed(chunk(finish="stop"), late, DONE)
    assert out[0] == chunk(finish="stop")
    assert frame_json(out[1]) == {**frame_json(late), "foretell": BLOCK}


def test_tokens_reported_beside_choices_go_on_with_them():
    last = chunk(finish="stop", usage=USAGE)
    frames, out = passed(last, DONE)
    assert frames.usage == USAGE
    assert frame_json(out[0]) == {**frame_json(last), "foretell": BLOCK}


def test_the_word_of_a_gateway_upstream_is_replaced():
    _, out = passed(chunk(finish="stop", foretell={"decision": "escalate"}), DONE)
    assert out[0].count(b'"foretell"') == 1
    assert frame_json(out[0])["foretell"] == BLOCK


def test_other_lines_of_the_last_frame_stay():
    payload = json.dumps(frame_json(chunk(finish="stop")), indent=1).encode()
    raw = b"event: x\r\ndata: " + payload.replace(b"\n", b"\r\ndata: ") + b"\r\nid: 9\r\n\r\n"
    _, out = passed(raw, DONE)
    assert out[0].startswith(b"event: x\nid: 9\ndata: {")
    assert frame_json(out[0]) == {**frame_json(chunk(finish="stop")), "foretell": BLOCK}


def test_without_done_nothing_is_lost_and_nothing_is_made_up():
    frames, out = passed(chunk("a"), chunk("b", finish="stop"))
    assert out == [chunk("a"), chunk("b", finish="stop")]
    assert not frames.done
    assert frames.finish_reason == "stop"


@pytest.mark.parametrize("done", [b"data: [DONE]", b"data:[DONE]\n", b"data: [DONE]\r\n\r"])
def test_a_done_that_no_blank_line_ended_counts(done):
    frames, out = passed(chunk(finish="stop"), done)
    assert frames.done
    assert frame_json(out[0])["foretell"] == BLOCK
    assert b"".join(out[1:]).startswith(b"data:")


def test_an_unfinished_frame_is_not_passed_on():
    frames, out = passed(chunk("a"), chunk("b")[:-1])
    assert out == [chunk("a")]
    assert not frames.done


def test_what_follows_done_is_not_passed_on():
    frames = passing()
    assert frames.feed(DONE + chunk("late")) == [DONE]
    assert frames.feed(chunk("later")) == []
    assert frames.end() == []


def test_an_error_of_the_upstream_goes_on_and_ends_the_stream():
    error = frame({"error": {"message": "overloaded", "type": "server_error"}})
    frames, out = passed(chunk("a"), chunk(finish="stop"), error, chunk("late"), DONE)
    assert out == [chunk("a"), chunk(finish="stop"), error]
    assert frames.error == frame_json(error)
    assert frames.broken == "sent an error"
    assert not frames.done


def test_an_error_that_is_null_is_none():
    stream = [chunk("a", error=None), chunk("b", usage={}, error=None)]
    frames, out = passed(*stream)
    assert out == stream
    assert frames.broken is None


@pytest.mark.parametrize(
    "raw", [b"data: nonsense\n\n", b"data: [1]\n\n", b'data: {"usage": {]}\n\n', b"data: {\n\n"]
)
def test_data_that_is_no_object_breaks_the_stream(raw):
    frames, out = passed(chunk("a"), raw, chunk("late"), DONE)
    assert out == [chunk("a")]
    assert frames.broken == "sent an event that is not a JSON object"
    assert frames.error is None
    assert not frames.done


@given(st.data())
def test_a_frame_without_end_breaks_the_stream_however_it_comes(data):
    stream = chunk("a") + b'data: {"x": "' + b"x" * 300 + b'"}\n\n' + DONE
    frames, out = passed(*cut(data, stream), max_frame_bytes=256)
    assert out == [chunk("a")]
    assert frames.broken == "sent an event larger than 256 bytes"


def test_many_frames_are_not_one_large_frame():
    stream = chunk("a") * 50
    frames, out = passed(stream, max_frame_bytes=256)
    assert b"".join(out) == stream
    assert frames.broken is None


def test_text_that_looks_like_a_report_of_tokens_is_text():
    tricky = chunk('"usage": {"prompt_tokens": 9}, "finish_reason": "stop", "error": "x" [DONE]')
    frames, out = passed(tricky)
    assert out == [tricky]
    assert told(frames) == (False, None, None, None, None, None)


def test_a_byte_order_mark_hides_nothing():
    frames, out = passed(b"\xef\xbb", b"\xbf" + chunk(finish="stop"), DONE)
    assert frames.finish_reason == "stop"
    assert frame_json(out[0])["foretell"] == BLOCK


def test_the_data_of_a_frame_is_read_as_the_standard_says():
    assert frame_json(b'event: x\ndata: {"a":\ndata: 1}\n\n') == {"a": 1}
    assert frame_json(b": ping\n\n") is None
    assert frame_json(DONE) is None
    with pytest.raises(UpstreamError, match="other than JSON"):
        frame_json(b"data: nonsense\n\n")


def openai_client(stream):
    """The official client before a server that sends these bytes."""

    def reply(_):
        return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=stream)

    http = httpx2.Client(transport=httpx2.MockTransport(reply))
    return openai.OpenAI(api_key="none", base_url="http://x/v1", http_client=http, max_retries=0)


def ask(client):
    return client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "hi"}], stream=True
    )


def test_the_official_client_reads_the_word_at_the_end():
    _, out = passed(chunk("a"), chunk("b"), chunk(finish="stop"), usage_chunk(), DONE)
    with openai_client(b"".join(out)) as client:
        chunks = list(ask(client))
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == "ab"
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert chunks[-1].model_extra["foretell"] == BLOCK


def test_the_official_client_raises_the_error_at_the_end_of_a_broken_stream():
    error = ApiError(502, "the model broke off", code="broke_off")
    with openai_client(chunk("a") + error_frame(error)) as client:
        chunks = ask(client)
        assert next(chunks).choices[0].delta.content == "a"
        with pytest.raises(openai.APIError, match="the model broke off") as caught:
            next(chunks)
    assert caught.value.code == "broke_off"
