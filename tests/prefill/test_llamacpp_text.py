"""Text leaves whole and in time, whatever the pieces."""

from hypothesis import given
from hypothesis import strategies as st

from foretell.prefill._stopping_text import StoppingText


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({min(c, len(data)) for c in cuts})
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


@given(
    st.text(alphabet="ab🙂é\n", max_size=30),
    st.lists(st.integers(0, 60), max_size=10),
    st.lists(st.text(alphabet="ab🙂", min_size=1, max_size=4), max_size=3),
)
def test_any_cutting_of_the_bytes_gives_the_text_up_to_the_first_stop(text, cuts, stop):
    stream = StoppingText(stop)
    out = ""
    for piece in cut(text.encode(), cuts):
        out += stream.feed(piece)
        assert text.startswith(out)
    out += stream.finish()
    ends = [at for s in stop if (at := text.find(s)) >= 0]
    if not ends:
        assert out == text
        assert not stream.stopped
    else:
        assert stream.stopped
        assert not any(s in out for s in stop)
        assert text.startswith(out)


def test_text_that_cannot_become_a_stop_is_not_held_back():
    stream = StoppingText(["END"])
    assert stream.feed(b"abcE") == "abc"
    assert stream.feed(b"x") == "Ex"


def test_half_a_character_waits_for_the_other_half():
    stream = StoppingText([])
    first, second = "é".encode()[:1], "é".encode()[1:]
    assert stream.feed(first) == ""
    assert stream.feed(second) == "é"
