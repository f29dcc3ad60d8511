"""Which characters are control tokens, and which only look like them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.prefill._control_texts import ControlTexts

CONTROLS = st.lists(st.text(alphabet="<|ab>.*", max_size=5), max_size=8)
TEXT = st.text(alphabet="<|ab>.* é", max_size=40)


def naive_spans(controls, text):
    spans, at = [], 0
    while at < len(text):
        here = [c for c in controls if c and text.startswith(c, at)]
        if here:
            spans.append((at, at + max(map(len, here))))
            at = spans[-1][1]
        else:
            at += 1
    return spans


@given(CONTROLS, TEXT)
def test_they_are_found_from_left_to_right_and_the_longest_first(controls, text):
    found = ControlTexts(controls)
    assert found.spans(text) == naive_spans(controls, text)
    assert found.any_in(text) == bool(found.spans(text))


@given(CONTROLS, TEXT)
def test_brackets_stand_around_each_and_change_nothing_else(controls, text):
    found = ControlTexts(controls)
    bracketed = found.bracketed(text, opening="(", closing=")")
    assert bracketed.replace("(", "").replace(")", "") == text
    assert re.findall(r"\((.*?)\)", bracketed) == [text[a:b] for a, b in found.spans(text)]


@given(CONTROLS, TEXT, st.lists(st.integers(0, 40), max_size=8))
def test_a_piece_in_which_they_are_recognised_holds_nothing_literal(controls, text, cuts):
    ends = sorted({min(cut, len(text)) for cut in cuts})
    literal = list(zip(ends[::2], ends[1::2], strict=False))
    found = ControlTexts(controls)
    pieces = list(found.stretches(text, literal))
    assert "".join(piece for piece, _ in pieces) == text
    meant = [text[a:b] for a, b in found.meant(text, literal)]
    at = 0
    for piece, recognised in pieces:
        touched = any(a < at + len(piece) and at < b for a, b in literal)
        if recognised:
            assert not touched
            for span in found.spans(piece):
                assert piece[slice(*span)] == meant.pop(0)
        at += len(piece)
    assert meant == []


def test_a_literal_piece_reaches_from_one_control_token_to_the_next():
    text = "<s>one <s> two</s><s>three</s>"
    assert list(ControlTexts(["<s>", "</s>"]).stretches(text, [(7, 10)])) == [
        ("<s>", True),
        ("one <s> two", False),
        ("</s><s>three</s>", True),
    ]


@pytest.mark.parametrize("text", ["<unused" * 100_000, "<unused12><unused1" * 50_000])
def test_a_hostile_text_takes_no_longer_than_its_length(text):
    found = ControlTexts([f"<unused{i}>" for i in range(6000)])
    assert len(found.spans(text)) == text.count("<unused12>")
