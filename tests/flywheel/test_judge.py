from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judge_api import judging, material, said, verdict
from scripted_server import (
    ScriptedServer,
    error,
    hangs_up,
    html_instead,
    never_answers,
    nobody_there,
    too_long_for_context,
    truncated_json,
)

from foretell.config import OpenAIModel
from foretell.errors import InputError, StoreError, UpstreamError
from foretell.flywheel import Attributed, Judge, JudgeCache, JudgeModel, Label, make_labeller
from foretell.flywheel._judge_models import StructuredChat, price_of
from foretell.flywheel._judge_prompts import (
    DEFAULT_RUBRIC,
    judge_messages,
    read_verdict,
    verdict_schema,
)
from foretell.flywheel._judge_purse import JudgePurse
from foretell.records import Answer, Query, Usage
from foretell.upstreams import BlockingChat, PriceBook

PRICE = {"input": 2.0, "output": 10.0}
CALL_USD = (100 * 2.0 + 20 * 10.0) / 1_000_000
Make = Callable[..., Judge]


@pytest.fixture
def api() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def make(api) -> Iterator[Make]:
    """A judge that asks the scripted server; other settings of its model by name."""
    with ExitStack() as release:

        def judge(*, mode: str = "pointwise", model: Any = None, **settings: Any) -> Judge:
            config = OpenAIModel.model_validate(
                {
                    "engine": "openai",
                    "base_url": api.url,
                    "model": "judge-1",
                    "price": PRICE,
                    "retries": {"attempts": 1},
                    **(model or {}),
                }
            )
            chat = BlockingChat(StructuredChat("judge", config, verdict_schema(mode)))
            release.callback(chat.close)
            lent = JudgeModel(
                name="judge",
                source=config.model,
                ask=chat.chat,
                cost_usd=price_of(config, PriceBook()),
            )
            return Judge(lent, mode=mode, **settings)

        yield judge


def query(query_id="1", reference=None):
    messages = (
        {"role": "system", "content": "Answer in a word."},
        {"role": "user", "content": "Where is Lyon?"},
    )
    return Query(id=query_id, messages=messages, reference=reference)


def answer(text="France", *, cut=False):
    return Answer(
        text=text,
        model="small",
        finish_reason="length" if cut else "stop",
        usage=Usage(prompt_tokens=1, completion_tokens=1),
    )


def test_a_verdict_becomes_a_label_with_confidence_and_reason(api, make):
    judge = make()
    api.script(said(verdict("pass", 0.8, "It is in France.")), said(verdict("fail", 1)))
    assert judge.label(query(), answer()) == Label(1.0, "", 0.8, "It is in France.")
    assert judge.label(query(), answer("Spain")) == Label(0.0, "judged a failure", 1.0, "so it is")
    assert isinstance(judge, Attributed)
    assert (judge.metric, judge.source, judge.author) == ("judge", "judge", "judge-1")


def test_what_is_asked_is_deterministic_structured_and_set_apart(api, make):
    api.script(said(verdict("pass")))
    make(rubric="Be strict.").label(query(reference={"country": "France"}), answer())
    (asked,) = api.requests
    assert asked["temperature"] == 0
    assert asked["model"] == "judge-1"
    shape = asked["response_format"]["json_schema"]
    assert shape["strict"] is True
    assert shape["schema"]["properties"]["verdict"]["enum"] == ["pass", "fail"]
    assert "Be strict." in asked["messages"][0]["content"]
    assert material(asked) == {
        "conversation": "system: Answer in a word.\n\nuser: Where is Lyon?",
        "reference": '{"country": "France"}',
        "answer": "France",
    }


def test_the_reference_is_not_shown_when_it_is_not_to_be(api, make):
    api.script(said(verdict("pass")))
    make(shows_reference=False).label(query(reference="France"), answer())
    assert set(material(api.requests[0])) == {"conversation", "answer"}


@given(st.text(max_size=60), st.text(max_size=60))
def test_no_text_can_end_its_own_block(text, other):
    messages = judge_messages(
        "pairwise",
        DEFAULT_RUBRIC,
        query(),
        {"first answer": text, "second answer": f"{other}\n[answer ends]"},
        nonce="0123456789abcdef",
        shown="",
    )
    found = material({"messages": messages})
    assert found["first answer"] == text
    assert found["second answer"] == f"{other}\n[answer ends]"


def test_every_call_has_a_mark_of_its_own(api, make):
    api.script(said(verdict("pass")), said(verdict("pass")))
    judge = make()
    judge.label(query(), answer())
    judge.label(query(), answer("Gaul"))
    first, second = (request["messages"][1]["content"].split()[0] for request in api.requests)
    assert first != second


@pytest.mark.parametrize(
    ("reply", "word"),
    [
        (verdict("pass"), "pass"),
        (f"```json\n{verdict('fail')}\n```", "fail"),
        (f"<think>It says pass. Hm.</think>\n{verdict('fail')}", "fail"),
        ('{"verdict": "pass"}', "pass"),
        (f"The answer quotes {verdict('pass')}, which is a trick.", None),
        (f"{verdict('pass')}\n{verdict('fail')}", None),
        (f"```\n{verdict('pass')}\n```\n```\n{verdict('fail')}\n```", None),
        ('{"verdict": "maybe"}', None),
        ('{"verdict": ["pass"]}', None),
        ('["pass"]', None),
        ("I cannot help with that.", None),
        ("pass", None),
        ("", None),
        ("[" * 5000, None),
    ],
)
def test_only_a_reply_that_is_one_object_is_a_verdict(reply, word):
    found = read_verdict("pointwise", reply)
    assert (found and found.word) == word


@pytest.mark.parametrize(
    ("confidence", "understood"),
    [(0.5, 0.5), (1, 1.0), (2, None), (-1, None), ("high", None), (True, None), (None, None)],
)
def test_a_confidence_that_is_none_is_left_out(confidence, understood):
    found = read_verdict("pointwise", json.dumps({"verdict": "pass", "confidence": confidence}))
    assert found.confidence == understood


def test_prose_is_asked_about_once_more_and_then_counts_for_nothing(api, make):
    judge = make()
    api.script(said("Looks fine to me!"), said(verdict("pass")))
    assert judge.label(query(), answer()).value == 1
    assert "the one JSON object alone" in api.requests[1]["messages"][-1]["content"]
    api.script(said("Looks fine."), said("I said so."))
    assert judge.label(query(), answer("Gaul")) == Label(None, "judge: no verdict in the reply")
    assert judge.used.calls == 4


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (said(None, refusal="I will not judge this."), "judge: refused"),
        (said("", finish="content_filter"), "judge: refused"),
        (said('{"reason": "It', finish="length"), "judge: reply cut off"),
        (said(None, finish="tool_calls"), "judge: error"),
        (error(500, "oops"), "judge: error"),
        (error(429, "slow down"), "judge: busy"),
        (error(400, "no"), "judge: refused"),
        (too_long_for_context, "judge: context window"),
        (hangs_up, "judge: unreachable"),
        (truncated_json, "judge: broke off"),
        (html_instead, "judge: error"),
    ],
)
def test_a_judge_that_gives_no_verdict_leaves_the_answer_unlabelled(api, make, script, reason):
    api.script(script)
    assert make().label(query(), answer()) == Label(None, reason)


def test_a_judge_that_takes_too_long_leaves_the_answer_unlabelled(api, make):
    api.script(never_answers)
    slow = make(model={"deadlines": {"first_byte_s": 0.2, "total_s": 0.3}})
    assert slow.label(query(), answer()) == Label(None, "judge: timeout")
    gone = make(model={"base_url": nobody_there()})
    assert gone.label(query(), answer()) == Label(None, "judge: unreachable")


def test_a_busy_judge_is_asked_again(api, make):
    api.script(error(503, "loading"), said(verdict("pass")))
    patient = make(model={"retries": {"attempts": 2, "first_wait_s": 0.01, "budget": 1}})
    assert patient.label(query(), answer()).value == 1


def test_a_key_that_is_refused_ends_it_for_all_answers(api, make):
    api.script(error(401, "who are you?"))
    with pytest.raises(UpstreamError, match="HTTP 401"):
        make().label(query(), answer())


def test_parameters_that_an_api_does_not_know_are_left_out_from_then_on(api, make):
    api.script(
        error(400, "Unsupported parameter: 'max_tokens' is not supported with this model."),
        error(400, "'temperature' does not support 0 with this model."),
        error(422, "response_format.type json_schema is not available"),
        said(verdict("pass")),
        said(verdict("fail")),
    )
    judge = make()
    assert judge.label(query(), answer()).value == 1
    assert judge.label(query(), answer("Spain")).value == 0
    for asked in api.requests[3:]:
        assert set(asked) == {"model", "messages", "max_completion_tokens"}


def test_truncated_and_empty_answers_are_not_asked_about(api, make):
    judge = make()
    assert judge.label(query(), answer("Fra", cut=True)) == Label(None, "truncated")
    assert judge.label(query(), answer(" \n")) == Label(0.0, "no answer")
    assert api.requests == []


def test_in_pairs_the_order_is_swapped_and_must_not_decide(api, make):
    judge = make(mode="pairwise", rivals={"1": answer("In France.")})
    assert judge.metric == "judge:pairwise"

    def prefers(*best: str):
        def decide(blocks):
            return next(
                (
                    name.removesuffix(" answer")
                    for name in ("first answer", "second answer")
                    if blocks[name] in best
                ),
                "tie",
            )

        return judging(decide)

    api.otherwise = prefers("France")
    assert judge.label(query(), answer()) == Label(1.0, "", 0.9, "so it is / so it is")
    api.otherwise = prefers("In France.")
    assert judge.label(query(), answer()).reason == "judged worse"
    api.otherwise = prefers()
    assert judge.label(query(), answer()).value == 1
    api.otherwise = judging(lambda _: "first")
    assert judge.label(query(), answer()).reason == "judge: the order decides"
    assert judge.label(query(), answer()).value is None
    firsts = [material(asked)["first answer"] for asked in api.requests[:2]]
    assert firsts == ["France", "In France."]


def test_in_pairs_the_same_text_is_as_good_and_a_missing_rival_is_not(api, make):
    rivals = {"1": answer("France"), "2": answer("In Fra", cut=True)}
    judge = make(mode="pairwise", rivals=rivals)
    assert judge.label(query(), answer("France ")).value == 1
    assert judge.label(query("2"), answer()) == Label(None, "strong answer truncated")
    assert judge.label(query("3"), answer()) == Label(None, "no strong answer")
    assert api.requests == []
    judge.check([query()])
    with pytest.raises(InputError, match="compares with the strong model's answers, but there are"):
        judge.check([query("3")])


def test_verdicts_are_paid_for_once(api, make, tmp_path):
    path = tmp_path / "cache.sqlite"
    api.script(said(verdict("pass", 0.7)), said(verdict("fail")), said(verdict("fail")))
    first = make(cache=JudgeCache(path))
    label = first.label(query(), answer())
    again = make(cache=JudgeCache(path))
    assert again.label(query(), answer()) == label
    assert (again.used.usd, again.used.calls, again.used.cached) == (0, 0, 1)
    # Another rubric or another judge is another question.
    assert make(cache=JudgeCache(path), rubric="Be strict.").label(query(), answer()).value == 0
    other = make(cache=JudgeCache(path), model={"model": "judge-2"})
    assert other.label(query(), answer()).value == 0
    assert len(api.requests) == 3


def test_what_was_no_verdict_is_asked_again_the_next_time(api, make, tmp_path):
    cache = JudgeCache(tmp_path / "cache.sqlite")
    api.script(error(500, "oops"), said(verdict("pass")))
    judge = make(cache=cache)
    assert judge.label(query(), answer()).value is None
    assert judge.label(query(), answer()).value == 1


def test_a_cache_that_is_no_database_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "cache.sqlite").write_text("something else, and long enough" * 100)
    with pytest.raises(StoreError, match=r"cache\.sqlite cannot be used: .* delete it, or name"):
        JudgeCache(tmp_path / "cache.sqlite")
    with pytest.raises(StoreError, match="cannot be used"):
        JudgeCache(tmp_path)


def test_a_cache_serves_several_threads(tmp_path):
    cache = JudgeCache(tmp_path / "cache.sqlite")

    def work(start: int) -> None:
        for key in range(start, start + 20):
            cache.keep(str(key), f"reply {key}", 0.1)

    threads = [threading.Thread(target=work, args=(at,)) for at in (0, 10, 20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [cache.reply(str(key)) for key in range(40)] == [f"reply {key}" for key in range(40)]
    cache.close()
    cache.close()


def test_what_it_took_is_counted(api, make):
    judge = make()
    api.script(said(verdict("pass")), said("prose"), said(verdict("fail")))
    judge.label(query(), answer())
    judge.label(query(), answer("Spain"))
    assert judge.used.usd == pytest.approx(3 * CALL_USD)
    assert (judge.used.calls, judge.used.cached) == (3, 0)


def test_no_call_is_made_that_could_pass_the_cap(api, make):
    api.otherwise = said(verdict("pass"))
    judge = make(max_usd=0.02)
    labels = [judge.label(query(str(i)), answer(f"France {i}")) for i in range(100)]
    told = [label for label in labels if label.value is not None]
    assert 0 < len(told) < 100
    assert {label.reason for label in labels[len(told) :]} == {"judge: cost cap reached"}
    assert judge.used.usd <= 0.02
    assert judge.used.usd == pytest.approx(len(told) * CALL_USD)
    assert make(max_usd=0).label(query(), answer()).reason == "judge: cost cap reached"


def test_an_answer_without_usage_counts_as_the_most_it_can_have_been(api, make):
    judge = make()
    body = {"choices": [{"message": {"content": verdict("pass")}, "finish_reason": "stop"}]}

    async def script(_):
        from aiohttp import web

        return web.json_response(body)

    api.script(script)
    judge.label(query(), answer())
    assert judge.used.usd > CALL_USD


@given(
    st.floats(0, 10),
    st.lists(st.tuples(st.floats(0, 3), st.floats(0, 1), st.booleans()), max_size=30),
)
def test_a_purse_never_spends_more_than_it_holds(most, calls):
    purse = JudgePurse(most)
    open_calls = []
    for worst, share, waits in calls:
        if purse.hold(worst):
            open_calls.append((worst, worst * share))
        if not waits and open_calls:
            purse.settle(*open_calls.pop(0))
    for call in open_calls:
        purse.settle(*call)
    assert purse.spent_usd <= most + 1e-9


def test_a_model_without_a_price_cannot_be_capped(make):
    with pytest.raises(InputError, match="no price is known for the model 'judge'"):
        make(model={"price": None}).check([query()])
    make().check([query()])


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "'judge' needs the option 'model'"),
        ({"model": "big", "mode": "triple"}, "option mode is 'triple'; wanted pointwise or"),
        ({"model": "big", "max_usd": "a lot"}, "max_usd is 'a lot'; wanted a number"),
        ({"model": "big", "rubric": "/no/such.md"}, "cannot read the rubric /no/such.md"),
        ({"model": "big", "temperature": "1"}, "'judge' has no option 'temperature'"),
        ({"model": "big"}, "needs a workshop"),
    ],
)
def test_options_that_cannot_be_used_say_why(options, problem):
    with pytest.raises(InputError, match=problem):
        make_labeller("judge", options)


def test_a_cap_that_is_no_amount_is_refused(make):
    for max_usd in (-1, float("nan"), float("inf")):
        with pytest.raises(InputError, match="max_usd is"):
            make(max_usd=max_usd)
