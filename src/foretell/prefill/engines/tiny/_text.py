"""Text of the tiny model: bytes in, printable ASCII out, turns marked as in ChatML."""

from __future__ import annotations

from collections.abc import Sequence

from foretell.prefill._control_texts import ControlTexts, Span

MARKS = ("<|im_start|>", "<|im_end|>")
_START, _END = 256, 257
_CONTROLS = ControlTexts(MARKS)

N_INPUTS = 258
OUTPUTS = (*range(32, 127), _END)
"""Tokens that the model can generate, in the order of its logits: the last one ends an answer."""

TEMPLATE = """\
{%- if tools %}{{ '<|im_start|>tools\n' + tools | tojson + '<|im_end|>\n' }}{% endif %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
{%- if message.tool_calls %}{{ message.tool_calls | tojson }}{% endif %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""


def tokens_of(text: str, *, literal: Sequence[Span] = ()) -> tuple[int, ...]:
    """UTF-8 bytes; a turn's mark is one token of its own, unless it is in a ``literal`` range."""
    tokens: list[int] = []
    done = 0
    for start, end in _CONTROLS.meant(text, literal):
        tokens.extend(text[done:start].encode())
        tokens.append(_START + MARKS.index(text[start:end]))
        done = end
    return (*tokens, *text[done:].encode())


def text_of(token: int) -> str:
    """A byte's character, U+FFFD for a part of one, and a turn's mark as it is written."""
    if token >= _START:
        return MARKS[token - _START]
    return bytes([token]).decode(errors="replace")


def ends_answer(token: int) -> bool:
    """Whether the model is done."""
    return token == _END
