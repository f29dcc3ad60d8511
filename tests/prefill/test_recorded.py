import gzip
import json

import numpy as np
import pytest

from foretell.errors import (
    CancelledError,
    ContextOverflowError,
    InputError,
    UnknownReadPointError,
)
from foretell.prefill import Prompt
from foretell.prefill.engines.recorded import (
    RecordedAnswers,
    RecordedEngine,
    record,
    write_recording,
)
from foretell.prefill.engines.tiny import TinyEngine
from foretell.prefill.testing import EngineContract, EngineUnderTest
from foretell.records import Answer, Observation, Query, ReadPoint, Sampling, Usage

SYSTEM = {"role": "system", "content": "Answer briefly."}
CONVERSATIONS = [
    [SYSTEM, {"role": "user", "content": "In which country is Graz?"}],
    [SYSTEM, {"role": "user", "content": "¿Qué? 你好 🙂\u2028"}],
    [
        SYSTEM,
        {"role": "user", "content": "In which country is Turku?"},
        {"role": "assistant", "content": '{"country": "'},
    ],
]
EVERY_POINT = [ReadPoint(i, pooling) for i in range(3) for pooling in ("last", "mean", "tokens")]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("recordings") / "tiny.jsonl.gz"
    record(
        TinyEngine(layers=3),
        CONVERSATIONS,
        path,
        read_points=EVERY_POINT,
        sampling=Sampling(max_tokens=96),
    )
    return path


def full_forward(messages):
    engine = TinyEngine(layers=3)
    prefill = engine.prefill(engine.render(messages), EVERY_POINT)
    return np.array([prefill.activations[ReadPoint(i, "tokens")] for i in range(3)])


class TestContract(EngineContract):
    @pytest.fixture
    def subject(self, path):
        return EngineUnderTest(
            make=lambda: RecordedEngine(path),
            conversations=CONVERSATIONS,
            full_forward=full_forward,
            tolerance=1e-6,
            reuses_prefixes=False,
        )


def observed(text, *, answer="Austria", model=None, name="big-1", **known):
    return Observation(
        domain="geo",
        query=Query(id=text, messages=({"role": "user", "content": text},)),
        role="strong",
        model=model,
        answer=Answer(
            text=answer,
            model=name,
            finish_reason="stop",
            usage=Usage(prompt_tokens=12, completion_tokens=3),
            mean_logprob=-0.25,
        ),
        **known,
    )


def test_a_replay_is_what_the_engine_did(path):
    replay, live = RecordedEngine(path), TinyEngine(layers=3)
    assert replay.identity.serves_probes_of(live.identity)
    assert replay.identity.engine == "recorded"
    assert replay.context_tokens == live.context_tokens
    for messages in CONVERSATIONS:
        one, other = (e.prefill(e.render(messages), EVERY_POINT) for e in (replay, live))
        assert one.prompt.own_tokens == other.prompt.own_tokens
        assert len(one.prompt.tokens) == len(other.prompt.tokens)
        assert one.first_token == other.first_token
        one_answer, other_answer = (
            p.decode(Sampling(max_tokens=96)).answer() for p in (one, other)
        )
        assert one_answer.text == other_answer.text
        assert one_answer.mean_logprob == other_answer.mean_logprob
        for point in EVERY_POINT:
            np.testing.assert_array_equal(one.activations[point], other.activations[point])


def test_the_same_answers_give_the_same_bytes(tmp_path):
    for name in ("one.jsonl.gz", "other.jsonl.gz"):
        write_recording(tmp_path / name, [observed("Graz?"), observed("Wels?")])
    assert (tmp_path / "one.jsonl.gz").read_bytes() == (tmp_path / "other.jsonl.gz").read_bytes()


def test_answers_of_an_api_model_can_be_asked_for_again(tmp_path):
    path = tmp_path / "strong.jsonl.gz"
    write_recording(path, [observed("Graz?"), observed("Turku?", answer="Finland")])
    answers = RecordedAnswers(path)
    turku = [{"role": "user", "content": [{"type": "text", "text": "Turku?"}]}]
    assert answers.name == "big-1"
    assert len(answers) == 2
    assert turku in answers
    assert answers.answer(turku) == observed("Turku?", answer="Finland").answer
    with pytest.raises(InputError, match=r"big-1.*API.*no activations"):
        RecordedEngine(path)


def test_three_thousand_short_answers_are_a_few_hundred_kilobytes(tmp_path):
    path = tmp_path / "many.jsonl.gz"
    write_recording(
        path, [observed(f"{i}?", answer=f"Country {i * 7919 % 199}") for i in range(3000)]
    )
    assert path.stat().st_size < 300_000
    assert not path.with_name("many.parquet").exists()
    assert len(RecordedAnswers(path)) == 3000


def test_observations_of_a_weak_model_replay_with_their_activations(tmp_path):
    path = tmp_path / "weak.jsonl.gz"
    point = ReadPoint(1, "mean")
    live = TinyEngine(layers=3)
    vector = np.arange(32, dtype=np.float32)
    seen = [observed("Graz?", model=live.identity, activations={point: vector}, own_tokens=5)]
    write_recording(path, seen, model="weak-1", context_tokens=100)
    replay = RecordedEngine(path)
    prompt = replay.render(seen[0].query.messages)
    assert (len(prompt.tokens), prompt.own_tokens) == (12, 5)
    prefill = replay.prefill(prompt, [point], answer_tokens=50)
    np.testing.assert_array_equal(prefill.activations[point], vector)
    assert prefill.first_token is None
    answer = prefill.decode(Sampling(max_tokens=50)).answer()
    assert (answer.text, answer.model, answer.mean_logprob) == ("Austria", "weak-1", -0.25)
    with pytest.raises(ContextOverflowError, match="100"):
        replay.prefill(prompt, answer_tokens=90)
    with pytest.raises(UnknownReadPointError, match="recorded were layer1_mean"):
        replay.prefill(prompt, [ReadPoint(2, "mean")])


def test_an_answer_kept_as_one_text_is_not_cut_at_tokens_nobody_counted(tmp_path):
    path = tmp_path / "weak.jsonl.gz"
    write_recording(path, [observed("Graz?", model=TinyEngine().identity)])
    replay = RecordedEngine(path)
    assert replay.context_tokens == 15
    prefill = replay.prefill(replay.render([{"role": "user", "content": "Graz?"}]))
    with pytest.raises(InputError, match=r"has 3 tokens .* max_tokens of 3 or more"):
        prefill.decode(Sampling(max_tokens=2))
    answer = prefill.decode(Sampling(max_tokens=3, stop=("ri",))).answer()
    assert (answer.text, answer.finish_reason, answer.mean_logprob) == ("Aust", "stop", None)


def test_an_answer_that_was_given_up_says_so(path):
    replay = RecordedEngine(path)
    generation = replay.prefill(replay.render(CONVERSATIONS[0])).decode(Sampling(max_tokens=9))
    next(iter(generation))
    generation.close()
    with pytest.raises(CancelledError, match="given up"):
        generation.answer()


def test_the_texts_of_a_recorded_prompt_are_not_known(path):
    replay = RecordedEngine(path)
    prompt = replay.render(CONVERSATIONS[0])
    assert replay.token_texts(prompt) == ("\ufffd",) * len(prompt.tokens)


def test_what_was_not_recorded_is_refused(path):
    asked = [{"role": "user", "content": "In which country is Oulu?"}]
    for ask in (RecordedEngine(path).render, RecordedAnswers(path).answer):
        with pytest.raises(InputError, match=r"no prompt that asks .*Oulu.* among its 3"):
            ask(asked)
        with pytest.raises(InputError, match="no prompt that asks"):
            ask(CONVERSATIONS[0], tools=[{"type": "function"}])
    with pytest.raises(InputError, match="render it with this engine"):
        RecordedEngine(path).prefill(Prompt((3,), 0))


def test_observations_that_make_no_recording_are_refused(tmp_path):
    path = tmp_path / "none.jsonl.gz"
    point = ReadPoint(0)
    for seen, why in (
        ([], "no observations"),
        ([observed("a"), observed("b", name="big-2")], "big-1, big-2"),
        ([observed("a"), observed("a")], "same messages"),
        ([observed("a", activations={point: np.ones(4)}), observed("b")], "without a gate"),
    ):
        with pytest.raises(InputError, match=why):
            write_recording(path, seen)
    with pytest.raises(InputError, match=r"NAME\.jsonl\.gz"):
        write_recording(tmp_path / "answers.json", [observed("a")])
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_recording_is_refused(path, tmp_path):
    damaged = tmp_path / "damaged.jsonl.gz"
    whole = path.read_bytes()
    newer = gzip.compress(json.dumps({"format": "foretell-recording", "version": 2}).encode())
    for data in (
        b"",
        whole[:-20],
        b"not gzip",
        gzip.compress(b"{}"),
        gzip.compress(b"\xff"),
        whole,
    ):
        damaged.write_bytes(data)  # the last one is whole, but lacks its vectors
        with pytest.raises(InputError, match="not a whole recording"):
            RecordedEngine(damaged)
    damaged.write_bytes(newer)
    with pytest.raises(InputError, match="version 2; this release reads"):
        RecordedAnswers(damaged)
    with pytest.raises(InputError, match="there is no recording"):
        RecordedAnswers(tmp_path / "absent.jsonl.gz")
