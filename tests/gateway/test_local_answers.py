import json

import httpx2
import openai
from hypothesis import given
from hypothesis import strategies as st

from foretell.gateway._frames import AnswerFrames, frame_json
from foretell.gateway._local_answers import LocalAnswer, usage_object
from foretell.records import Answer, Usage

ANSWER = LocalAnswer(id="chatcmpl-1", created=1_700_000_000, model="small")
USAGE = Usage(prompt_tokens=7, completion_tokens=3, cached_tokens=5)
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)


def finished(text, reason="stop"):
    return Answer(text=text, model="tiny", finish_reason=reason, usage=USAGE)


def stream(pieces, answer, *, include_usage=True):
    return [
        ANSWER.first_frame(),
        *(ANSWER.text_frame(piece) for piece in pieces),
        *ANSWER.last_frames(answer, include_usage=include_usage),
    ]


def client(reply):
    http = httpx2.Client(transport=httpx2.MockTransport(lambda _: reply))
    return openai.OpenAI(api_key="none", base_url="http://x/v1", http_client=http, max_retries=0)


def ask(client, **options):
    return client.chat.completions.create(
        model="auto", messages=[{"role": "user", "content": "hi"}], **options
    )


@given(st.lists(texts, max_size=5), st.sampled_from(["stop", "length"]))
def test_an_answer_says_the_same_streamed_and_whole(pieces, reason):
    answer = finished("".join(pieces), reason)
    whole = json.loads(ANSWER.body(answer))
    chunks = [frame_json(raw) for raw in stream(pieces, answer)[:-1]]
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(c["delta"].get("content", "") for c in choices) == answer.text
    assert whole["choices"][0]["message"]["content"] == answer.text
    assert choices[-1]["finish_reason"] == whole["choices"][0]["finish_reason"] == reason
    assert chunks[-1]["usage"] == whole["usage"] == usage_object(USAGE)
    assert {(c["id"], c["created"], c["model"]) for c in [whole, *chunks]} == {
        ("chatcmpl-1", 1_700_000_000, "small")
    }


def test_the_official_client_reads_a_whole_answer():
    reply = httpx2.Response(
        200, headers={"content-type": "application/json"}, content=ANSWER.body(finished("héllo"))
    )
    with client(reply) as openai_client:
        completion = ask(openai_client)
    assert completion.object == "chat.completion"
    assert completion.choices[0].message.content == "héllo"
    assert completion.choices[0].message.role == "assistant"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage.total_tokens == 10
    assert completion.usage.prompt_tokens_details.cached_tokens == 5


def test_the_official_client_reads_a_streamed_answer():
    frames = b"".join(stream(["hé", "llo"], finished("héllo")))
    reply = httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=frames)
    with client(reply) as openai_client:
        chunks = list(ask(openai_client, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(c.choices[0].delta.content or "" for c in chunks[:-1]) == "héllo"
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.prompt_tokens == 7


def test_the_tokens_are_left_out_when_nobody_wants_them():
    frames = stream(["a"], finished("a"), include_usage=False)
    assert b"usage" not in b"".join(frames)


def test_a_beginning_that_the_caller_gave_is_not_said_again():
    answer = LocalAnswer(id="x", created=1, model="small", given="It is ")
    whole = json.loads(answer.body(finished("It is blue")))
    assert whole["choices"][0]["message"]["content"] == "blue"


def test_it_passes_through_like_the_answer_of_an_upstream():
    frames = AnswerFrames(foretell=lambda: {"decision": "keep"}, include_usage=False)
    out = frames.feed(b"".join(stream(["a"], finished("a"))))
    assert frames.done
    assert (frames.model, frames.finish_reason) == ("small", "stop")
    assert frames.usage == usage_object(USAGE)
    assert frame_json(out[-2])["foretell"] == {"decision": "keep"}
