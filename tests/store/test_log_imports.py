"""Logs of other programs become queries with the strong model's answers."""

from __future__ import annotations

import json

import pytest

from foretell.errors import InputError
from foretell.records import Usage
from foretell.store import import_logs


def asked(text):
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]


def completion(text, **others):
    fields = {
        "id": f"chatcmpl-{text}",
        "object": "chat.completion",
        "model": "big-1-2026",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": text},
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 12,
            "completion_tokens": 3,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4},
        },
    }
    return {**fields, **others}


@pytest.fixture
def log(tmp_path):
    def write(*entries, name="log.jsonl"):
        path = tmp_path / name
        lines = [one if isinstance(one, str) else json.dumps(one) for one in entries]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


def read(path, kind="openai", **options):
    return import_logs(path, format=kind, domain="geo", **options)


PAIR = {"request": {"model": "big", "messages": asked("2+2?")}, "response": completion("4")}
SHAPES = {
    "request and response": PAIR,
    "bodies in envelopes": {
        "request": {"method": "POST", "body": PAIR["request"]},
        "response": {"status_code": 200, "body": PAIR["response"]},
    },
    "bodies as text": {
        "request": json.dumps(PAIR["request"]),
        "response": json.dumps(PAIR["response"]),
    },
    "stored completion": {**completion("4"), "messages": asked("2+2?")},
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_chat_completion_is_read_in_every_shape_it_is_logged_in(log, shape):
    found = read(log(SHAPES[shape]), tenant="key-7")
    (seen,) = found.observations
    assert seen.query.id == "chatcmpl-4"
    assert list(seen.query.messages) == asked("2+2?")
    assert (seen.role, seen.origin, seen.tenant) == ("strong", "imported", "key-7")
    assert (seen.answer.text, seen.answer.model) == ("4", "big-1-2026")
    assert seen.answer.usage == Usage(prompt_tokens=12, completion_tokens=3, cached_tokens=4)
    assert (found.bad, found.estimated) == ((), 0)


def test_the_output_of_a_batch_is_joined_with_its_input(log):
    inputs = log(
        *[
            {
                "custom_id": name,
                "method": "POST",
                "url": "/v1/chat/completions",
                "body": {"model": "big", "messages": asked(name)},
            }
            for name in ("a", "b")
        ],
        name="input.jsonl",
    )
    output = log(
        {
            "id": "batch_req_1",
            "custom_id": "a",
            "response": {"status_code": 200, "request_id": "r", "body": completion("A")},
            "error": None,
        },
        {
            "custom_id": "b",
            "response": {"status_code": 500, "body": {}},
            "error": {"code": "server_error"},
        },
        {"custom_id": "c", "response": {"status_code": 200, "body": completion("C")}},
    )
    found = read(output, inputs=inputs)
    assert [seen.query.id for seen in found.observations] == ["a"]
    assert found.observations[0].query.text == "a"
    assert [row.line for row in found.bad] == [2, 3]
    assert "failed (status 500)" in found.bad[0].reason
    assert "name its input file" in found.bad[1].reason
    with pytest.raises(InputError, match="no line has a custom_id"):
        read(output, inputs=log("{}", name="other.jsonl"))


def test_messages_that_end_with_an_answer_are_read_as_for_fine_tuning(log):
    told = {"messages": [*asked("2+2?"), {"role": "assistant", "content": "4"}]}
    found = read(log(told), model="big")
    (seen,) = found.observations
    assert (seen.answer.text, seen.answer.model) == ("4", "big")
    assert list(seen.query.messages) == asked("2+2?")
    assert found.estimated == 1
    # 13 characters asked, 1 answered
    assert seen.answer.usage == Usage(prompt_tokens=4, completion_tokens=1)


def test_several_answers_to_one_request_are_rollouts(log):
    choices = [
        {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for text in ("4", "four")
    ]
    pair = {**PAIR, "response": completion("4", choices=choices)}
    found = read(log(pair))
    assert [(seen.rollout, seen.answer.text) for seen in found.observations] == [
        (0, "4"),
        (1, "four"),
    ]
    assert found.estimated == 2  # what was counted is of both together


BAD = {
    "not JSON": "{",
    "no object": "[1]",
    "NaN": '{"a": NaN}',
    "no known shape": {"prompt": "?"},
    "a response of another API": {**PAIR, "response": {"output": []}},
    "no choices": {**PAIR, "response": completion("4", choices=[])},
    "a tool's call": {
        **PAIR,
        "response": completion(
            "4",
            choices=[
                {"message": {"content": None, "tool_calls": [{}]}, "finish_reason": "tool_calls"}
            ],
        ),
    },
    "no messages": {**PAIR, "request": {"model": "big"}},
    "a NUL": {**PAIR, "response": completion("4\0")},
    "half a pair in what was asked": {**PAIR, "request": {"messages": asked("\ud800")}},
    "no answer at the end": {"messages": asked("2+2?")},
    "the same query again": PAIR,
}


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_row_is_named_by_its_line_and_the_others_are_read(log, kind):
    good = {**PAIR, "response": completion("5", id="other")}
    found = read(log(PAIR, "", BAD[kind], good))
    assert len(found.observations) == 2
    (bad,) = found.bad
    assert bad.line == 3
    assert bad.reason


def test_only_bad_rows_are_an_error_that_names_some(log):
    with pytest.raises(InputError, match=r"no row that can be imported: line 1: .*; line 2: "):
        read(log("{", "["))
    with pytest.raises(InputError, match="it is empty"):
        read(log(""))


def test_our_own_queries_are_read_with_an_answer(log):
    entry = {
        "id": "7",
        "prompt": "Capital of Italy?",
        "reference": "Rome",
        "group": "italy",
        "split": "test",
        "attributes": {"field": "city"},
        "answer": "Rome",
        "model": "big",
        "finish_reason": "length",
        "prompt_tokens": 9,
        "completion_tokens": 1,
    }
    found = read(log(entry, {"id": "8", "prompt": "?"}), "jsonl")
    (seen,) = found.observations
    assert (seen.query.group, seen.query.split) == ("italy", "test")
    assert seen.query.reference == "Rome"
    assert seen.answer.finish_reason == "length"
    assert seen.answer.usage == Usage(prompt_tokens=9, completion_tokens=1)
    assert found.bad[0].reason == "'answer' is missing"


def test_columns_of_a_csv_file_may_have_other_names(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(
        'question;x,reply,who,note\n"What, now?\nReally?",Yes,big-2,\n,No,big-2,\nWhy?,Because,,\n',
        encoding="utf-8-sig",
    )
    columns = {"prompt": "question;x", "answer": "reply", "model": "who"}
    found = read(path, "csv", columns=columns, model="big-1")
    first, second = found.observations
    assert first.query.text == "What, now?\nReally?"
    assert (first.answer.model, second.answer.model) == ("big-2", "big-1")
    assert [(row.line, row.reason) for row in found.bad] == [(4, "prompt is empty")]
    assert read(path, "csv", columns=columns).observations[0].query.id == first.query.id
    with pytest.raises(InputError, match="has no column 'answer'; it has question;x, reply"):
        read(path, "csv")
    with pytest.raises(InputError, match="a column cannot be 'colour'"):
        read(path, "csv", columns={"colour": "who"})


def test_the_usual_columns_need_no_naming(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("id,system,prompt,answer,reference,group\n1,Be brief.,2+2?,4,4,sums\n")
    (seen,) = read(path, "csv").observations
    assert seen.query.id == "1"
    assert list(seen.query.messages) == asked("2+2?")
    assert (seen.query.reference, seen.query.group) == ("4", "sums")
    assert seen.answer.model == "unknown"


def test_the_same_question_is_one_group(log):
    rows = [
        {**PAIR, "response": completion(name), "request": {"messages": asked(text)}}
        for name, text in (("a", "Why?"), ("b", " why? "), ("c", "How?"))
    ]
    groups = [seen.query.group for seen in read(log(*rows)).observations]
    assert groups[0] == groups[1] != groups[2]


def test_what_is_imported_can_be_stored_and_is_known_the_second_time(log, any_store):
    found = read(log(PAIR))
    assert any_store.append(found.observations) == 1
    assert any_store.append(found.observations) == 0
    assert [counts.strong for counts in any_store.domains()] == [1]
    (seen,) = any_store.observations("geo")
    assert seen.origin == "imported"


def test_options_of_another_format_are_refused(log, tmp_path):
    path = log(PAIR)
    with pytest.raises(InputError, match="belongs to the format openai, not to jsonl"):
        read(path, "jsonl", inputs=path)
    with pytest.raises(InputError, match="belong to the format csv, not to openai"):
        read(path, columns={"prompt": "q"})
    with pytest.raises(InputError, match="wanted openai, jsonl or csv"):
        read(path, "xml")
    with pytest.raises(InputError, match="cannot read"):
        read(tmp_path / "none.jsonl")
    (tmp_path / "latin.jsonl").write_bytes(b'{"a": "\xe4"}\n')
    with pytest.raises(InputError, match="save it as UTF-8"):
        read(tmp_path / "latin.jsonl")
