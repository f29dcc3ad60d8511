"""What the engine's tests share: small queries, and ways to look at an engine from outside."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from foretell.prefill import Prompt
from foretell.prefill.engines.llamacpp import LlamaCppEngine
from foretell.records import Answer, Message, ReadPoint, Sampling

MIDDLE = ReadPoint(14)
_EXAMPLES = (("Vienna", "Austria"), ("Lyon", "France"), ("Osaka", "Japan"))


def country(city: str) -> list[Message]:
    """A short question after three examples: most of the prompt is shared."""
    messages: list[Message] = [{"role": "system", "content": "Answer with JSON."}]
    for known, where in _EXAMPLES:
        messages.append({"role": "user", "content": f"In which country is {known}?"})
        messages.append({"role": "assistant", "content": f'{{"country": "{where}"}}'})
    return [*messages, {"role": "user", "content": f"In which country is {city}?"}]


def user(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def ask(
    engine: LlamaCppEngine, messages: Sequence[Message], points: Sequence[ReadPoint] = ()
) -> tuple[dict[ReadPoint, NDArray[np.float32]], Answer]:
    """Activations and the greedy answer of at most 12 tokens."""
    with engine.prefill(engine.render(messages), points, answer_tokens=12) as prefill:
        return dict(prefill.activations), prefill.decode(Sampling(max_tokens=12)).answer()


def cosines(left: NDArray[np.float32], right: NDArray[np.float32]) -> NDArray[np.float32]:
    """Of each pair of rows."""
    left, right = np.atleast_2d(left), np.atleast_2d(right)
    norms = np.linalg.norm(left, axis=-1) * np.linalg.norm(right, axis=-1)
    return (left * right).sum(axis=-1) / norms


@contextmanager
def held_up(engine: LlamaCppEngine) -> Iterator[None]:
    """The engine's thread stands still inside a gate; what is submitted meanwhile comes at once."""
    reached, let_go = threading.Event(), threading.Event()

    def gate(*_: object) -> bool:
        reached.set()
        return let_go.wait(60)

    holder = engine.submit(engine.render(user("Wait.")), [ReadPoint(0)], gate, answer_tokens=1)
    assert reached.wait(60)
    try:
        yield
    finally:
        let_go.set()
        holder.result(60).close()


def settle(engine: LlamaCppEngine) -> None:
    """Wait until the engine's thread has taken the orders given so far."""
    done = threading.Event()
    engine._inbox.put(done.set)
    assert done.wait(60)


def assert_only_prefixes_are_left(engine: LlamaCppEngine) -> None:
    """No request is anywhere, and every cell in use belongs to a kept prefix that nobody uses."""
    settle(engine)
    assert not engine._queue
    assert engine._served == 0
    assert engine._queue_length == 0
    cells = engine._cells
    assert cells.used == sum(len(kept.tokens) for kept in cells._kept)
    assert all(kept.users == 0 for kept in cells._kept)
    sequences = cells._free + [kept.sequence for kept in cells._kept]
    assert sorted(sequences) == list(range(len(sequences)))


def padded(prompt: Prompt, length: int) -> Prompt:
    """A prompt whose own part is repeated up to ``length`` tokens."""
    own = prompt.tokens[prompt.own_start :]
    tokens = prompt.tokens + own * (length // len(own))
    return Prompt(tokens=tokens[: prompt.own_start + length], own_start=prompt.own_start)
