"""The contract of an engine, as tests to inherit.

A new engine's tests are a subclass of ``EngineContract`` that says what is under test::

    class TestMyEngine(EngineContract):
        @pytest.fixture
        def subject(self):
            return EngineUnderTest(make=MyEngine, conversations=..., full_forward=...)

and ``pytest.register_assert_rewrite("foretell.prefill.testing")`` in ``conftest.py``, before this
module is imported, for messages that show the values.
"""
# ruff: noqa: S101, D102 - asserts are what tests are made of, and a test's name is its sentence

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import Any, get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from foretell.errors import (
    CancelledError,
    ContextOverflowError,
    EngineClosedError,
    InputError,
    UnknownReadPointError,
)
from foretell.prefill._protocol import Gate, GivenUp, PrefillEngine
from foretell.records import (
    Answer,
    FirstToken,
    Message,
    Pooling,
    ReadPoint,
    Sampling,
    last_asked,
)

_ANSWER = 24
_LONG_ANSWER = 96
_NOTICED_S = 0.3  # by then whoever asks every few dozen milliseconds has asked
_PATIENCE_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineUnderTest:
    """One engine and what its contract is tried on.

    ``make`` builds a fresh engine. ``conversations`` are at least three; each begins with the
    same messages and differs in its last question, and the model answers each with at least 96
    tokens when allowed to. The last one ends with a beginning of the answer. ``full_forward``
    gives the residual stream of a conversation's own tokens from a plain forward pass that
    returns every layer: (layers, own tokens, width). ``tolerance`` bounds the largest difference
    of two activations, as a share of the largest value. ``controls`` are texts of control tokens
    that the chat template writes.
    """

    make: Callable[[], PrefillEngine]
    conversations: Sequence[Sequence[Message]]
    full_forward: Callable[[Sequence[Message]], NDArray[Any]]
    tolerance: float = 1e-5
    reuses_prefixes: bool = True
    controls: Sequence[str] = ()


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What one request showed."""

    activations: dict[ReadPoint, NDArray[np.float32]]
    first_token: FirstToken | None
    answer: Answer


class EngineContract:
    """What every engine must do; see ``foretell.prefill.PrefillEngine``."""

    @pytest.fixture
    def engine(self, subject: EngineUnderTest) -> Iterator[PrefillEngine]:
        """A fresh engine; an engine that is slow to load may widen the scope."""
        engine = subject.make()
        yield engine
        engine.close()

    def test_an_engine_fits_the_protocol(self, engine: PrefillEngine) -> None:
        assert isinstance(engine, PrefillEngine)

    def test_activations_equal_a_full_forward_pass(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for messages in subject.conversations:
            seen = _ask(engine, messages)
            every_layer = subject.full_forward(messages)
            assert len(every_layer) == engine.identity.n_layers
            for point, vector in seen.activations.items():
                wanted = {
                    "last": every_layer[point.layer, -1],
                    "mean": every_layer[point.layer].mean(axis=0),
                    "tokens": every_layer[point.layer],
                }[point.pooling]
                assert vector.dtype == np.float32
                _assert_close(vector, wanted, subject.tolerance)

    def test_every_layer_has_the_width_of_the_identity(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        seen = _ask(engine, subject.conversations[0])
        own = engine.render(subject.conversations[0]).own_tokens
        for point, vector in seen.activations.items():
            rows = (own,) if point.pooling == "tokens" else ()
            assert vector.shape == (*rows, engine.identity.width)

    def test_many_requests_at_once_equal_single_ones(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        alone = [_ask(engine, messages) for messages in subject.conversations]
        with ThreadPoolExecutor(8) as pool:
            crowd = list(pool.map(partial(_ask, engine), list(subject.conversations) * 3))
        for i, seen in enumerate(crowd):
            _assert_same(seen, alone[i % len(alone)], subject.tolerance)

    def test_reusing_a_prefix_changes_no_answer_and_no_activation(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        first, second, *_ = subject.conversations
        fresh = subject.make()
        try:
            alone = _ask(fresh, second)
        finally:
            fresh.close()
        _ask(engine, first)
        after = _ask(engine, second)
        _assert_same(after, alone, subject.tolerance)
        assert alone.answer.usage.cached_tokens == 0
        if subject.reuses_prefixes:
            own_start = engine.render(second).own_start
            assert 0 < after.answer.usage.cached_tokens <= own_start

    def test_an_early_exit_changes_no_value_it_read_and_reads_nothing_above(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        points = _every_point(engine)
        for messages in subject.conversations:
            whole = _ask(engine, messages)
            for stop in (points[0], points[len(points) // 2], points[-1]):
                asked: list[ReadPoint] = []
                gate = _stop_at(stop, asked)
                with engine.prefill(
                    engine.render(messages), points, gate, answer_tokens=_ANSWER
                ) as cut:
                    assert cut.stopped_at == stop.layer
                    assert cut.first_token is None
                    assert max(cut.activations) == stop
                    assert asked == [point for point in points if point <= stop]
                    for point, vector in cut.activations.items():
                        _assert_close(vector, whole.activations[point], subject.tolerance)
                    with pytest.raises(InputError, match=f"layer {stop.layer}"):
                        cut.decode(Sampling(max_tokens=1))
            _assert_same(_ask(engine, messages), whole, subject.tolerance)

    def test_one_query_declined_among_many_disturbs_none(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[0]
        points = _every_point(engine)
        alone = _ask(engine, messages)

        def request(number: int) -> _Seen | None:
            if number % 2:
                return _ask(engine, messages)
            with engine.prefill(
                engine.render(messages), points, _stop_at(points[0], []), answer_tokens=_ANSWER
            ) as cut:
                assert cut.stopped_at == points[0].layer
            return None

        with ThreadPoolExecutor(6) as pool:
            kept = [seen for seen in pool.map(request, range(12)) if seen]
        for seen in kept:
            _assert_same(seen, alone, subject.tolerance)

    def test_reading_and_gating_change_no_answer(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for messages in subject.conversations:
            asked: list[ReadPoint] = []

            def gate(point: ReadPoint, _: object, asked: list[ReadPoint] = asked) -> bool:
                asked.append(point)
                return True

            plain = _ask(engine, messages, read_points=())
            read = _ask(engine, messages, gate=gate)
            assert asked == _every_point(engine)
            assert plain.activations == {}
            assert _words(read.answer) == _words(plain.answer)

    def test_the_pieces_make_up_the_text(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for messages in subject.conversations:
            prompt = engine.render(messages)
            with engine.prefill(prompt, answer_tokens=_ANSWER) as prefill:
                generation = prefill.decode(Sampling(max_tokens=_ANSWER))
                first = next(iter(generation))
                pieces = [first, *generation]
                answer = generation.answer()
            assert prompt.answer_start + "".join(pieces) == answer.text
            assert all(pieces)
            assert answer.usage.prompt_tokens == len(prompt.tokens)

    def test_a_trailing_assistant_message_begins_the_answer(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[-1]
        assert messages[-1]["role"] == "assistant"
        assert _ask(engine, messages).answer.text.startswith(messages[-1]["content"])

    def test_what_the_first_token_will_be_is_a_distribution(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        first = _ask(engine, subject.conversations[0]).first_token
        assert first is not None
        assert first.entropy >= 0
        assert 0 <= first.margin <= first.probability <= 1

    def test_a_prefill_is_decoded_once(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        prompt = engine.render(subject.conversations[0])
        with engine.prefill(prompt, answer_tokens=_ANSWER) as prefill:
            prefill.decode(Sampling(max_tokens=2)).answer()
            with pytest.raises(InputError, match="decoded or closed before"):
                prefill.decode(Sampling(max_tokens=2))

    def test_a_closed_prefill_is_not_decoded(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        prefill = engine.prefill(engine.render(subject.conversations[0]), answer_tokens=_ANSWER)
        prefill.close()
        prefill.close()
        with pytest.raises(InputError, match="decoded or closed before"):
            prefill.decode(Sampling(max_tokens=2))

    def test_giving_an_answer_up_disturbs_no_later_one(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[0]
        alone = _ask(engine, messages)
        for _ in range(3):
            with engine.prefill(engine.render(messages), answer_tokens=_LONG_ANSWER) as prefill:
                generation = prefill.decode(Sampling(max_tokens=_LONG_ANSWER))
                next(iter(generation))
                generation.close()
                generation.close()
        _assert_same(_ask(engine, messages), alone, subject.tolerance)

    def test_an_answer_closed_elsewhere_ends_for_who_reads_it(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[0]
        alone = _ask(engine, messages)
        error = _read_and_close(engine, messages, reader_waits=True)
        assert isinstance(error, CancelledError)
        _assert_same(_ask(engine, messages), alone, subject.tolerance)

    def test_an_answer_closed_elsewhere_ends_for_who_waits_for_its_next_piece(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for _ in range(5):
            error = _read_and_close(engine, subject.conversations[0], reader_waits=False)
            # It may have been complete before.
            assert error is None or isinstance(error, CancelledError)

    def test_a_prefill_given_up_before_it_began_reads_nothing(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        asked: list[ReadPoint] = []
        points = _every_point(engine)
        prompt = engine.render(subject.conversations[0])
        with pytest.raises(CancelledError):
            engine.prefill(
                prompt,
                points,
                _stop_at(points[-1], asked),
                answer_tokens=_ANSWER,
                given_up=lambda: True,
            )
        assert asked == []

    def test_a_prefill_given_up_at_a_read_point_reads_no_further(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[0]
        alone = _ask(engine, messages)
        points = _every_point(engine)
        given_up = Event()
        asked: list[ReadPoint] = []

        def gate(point: ReadPoint, _: object) -> bool:
            asked.append(point)
            if not given_up.is_set():
                given_up.set()
                time.sleep(_NOTICED_S)
            return True

        with pytest.raises(CancelledError):
            engine.prefill(
                engine.render(messages),
                points,
                gate,
                answer_tokens=_ANSWER,
                given_up=given_up.is_set,
            )
        _assert_same(_ask(engine, messages), alone, subject.tolerance)
        assert {point.layer for point in asked} == {points[0].layer}

    def test_a_request_given_up_while_it_waits_ends_though_the_engine_is_busy(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        prompt = engine.render(subject.conversations[0])
        reached, let_go, given_up = Event(), Event(), Event()

        def gate(*_: object) -> bool:
            reached.set()
            return let_go.wait(_PATIENCE_S)

        with ThreadPoolExecutor(2) as pool:
            try:
                busy = pool.submit(
                    engine.prefill, prompt, [ReadPoint(0)], gate, answer_tokens=_ANSWER
                )
                assert reached.wait(_PATIENCE_S)
                waiting = pool.submit(
                    engine.prefill, prompt, answer_tokens=_ANSWER, given_up=given_up.is_set
                )
                time.sleep(_NOTICED_S)
                given_up.set()
                error = waiting.exception(_PATIENCE_S / 2)
            finally:
                let_go.set()
            if error is None:  # an engine that can do two things at once kept nobody waiting
                waiting.result().close()
            else:
                assert isinstance(error, CancelledError)
            busy.result(_PATIENCE_S).close()

    def test_requests_given_up_among_many_disturb_none(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[0]
        points = _every_point(engine)
        alone = _ask(engine, messages)

        def request(number: int) -> _Seen | None:
            if number % 2:
                return _ask(engine, messages, given_up=lambda: False)
            given_up = Event()

            def gate(point: ReadPoint, _: object) -> bool:
                if point >= points[number % len(points)]:
                    given_up.set()
                return True

            with (
                suppress(CancelledError),
                engine.prefill(
                    engine.render(messages),
                    points,
                    gate,
                    answer_tokens=_ANSWER,
                    given_up=given_up.is_set,
                ),
            ):
                pass  # it was complete before anybody noticed
            return None

        with ThreadPoolExecutor(6) as pool:
            kept = [seen for seen in pool.map(request, range(12)) if seen]
        assert len(kept) == 6
        for seen in kept:
            _assert_same(seen, alone, subject.tolerance)

    def test_giving_up_ends_with_the_prefill(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        given_up = Event()
        prompt = engine.render(subject.conversations[0])
        with engine.prefill(prompt, answer_tokens=3, given_up=given_up.is_set) as prefill:
            given_up.set()
            assert prefill.decode(Sampling(max_tokens=3)).answer().finish_reason == "length"

    def test_what_given_up_raises_reaches_the_caller(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[0]
        alone = _ask(engine, messages)

        def given_up() -> bool:
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            engine.prefill(engine.render(messages), answer_tokens=_ANSWER, given_up=given_up)
        _assert_same(_ask(engine, messages), alone, subject.tolerance)

    def test_the_texts_of_the_tokens_make_up_the_prompt(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for messages in subject.conversations:
            prompt = engine.render(messages)
            texts = engine.token_texts(prompt)
            assert len(texts) == len(prompt.tokens)
            own = "".join(texts[prompt.own_start :])
            assert last_asked(messages) in own or "\ufffd" in own

    def test_a_control_token_spelt_in_a_message_is_text(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        *earlier, _ = subject.conversations[0]

        def texts_of(content: str) -> tuple[str, ...]:
            asked: list[Message] = [*earlier, {"role": "user", "content": content}]
            return engine.token_texts(engine.render(asked))

        for control in subject.controls:
            plain, spelt = texts_of("Hello"), texts_of(f"Hello {control} there {control}")
            assert plain.count(control) == spelt.count(control) > 0
            assert "".join(spelt).count(control) == plain.count(control) + 2

    def test_what_a_gate_raises_reaches_the_caller(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        messages = subject.conversations[0]
        alone = _ask(engine, messages)

        def gate(point: ReadPoint, vector: object) -> bool:
            raise ZeroDivisionError(point.name, type(vector))

        with pytest.raises(ZeroDivisionError):
            engine.prefill(
                engine.render(messages), [ReadPoint(0, "mean")], gate, answer_tokens=_ANSWER
            )
        _assert_same(_ask(engine, messages), alone, subject.tolerance)

    def test_an_unknown_layer_is_refused_with_those_there_are(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        layers = engine.identity.n_layers
        prompt = engine.render(subject.conversations[0])
        with pytest.raises(UnknownReadPointError, match=f"0 to {layers - 1}"):
            engine.prefill(prompt, [ReadPoint(0), ReadPoint(layers)], answer_tokens=_ANSWER)

    def test_a_prompt_whose_answer_does_not_fit_the_context_is_refused(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        prompt = engine.render(subject.conversations[0])
        room = engine.context_tokens - len(prompt.tokens)
        with pytest.raises(ContextOverflowError, match=str(engine.context_tokens)):
            engine.prefill(prompt, answer_tokens=room + 1)
        with (
            engine.prefill(prompt, answer_tokens=_ANSWER) as prefill,
            pytest.raises(ContextOverflowError, match=f"answer_tokens={_ANSWER + 1}"),
        ):
            prefill.decode(Sampling(max_tokens=_ANSWER + 1))

    def test_a_stop_string_that_spans_pieces_ends_the_text_before_it(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for messages in subject.conversations:
            start = len(engine.render(messages).answer_start)
            plain = _ask(engine, messages, read_points=()).answer.text
            stop = plain[start:][5:9]
            assert len(stop) == 4
            sampling = Sampling(max_tokens=_ANSWER, stop=("never said \0", stop))
            answer = _ask(engine, messages, read_points=(), sampling=sampling).answer
            assert answer.text == plain[: plain.index(stop, start)]
            assert answer.finish_reason == "stop"

    def test_what_only_begins_like_a_stop_string_is_kept(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for messages in subject.conversations:
            plain = _ask(engine, messages, read_points=()).answer
            sampling = Sampling(max_tokens=_ANSWER, stop=(plain.text[-1] + "\0",))
            answer = _ask(engine, messages, read_points=(), sampling=sampling).answer
            assert _words(answer) == _words(plain)

    def test_max_tokens_cuts_the_answer(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        for messages in subject.conversations:
            long = _ask(engine, messages, read_points=()).answer.text
            sampling = Sampling(max_tokens=3)
            answer = _ask(engine, messages, read_points=(), sampling=sampling).answer
            assert answer.finish_reason == "length"
            assert answer.usage.completion_tokens == 3
            assert long.startswith(answer.text)
            assert len(answer.text) < len(long)

    def test_the_same_seed_gives_the_same_answer(
        self, subject: EngineUnderTest, engine: PrefillEngine
    ) -> None:
        sampling = Sampling(max_tokens=_ANSWER, temperature=1.0, top_p=0.95, seed=7)
        for messages in subject.conversations:
            one, other = (
                _ask(engine, messages, read_points=(), sampling=sampling).answer for _ in range(2)
            )
            assert one.text == other.text

    def test_closing_the_engine_ends_what_is_being_decoded(self, subject: EngineUnderTest) -> None:
        engine = subject.make()
        prompt = engine.render(subject.conversations[0])
        prefill = engine.prefill(prompt, answer_tokens=_LONG_ANSWER)
        generation = prefill.decode(Sampling(max_tokens=_LONG_ANSWER))
        next(iter(generation))
        engine.close()
        engine.close()
        with pytest.raises(EngineClosedError):
            generation.answer()
        with pytest.raises(EngineClosedError):
            engine.prefill(prompt, answer_tokens=_ANSWER)
        prefill.close()


def _every_point(engine: PrefillEngine) -> list[ReadPoint]:
    poolings: tuple[Pooling, ...] = get_args(Pooling)
    return sorted(ReadPoint(i, p) for i in range(engine.identity.n_layers) for p in poolings)


def _ask(
    engine: PrefillEngine,
    messages: Sequence[Message],
    *,
    read_points: Sequence[ReadPoint] | None = None,
    gate: Gate | None = None,
    sampling: Sampling | None = None,
    given_up: GivenUp | None = None,
) -> _Seen:
    sampling = sampling or Sampling(max_tokens=_ANSWER)
    points = _every_point(engine) if read_points is None else read_points
    prompt = engine.render(messages)
    with engine.prefill(
        prompt, points, gate, answer_tokens=sampling.max_tokens, given_up=given_up
    ) as prefill:
        assert prefill.stopped_at is None
        assert set(prefill.activations) == set(points)
        assert prefill.seconds >= 0
        return _Seen(
            dict(prefill.activations), prefill.first_token, prefill.decode(sampling).answer()
        )


def _read_and_close(
    engine: PrefillEngine, messages: Sequence[Message], *, reader_waits: bool
) -> BaseException | None:
    """What a thread that reads an answer ends with when another one closes it.

    The reader either waits for the closing after its first piece, or reads on.
    """
    begun, closed = Event(), Event()
    with (
        engine.prefill(engine.render(messages), answer_tokens=_LONG_ANSWER) as prefill,
        ThreadPoolExecutor(1) as pool,
    ):
        generation = prefill.decode(Sampling(max_tokens=_LONG_ANSWER))

        def read() -> None:
            for _ in generation:
                begun.set()
                if reader_waits:
                    closed.wait(_PATIENCE_S)

        reading = pool.submit(read)
        assert begun.wait(_PATIENCE_S)
        generation.close()
        closed.set()
        error = reading.exception(_PATIENCE_S)
        if error is not None:
            with pytest.raises(CancelledError):
                generation.answer()
        return error


def _stop_at(stop: ReadPoint, asked: list[ReadPoint]) -> Gate:
    def gate(point: ReadPoint, _: object) -> bool:
        asked.append(point)
        return point != stop

    return gate


def _words(answer: Answer) -> Answer:
    """The answer without what is measured only to some digits, or depends on what was cached."""
    usage = replace(answer.usage, cached_tokens=0)
    return replace(answer, mean_logprob=None, usage=usage)


def _assert_same(one: _Seen, other: _Seen, tolerance: float) -> None:
    assert one.activations.keys() == other.activations.keys()
    for point, vector in one.activations.items():
        _assert_close(vector, other.activations[point], tolerance)
    assert _words(one.answer) == _words(other.answer)


def _assert_close(got: NDArray[Any], wanted: NDArray[Any], tolerance: float) -> None:
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= tolerance * np.abs(wanted).max()
