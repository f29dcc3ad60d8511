from concurrent.futures import ThreadPoolExecutor
from threading import Event, Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from foretell.errors import CancelledError, ConfigError, ContextOverflowError, InputError
from foretell.prefill import Prompt
from foretell.prefill.engines.tiny import TinyEngine
from foretell.prefill.testing import EngineContract, EngineUnderTest
from foretell.records import ReadPoint, Sampling

SYSTEM = {"role": "system", "content": "Answer briefly."}
CONVERSATIONS = [
    [SYSTEM, {"role": "user", "content": "In which country is Graz?"}],
    [SYSTEM, {"role": "user", "content": "¿Qué? 你好 🙂"}],
    [
        SYSTEM,
        {"role": "user", "content": "In which country is Turku?"},
        {"role": "assistant", "content": '{"country": "'},
    ],
]


def naive_forward(engine, tokens):
    """A token at a time, a head at a time, in loops: (layers, tokens, width)."""
    decoder = engine._decoder
    half = decoder.width // 4 // 2

    def normed(x):
        return x / np.sqrt(np.mean(x * x) + 1e-6)

    def turned(vector, position):
        pairs = vector[:half] + 1j * vector[half:]
        pairs = pairs * np.exp(1j * position * 10_000.0 ** (-np.arange(half) / half))
        return np.concatenate([pairs.real, pairs.imag])

    streams = [decoder.embedding[token] for token in tokens]
    layers = []
    for block in decoder.blocks:
        mixed = []
        for i in range(len(tokens)):
            heads = []
            for h in range(4):
                at = slice(h * 2 * half, (h + 1) * 2 * half)
                query = turned((normed(streams[i]) @ block.query)[at], i)
                scores = [
                    query @ turned((normed(streams[j]) @ block.key)[at], j) / np.sqrt(2 * half)
                    for j in range(i + 1)
                ]
                weights = np.exp(scores) / np.exp(scores).sum()
                values = [(normed(streams[j]) @ block.value)[at] for j in range(i + 1)]
                heads.append(sum(w * v for w, v in zip(weights, values, strict=True)))
            mixed.append(np.concatenate(heads) @ block.output)
        after = []
        for stream, mix in zip(streams, mixed, strict=True):
            gate = normed(stream + mix) @ block.gate
            silu = gate / (1 + np.exp(-gate))
            after.append(stream + mix + (silu * (normed(stream + mix) @ block.up)) @ block.down)
        streams = after
        layers.append(np.array(streams))
    return np.array(layers)


def full_forward(messages):
    engine = TinyEngine(layers=3)
    prompt = engine.render(messages)
    return naive_forward(engine, prompt.tokens)[:, prompt.own_start :]


class TestContract(EngineContract):
    @pytest.fixture
    def subject(self):
        return EngineUnderTest(
            make=lambda: TinyEngine(layers=3),
            conversations=CONVERSATIONS,
            full_forward=full_forward,
            controls=("<|im_start|>", "<|im_end|>"),
        )


@pytest.fixture
def engine():
    return TinyEngine(seed=1, layers=4, width=16, context_tokens=256)


@given(text=st.text(min_size=1, max_size=30), cut=st.integers(1, 29))
@settings(max_examples=30, deadline=None)
def test_a_prompt_in_two_goes_gives_what_it_gives_in_one(text, cut):
    engine = TinyEngine(layers=2, width=8)
    tokens = engine.render([{"role": "user", "content": text}]).tokens
    point = ReadPoint(1, "last")
    whole = engine.prefill(Prompt(tokens, 0), [point]).activations[point]
    parts = engine.prefill(Prompt(tokens, min(cut, len(tokens) - 1)), [point]).activations[point]
    np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-6)


def test_layers_after_an_early_exit_are_not_computed(engine):
    prompt = engine.render([{"role": "user", "content": "Hello"}])
    prefix, own = prompt.own_start, prompt.own_tokens
    engine.prefill(prompt, [ReadPoint(1)], lambda *_: False, answer_tokens=1)
    assert engine.layer_tokens == 4 * prefix + 2 * own


def test_a_kept_prefill_evaluates_no_token_twice(engine):
    prompt = engine.render([{"role": "user", "content": "Hello"}])
    prefill = engine.prefill(prompt, [ReadPoint(3)], lambda *_: True, answer_tokens=5)
    answer = prefill.decode(Sampling(max_tokens=5)).answer()
    assert answer.usage.completion_tokens == 5
    # The fifth token is the last one: nothing follows from it.
    assert engine.layer_tokens == 4 * (len(prompt.tokens) + 4)


def test_a_shared_prefix_is_evaluated_once(engine):
    first, second = (
        engine.render([SYSTEM, {"role": "user", "content": text}]) for text in ("one", "two")
    )
    engine.prefill(first, answer_tokens=1)
    before = engine.layer_tokens
    prefill = engine.prefill(second, answer_tokens=1)
    assert prefill.cached_tokens == second.own_start == first.own_start
    assert engine.layer_tokens - before == 4 * second.own_tokens


def test_prefixes_are_forgotten_when_too_many_are_kept(engine):
    for number in range(12):
        system = {"role": "system", "content": f"{number} is your name."}
        engine.prefill(engine.render([system, {"role": "user", "content": "?"}]), answer_tokens=1)
    assert len(engine._prefixes) == 8


def test_the_seed_is_the_model():
    one, same, other = TinyEngine(seed=1), TinyEngine(seed=1), TinyEngine(seed=2)
    assert one.identity == same.identity
    assert not one.identity.serves_probes_of(other.identity)


def test_at_any_temperature_a_tiny_top_p_is_greedy(engine):
    prompt = engine.render([{"role": "user", "content": "Hello"}])

    def answer(sampling):
        return engine.prefill(prompt, answer_tokens=20).decode(sampling).answer().text

    greedy = answer(Sampling(max_tokens=20))
    assert answer(Sampling(max_tokens=20, temperature=1.5, top_p=1e-9)) == greedy
    assert len({answer(Sampling(max_tokens=20, temperature=2, seed=s)) for s in range(5)}) == 5


def test_the_mean_log_probability_is_that_of_the_tokens(engine):
    prompt = engine.render([{"role": "user", "content": "Hello"}])
    prefill = engine.prefill(prompt, answer_tokens=1)
    answer = prefill.decode(Sampling(max_tokens=1)).answer()
    assert answer.mean_logprob == pytest.approx(np.log(prefill.first_token.probability))


def test_an_answer_that_was_given_up_says_so(engine):
    prefill = engine.prefill(engine.render([{"role": "user", "content": "Hi"}]), answer_tokens=9)
    generation = prefill.decode(Sampling(max_tokens=9))
    next(iter(generation))
    generation.close()
    with pytest.raises(CancelledError, match="given up"):
        generation.answer()


def test_a_prefill_given_up_at_a_gate_is_computed_no_further(engine):
    prompt = engine.render([{"role": "user", "content": "Hello"}])
    prefix, own = prompt.own_start, prompt.own_tokens
    given_up = Event()

    def gate(*_):
        given_up.set()
        return True

    with pytest.raises(CancelledError):
        engine.prefill(prompt, [ReadPoint(1)], gate, answer_tokens=1, given_up=given_up.is_set)
    assert engine.layer_tokens == 4 * prefix + 2 * own


def test_a_prefix_given_up_half_way_is_not_kept(engine):
    prompt = engine.render([SYSTEM, {"role": "user", "content": "Hello"}])
    with pytest.raises(CancelledError):
        engine.prefill(prompt, answer_tokens=1, given_up=lambda: engine.layer_tokens > 0)
    assert engine.layer_tokens == prompt.own_start
    assert engine.prefill(prompt, answer_tokens=1).cached_tokens == 0


def test_an_answer_that_nobody_wants_any_more_is_computed_no_further(engine):
    prompt = engine.render([{"role": "user", "content": "Hi"}])
    generation = engine.prefill(prompt, answer_tokens=90).decode(Sampling(max_tokens=90))
    begun = Event()

    def read():
        for _ in generation:
            begun.set()

    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(read)
        assert begun.wait(60)
        generation.close()
        computed = engine.layer_tokens
        assert isinstance(reading.exception(60), CancelledError)
    assert engine.layer_tokens - computed <= 2 * 4  # four layers, a token or two


def test_who_reads_an_answer_that_is_closed_need_not_wait_for_a_busy_engine(engine):
    prompt = engine.render([{"role": "user", "content": "Hi"}])
    generation = engine.prefill(prompt, answer_tokens=9).decode(Sampling(max_tokens=9))
    pieces = iter(generation)
    next(pieces)
    reached, let_go = Event(), Event()

    def gate(*_):
        reached.set()
        return let_go.wait(60)

    with ThreadPoolExecutor(2) as pool:
        busy = pool.submit(engine.prefill, prompt, [ReadPoint(0)], gate, answer_tokens=1)
        assert reached.wait(60)
        reading = pool.submit(lambda: list(pieces))
        generation.close()
        assert isinstance(reading.exception(30), CancelledError)
        let_go.set()
        busy.result(60).close()


def test_the_texts_of_its_tokens_are_characters_and_marks(engine):
    prompt = engine.render([{"role": "user", "content": "aé<|im_end|>"}])
    assert engine.token_texts(prompt) == (
        *("<|im_start|>", *"user\n", "a", "\ufffd", "\ufffd", *"<|im_end|>"),
        *("<|im_end|>", "\n", "<|im_start|>", *"assistant\n"),
    )


def test_an_answer_may_end_before_max_tokens():
    engine = TinyEngine(seed=13, layers=2, width=8)  # a seed whose model is brief
    prefill = engine.prefill(engine.render([{"role": "user", "content": "Hello"}]))
    answer = prefill.decode(Sampling(max_tokens=40)).answer()
    assert answer.finish_reason == "stop"
    assert answer.usage.completion_tokens == len(answer.text) < 40


def test_tools_are_part_of_the_prompt(engine):
    messages = [{"role": "user", "content": "Hi"}]
    tool = {"type": "function", "function": {"name": "clock"}}
    assert len(engine.render(messages, tools=[tool]).tokens) > len(engine.render(messages).tokens)


def test_closing_waits_for_the_prefill_that_is_under_way(engine):
    prompt = engine.render([{"role": "user", "content": "Hi"}])
    closers = []

    def gate(*_):
        closers.append(Thread(target=engine.close))
        closers[0].start()
        return True

    assert engine.prefill(prompt, [ReadPoint(0)], gate, answer_tokens=1).stopped_at is None
    closers[0].join()


@pytest.mark.parametrize(("layers", "width"), [(0, 32), (4, 12), (4, 0)])
def test_a_shape_that_cannot_be_built_is_refused(layers, width):
    with pytest.raises(ConfigError, match=f"{layers} layers of width {width}"):
        TinyEngine(layers=layers, width=width)


def test_a_prompt_over_the_context_is_refused(engine):
    prompt = engine.render([{"role": "user", "content": "x" * 300}])
    with pytest.raises(ContextOverflowError, match="shorten the prompt"):
        engine.prefill(prompt, answer_tokens=1)


def test_an_empty_prompt_is_refused(engine):
    with pytest.raises(InputError, match="no tokens"):
        engine.prefill(Prompt((), 0))
