from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from foretell.flywheel import Label, Labeller
from foretell.records import Answer, FinishReason, Query, Usage


@pytest.fixture
def judge() -> Callable[..., Label]:
    """Labels an answer's text against a reference."""

    def label(labeller: Labeller, text: str, reference: Any = None, *, cut: bool = False) -> Label:
        finish: FinishReason = "length" if cut else "stop"
        return labeller.label(
            Query(id="1", messages=({"role": "user", "content": "?"},), reference=reference),
            Answer(
                text=text,
                model="m",
                finish_reason=finish,
                usage=Usage(prompt_tokens=1, completion_tokens=1),
            ),
        )

    return label
