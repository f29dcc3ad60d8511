from __future__ import annotations

import json
import sys
import time

import pytest

from foretell.errors import EngineUnavailableError, InputError
from foretell.flywheel import JsonSchema, Label, make_labeller

SCHEMA = {
    "type": "object",
    "properties": {
        "country": {"type": "string", "minLength": 2},
        "towns": {"type": "array", "items": {"$ref": "#/$defs/town"}},
    },
    "required": ["country"],
    "additionalProperties": False,
    "$defs": {"town": {"type": "object", "required": ["name"]}},
}


@pytest.mark.parametrize(
    ("text", "cut", "value", "reason"),
    [
        ('{"country": "FR"}', False, 1, ""),
        ('Sure: {"country": "FR"} Done.', False, 1, ""),
        ('```json\n{"country": "FR"}\n```', False, 1, ""),
        ('{"country": "FR", "towns": [{"name": "Lyon"}]}', False, 1, ""),
        ("{}", False, 0, "required"),
        ('{"country": 3}', False, 0, "properties/country/type"),
        ('{"country": "F"}', False, 0, "properties/country/minLength"),
        ('{"country": "FR", "a": 1}', False, 0, "additionalProperties"),
        ('{"country": "FR", "towns": [{}]}', False, 0, "$defs/town/required"),
        ("[1]", False, 0, "type"),
        ("3", False, 0, "type"),
        ("no JSON", False, 0, "no valid JSON"),
        ("", False, 0, "no valid JSON"),
        ('{"country": "FR"}\n\nWhich', True, 1, ""),
        ('{"country": 3} and', True, 0, "properties/country/type"),
        ('{"country": "F', True, None, "truncated"),
        ('{"towns": [{"name": "Lyon"}], "coun', True, None, "truncated"),
        ("12", True, None, "truncated"),
    ],
)
def test_the_reason_names_the_keyword_that_failed(judge, text, cut, value, reason):
    assert judge(JsonSchema(SCHEMA), text, cut=cut) == Label(value, reason)


def test_a_schema_for_other_things_than_objects_looks_at_the_whole_answer(judge):
    numbers = JsonSchema({"type": "array", "items": {"type": "number"}})
    assert judge(numbers, " [1, 2.5]\n").value == 1
    assert judge(numbers, "```\n[1]\n```").value == 1
    assert judge(numbers, '[1, "a"]').reason == "items/type"
    assert judge(JsonSchema(False), "1") == Label(0.0, "false")
    assert judge(JsonSchema(True), "1").value == 1


def test_half_a_character_is_no_text(judge):
    assert judge(JsonSchema({"type": "string"}), r'"\ud800"') == Label(0.0, "no Unicode text")


def test_formats_are_checked_when_asked(judge):
    schema = {"type": "string", "format": "date"}
    assert judge(JsonSchema(schema), '"tomorrow"').value == 1
    assert judge(JsonSchema(schema, formats=True), '"tomorrow"').reason == "format"


def test_json_that_is_nested_too_deep_cannot_be_told(judge):
    deep = JsonSchema({"items": {"$ref": "#"}})
    label = judge(deep, "[" * 500 + "]" * 500)
    assert label in (Label(1.0, ""), Label(None, "nested too deep"))
    assert judge(deep, "[" * 100_000) == Label(0.0, "no valid JSON")


def test_a_pattern_that_would_backtrack_takes_no_time(judge):
    labeller = JsonSchema({"type": "string", "pattern": "^(a+)+$"})
    started = time.monotonic()
    assert judge(labeller, json.dumps("a" * 100_000 + "b")).reason == "pattern"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"$ref": "http://127.0.0.1:1/x"}, "other documents are not fetched"),
        ({"$ref": "file:///etc/passwd"}, "other documents are not fetched"),
        ({"$ref": "#/$defs/none"}, "does not exist"),
        ({"type": "strin"}, "is not valid under any of the schemas"),
        ({"pattern": "(?=a)"}, 'is not a "regex"'),
        ({"pattern": "(a{1000}){1000}"}, 'is not a "regex"'),
    ],
)
def test_a_schema_that_cannot_be_used_is_refused_in_one_line(schema, problem):
    with pytest.raises(InputError, match="the schema cannot be used") as caught:
        JsonSchema(schema)
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_schema_is_a_file_or_in_the_option_itself(judge, tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA), encoding="utf-8")
    for schema in (str(tmp_path / "schema.json"), json.dumps(SCHEMA)):
        labeller = make_labeller("json_schema", {"schema": schema, "formats": "yes"})
        assert labeller.metric == "json_schema"
        assert judge(labeller, "{}").reason == "required"


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({}, "'json_schema' needs the option 'schema'"),
        ({"schema": "/no/such.json"}, "cannot read the schema /no/such.json"),
        ({"schema": "{"}, "the schema is not valid JSON"),
        ({"schema": "{}", "draft": "7"}, "'json_schema' has no option 'draft'"),
    ],
)
def test_options_that_cannot_be_used_say_why(options, problem):
    with pytest.raises(InputError, match=problem):
        make_labeller("json_schema", options)


def test_a_schema_file_must_hold_a_schema(tmp_path):
    (tmp_path / "list.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="must be an object"):
        make_labeller("json_schema", {"schema": str(tmp_path / "list.json")})


def test_a_missing_library_is_named_with_its_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "jsonschema_rs", None)
    with pytest.raises(EngineUnavailableError, match=r"pip install 'foretell\[label\]'"):
        JsonSchema(SCHEMA)
