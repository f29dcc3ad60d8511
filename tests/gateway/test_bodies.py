import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import RoutingError, UpstreamError
from foretell.gateway._bodies import answer_json, described, json_bytes, parse_json, spliced
from foretell.gateway._errors import ERROR_SCHEMA, ApiError, quoted

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=10,
)
objects = st.dictionaries(texts, values, max_size=4)
styles = st.sampled_from(
    [{}, {"indent": 2}, {"separators": (",", ":")}, {"ensure_ascii": False, "indent": 1}]
)


def refusal(body, **options):
    with pytest.raises(ApiError) as caught:
        parse_json(body, **options)
    assert caught.value.status == 400
    assert caught.value.code == "invalid_json"
    assert caught.value.type == "invalid_request_error"
    return caught.value


@given(objects, styles)
def test_an_object_is_read_as_json_means_it(document, style):
    assert parse_json(json.dumps(document, **style).encode()) == document


@given(st.binary(max_size=60))
def test_any_bytes_are_an_object_or_a_refusal(body):
    try:
        document = parse_json(body)
    except ApiError as error:
        document = error.body()
    assert isinstance(document, dict)
    json_bytes(document)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "no body"),
        (b" \n", "no body"),
        (b'{"a": 1', "line 1, column 8"),
        (b'{"a":\n nope}', "line 2, column 2"),
        (b"[1]", "must be a JSON object, got a list"),
        (b"null", "got null"),
        (b'"text"', "got a string"),
        (b'{"a": "\xff"}', "not UTF-8 at byte 7"),
        (b'\xef\xbb\xbf{"a": 1}', "BOM"),
        (b'{"a": NaN}', "a number that JSON does not have"),
        (b'{"a": -Infinity}', "a number that JSON does not have"),
        (b'{"a": 1e999}', "too large"),
        (b'{"a": ' + b"9" * 5000 + b"}", "too large"),
        (b"[" * 100_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
    ],
)
def test_what_is_no_json_object_is_refused(body, message):
    assert message in refusal(body).message


@pytest.mark.parametrize("depth", [1, 2, 5, 64])
def test_nesting_is_counted_in_levels(depth):
    deepest = b'{"a":' * (depth - 1) + b"{}" + b"}" * (depth - 1)
    assert parse_json(deepest, max_depth=depth) is not None
    deeper = b'{"a":' * depth + b"[]" + b"}" * depth
    assert f"deeper than {depth} levels" in refusal(deeper, max_depth=depth).message


def test_a_wide_body_is_not_a_deep_one():
    assert len(parse_json(json.dumps({"a": [[]] * 5000}).encode())["a"]) == 5000


def test_of_a_key_that_stands_twice_the_last_one_counts():
    assert parse_json(b'{"model": "a", "model": "b"}') == {"model": "b"}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (rb'{"messages": [{"content": "a\ud83d"}]}', "messages.0.content"),
        (rb'{"a": {"b": ["", "\uDE00\uD83D"]}}', "a.b.1"),
        (rb'{"a": {"\ud800": 1}}', "a"),
        (rb'{"\udfff": 1}', None),
        (rb'{"a": {"odd key": "\ud800"}}', "a"),
    ],
)
def test_half_a_surrogate_pair_is_refused_where_it_stands(body, param):
    error = refusal(body)
    assert error.param == param
    json.dumps(error.body(), ensure_ascii=False).encode()


def test_a_whole_surrogate_pair_is_one_character():
    assert parse_json(rb'{"a": "\ud83d\ude00", "b": "\\ud800"}') == {"a": "😀", "b": r"\ud800"}


@given(objects, styles, objects)
def test_a_spliced_body_has_one_key_more_and_its_bytes_otherwise(document, style, block):
    document.pop("foretell", None)
    body = json.dumps(document, **style).encode()
    result = spliced(body, block)
    assert json.loads(result) == {**document, "foretell": block}
    end = body.rindex(b"}")
    assert result.startswith(body[:end])
    assert result.endswith(body[end:])


@given(objects, styles, objects)
def test_splicing_again_replaces_what_was_spliced(document, style, block):
    body = json.dumps({"foretell": {"decision": "keep"}, **document}, **style).encode()
    assert json.loads(spliced(body, block)) == {**document, "foretell": block}


def test_the_word_is_looked_for_as_a_key_of_the_body_alone():
    body = b'{"text": "\\"foretell\\"", "deep": {"foretell": 1}}'
    assert json.loads(spliced(body, {})) == {**json.loads(body), "foretell": {}}


@pytest.mark.parametrize("body", [b"", b"[1]", b"null", b'x{"a": 1}', b'{"a": 1}x', b"{"])
def test_nothing_is_spliced_into_what_is_no_object(body):
    with pytest.raises(UpstreamError, match="other than a JSON object"):
        spliced(body, {})


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1]", b"3", b"\xff", b"[" * 100_000])
def test_an_answer_that_is_no_object_is_the_upstreams_fault(body):
    with pytest.raises(UpstreamError, match="other than"):
        answer_json(body)


def test_json_is_written_compactly_in_utf_8():
    assert json_bytes({"a": ["é", 1]}) == '{"a":["é",1]}'.encode()
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_bytes(math.nan)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "null"),
        (True, "true"),
        (False, "false"),
        ("secret", "a string"),
        (7, "7"),
        (0.5, "0.5"),
        (10**40, "a long number"),
        ([1], "a list"),
        ({"a": 1}, "an object"),
    ],
)
def test_a_value_is_described_without_its_text(value, words):
    assert described(value) == words


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "invalid_request_error"),
        (429, "rate_limit_error"),
        (502, "server_error"),
    ],
)
def test_the_type_of_an_error_follows_from_its_status(status, kind):
    assert ApiError(status, "x").type == kind
    assert ApiError(status, "x", type="other").type == "other"


def test_an_error_says_what_openai_says():
    error = ApiError(429, "wait", code="slow", param="n", headers={"Retry-After": "3"})
    assert isinstance(error, RoutingError)
    assert str(error) == "wait"
    assert error.headers == {"Retry-After": "3"}
    assert error.body() == {
        "error": {"message": "wait", "type": "rate_limit_error", "code": "slow", "param": "n"}
    }
    assert set(error.body()["error"]) == set(ERROR_SCHEMA["properties"]["error"]["required"])


@given(st.text())
def test_a_quoted_text_is_one_short_line_of_characters(text):
    quote = quoted(text)
    assert len(quote) < 420
    assert quote.isprintable()
    quote.encode()
