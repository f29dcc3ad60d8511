import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.upstreams._sse import EventParser

line_ends = st.sampled_from([b"\n", b"\r\n", b"\r"])
fields = st.sampled_from([b"data", b"data:", b"data: ", b"event: x", b"id: 1", b": comment", b""])
values = st.text(
    st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=8
).map(str.encode)
streams = st.lists(st.tuples(fields, values, line_ends), max_size=20).map(
    lambda lines: b"".join(
        name + (value if name[-1:] in b": " else b"") + end for name, value, end in lines
    )
)


def read(*chunks: bytes) -> list[str]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


def naive(stream: bytes) -> list[str]:
    """All at once, straight from the standard's words."""
    text = stream.decode(errors="replace").removeprefix("\ufeff")
    *lines, _ = re.split(r"\r\n|\n|\r", text)
    events: list[str] = []
    data = ""
    for line in lines:
        if line == "":
            if data:
                events.append(data.removesuffix("\n"))
            data = ""
        elif line.startswith(":"):
            continue
        else:
            name, _, value = line.partition(":")
            if name == "data":
                data += value.removeprefix(" ") + "\n"
    return events


@given(streams)
def test_a_whole_stream_is_read_as_the_standard_says(stream):
    assert read(stream) == naive(stream)


@given(streams, st.data())
def test_where_the_stream_is_cut_makes_no_difference(stream, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert read(*chunks) == read(stream)


@given(st.lists(values, min_size=1), line_ends)
def test_one_byte_at_a_time_gives_back_what_was_written(written, end):
    stream = b"".join(b"data: " + value + end + end for value in written)
    assert read(*(bytes([byte]) for byte in stream)) == [value.decode() for value in written]


def test_the_data_lines_of_an_event_are_joined():
    assert read(b"data: a\ndata:b\ndata:  c\n\n") == ["a\nb\n c"]


def test_an_event_that_no_blank_line_ended_is_not_given_out():
    assert read(b"data: a\n\ndata: b\n") == ["a"]


def test_comments_keep_a_connection_alive_and_mean_nothing():
    assert read(b": ping\n\n: ping\n\ndata: a\n\n") == ["a"]


def test_a_byte_order_mark_at_the_start_is_passed_over():
    assert read(b"\xef\xbb", b"\xbfdata: a\n\n") == ["a"]


@pytest.mark.parametrize("flood", [b"data: " + b"x" * 99, b"data: 1234567\n" * 20])
def test_an_event_without_end_is_refused(flood):
    with pytest.raises(ValueError, match="larger than 64 bytes"):
        EventParser(max_event_bytes=64).feed(flood)


def test_many_events_are_not_one_large_event():
    assert EventParser(max_event_bytes=64).feed(b"data: 1234567\n\n" * 50) == ["1234567"] * 50
