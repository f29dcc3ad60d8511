"""Text of the tiny model: bytes in, printable ASCII out, turns marked as in ChatML."""

from __future__ import annotations

import re

_MARKS = ("<|im_start|>", "<|im_end|>")
_START, _END = 256, 257
_SPLIT = re.compile("(" + "|".join(map(re.escape, _MARKS)) + ")")

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


def tokens_of(text: str) -> tuple[int, ...]:
    """UTF-8 bytes; each turn's mark is one token of its own."""
    tokens: list[int] = []
    for part in _SPLIT.split(text):
        if part in _MARKS:
            tokens.append(_START + _MARKS.index(part))
        else:
            tokens.extend(part.encode())
    return tuple(tokens)


def ends_answer(token: int) -> bool:
    """Whether the model is done."""
    return token == _END
