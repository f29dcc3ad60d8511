"""The router that asks a model: what it asks, how often, and what it makes of the replies."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.errors import ConfigError, InputError, TrainingDataError, UpstreamError
from foretell.routers import LlmCounts, LlmRouter, make_router
from foretell.routers._llm import parse_difficulty


class Scripted:
    """A model that replies by a function of the query's text and remembers what it was asked."""

    def __init__(self, reply):
        self.reply = reply
        self.asked = []

    def __call__(self, messages):
        self.asked.append(messages)
        return self.reply(messages[-1]["content"])

    @property
    def texts(self):
        return [messages[-1]["content"].removeprefix("The query:\n") for messages in self.asked]


def by_rule(text):
    return "8" if "prove" in text else "3"


def generator():
    return np.random.default_rng(0)


@pytest.mark.parametrize(
    ("reply", "difficulty"),
    [
        ("7", 7),
        (" **7**\n", 7),
        ("7/10", 7),
        ("10", 10),
        ("Difficulty: 7, since it has 3 steps", 7),
        ("7. It needs 2 facts.", 7),
        ("2.5", 2.5),
        ("I would say 4.", 4),
        ("", None),
        ("hard", None),
        ("0", None),
        ("11", None),
        ("somewhere from 3 to 5", None),
    ],
)
def test_a_difficulty_is_read_off_a_reply(reply, difficulty):
    assert parse_difficulty(reply) == difficulty


@given(st.text())
def test_any_reply_gives_a_difficulty_in_range_or_none(reply):
    difficulty = parse_difficulty(reply)
    assert difficulty is None or 1 <= difficulty <= 10


def test_training_asks_within_its_calls_and_not_about_the_examples(make_data):
    data, model = make_data(), Scripted(by_rule)
    LlmRouter(ask=model, training_calls=30, examples=4).fit(data, generator())
    assert len(model.asked) == 30
    instructions = model.asked[0][0]["content"]
    assert f"answers {data.weak.mean():.0%} of queries" in instructions
    assert instructions.count("that was answered well:") == 2
    assert instructions.count("that was not answered well:") == 2
    shown = {data.groups[i] for i, text in enumerate(data.texts) if text in instructions}
    assert not shown & {data.groups[data.texts.index(text)] for text in model.texts}


def test_without_examples_none_are_shown(make_data):
    model = Scripted(by_rule)
    LlmRouter(ask=model, examples=0).fit(make_data(), generator())
    assert "An example" not in model.asked[0][0]["content"]


def test_a_text_is_asked_about_once(make_data):
    data, model = make_data(), Scripted(by_rule)
    fitted = LlmRouter(ask=model).fit(data, generator())
    fitted.score(data)
    fitted.p_success(data)
    assert len(model.texts) == len(set(model.texts)) == len(set(data.texts))


def test_past_the_budget_the_base_rate_stands_in(make_data):
    data, model = make_data(), Scripted(by_rule)
    fitted = LlmRouter(ask=model, budget=5).fit(data, generator())
    before = len(model.asked)
    new = make_data(seed=1)
    new = replace(new, texts=tuple(f"prove {i}" for i in range(1_000, 1_000 + len(new))))
    chances = fitted.p_success(new)
    assert len(model.asked) - before == 5
    assert len(set(chances[:5])) == 1
    assert chances[5:] == pytest.approx(np.full(len(new) - 5, data.weak.mean()))
    assert chances[0] < data.weak.mean()
    assert fitted.counts == LlmCounts(asked=5, over_budget=len(new) - 5)
    assert fitted.p_success(new)[:5] == pytest.approx(chances[:5])


def test_a_reply_without_a_number_gives_the_base_rate_and_is_counted(make_data):
    data = make_data()
    model = Scripted(lambda text: "no idea" if "new" in text else by_rule(text))
    fitted = LlmRouter(ask=model).fit(data, generator())
    two = replace(data.take(np.array([0, 1])), texts=("a new one", "a new one"))
    assert fitted.p_success(two) == pytest.approx([data.weak.mean()] * 2)
    assert fitted.counts == LlmCounts(asked=1, unparsable=1)


def test_a_call_that_fails_is_counted_and_tried_again_later(make_data):
    down = True

    def reply(text):
        if "new" in text and down:
            raise UpstreamError("the model is down")
        return by_rule(text)

    data = make_data()
    fitted = LlmRouter(ask=Scripted(reply)).fit(data, generator())
    one = replace(data.take(np.array([0])), texts=("a new proof: prove it",))
    assert fitted.p_success(one) == pytest.approx([data.weak.mean()])
    assert fitted.counts == LlmCounts(asked=1, failed=1)
    down = False
    assert fitted.p_success(one)[0] < data.weak.mean()
    assert fitted.counts == LlmCounts(asked=2, failed=1)


def test_no_difficulty_at_all_is_refused(make_data):
    with pytest.raises(TrainingDataError, match="told no difficulty for 20 labelled queries"):
        LlmRouter(ask=Scripted(lambda _: "hm"), training_calls=20).fit(make_data(), generator())


def test_what_is_asked_is_text_of_bounded_length(make_data):
    model = Scripted(by_rule)
    fitted = LlmRouter(ask=model).fit(make_data(), generator())
    data = make_data().take(np.array([0, 1]))
    fitted.score(replace(data, texts=("x" * 100_000, "a\ud800b")))
    assert len(model.texts[-2]) == 4_000
    assert model.texts[-1] == "a?b"


def test_only_so_many_replies_are_remembered(make_data, monkeypatch):
    monkeypatch.setattr("foretell.routers._llm._REMEMBERED", 10)
    model = Scripted(by_rule)
    fitted = LlmRouter(ask=model).fit(make_data(), generator())
    before, new = len(model.asked), make_data(seed=1)
    fitted.score(new)
    fitted.score(new.take(np.arange(len(new) - 5, len(new))))
    assert len(model.asked) - before <= len(new)


@pytest.mark.parametrize(
    "wrong", [{"training_calls": 0}, {"budget": -1}, {"examples": -1}], ids=lambda w: next(iter(w))
)
def test_numbers_that_cannot_work_are_refused(wrong):
    with pytest.raises(InputError, match="cannot work"):
        LlmRouter(ask=Scripted(by_rule), **wrong)


def test_the_name_alone_says_that_a_model_is_missing():
    with pytest.raises(ConfigError, match=r"pass make_router\('llm', ask=\.\.\.\)"):
        make_router("llm")
