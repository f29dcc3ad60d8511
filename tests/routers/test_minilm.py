"""The sentence encoder, on tiny made-up weights and against the real model's own vectors."""

import numpy as np
import pytest

from foretell.errors import TrainingDataError
from foretell.routers import SentenceEncoder, ensure_sentence_encoder

WIDTH = 64


@pytest.fixture
def encoder(make_encoder):
    return make_encoder()


def test_vectors_have_unit_length_whatever_the_text(encoder):
    vectors = encoder.encode(["", "ab", "a " * 1000, "你好 🙂", "\ud800"])
    assert vectors.shape == (5, WIDTH)
    assert vectors.dtype == np.float32
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(np.ones(5), rel=1e-5)


def test_no_texts_give_no_vectors(encoder):
    assert encoder.encode([]).shape == (0, WIDTH)


def test_a_vector_does_not_depend_on_its_batch_or_on_what_came_before(encoder):
    texts = [letter * (1 + place % 3) for place, letter in enumerate("abcdefghij" * 4)]
    together = encoder.encode(texts)
    fresh = SentenceEncoder(encoder._weights, encoder._tokenizer)
    for text, vector in zip(texts, together, strict=True):
        assert fresh.encode([text])[0] == pytest.approx(vector, abs=1e-5)
        assert np.array_equal(encoder.encode([text])[0], vector)


def test_the_order_of_words_matters_and_case_does_not(encoder):
    ab, ba, capital = encoder.encode(["a b", "b a", "A B"])
    assert np.abs(ab - ba).max() > 0.01
    assert np.array_equal(ab, capital)


def test_the_limit_of_tokens_is_each_encoders_own(encoder):
    short = encoder.with_weights(encoder.weights, most_tokens=5)
    [long_ids], [short_ids] = encoder.tokens(["a " * 20]), short.tokens(["a " * 20])
    assert (len(long_ids), len(short_ids)) == (22, 5)
    assert np.array_equal(short.encode(["a " * 20]), encoder.encode(["a a a"]))


def test_only_so_many_vectors_are_remembered(encoder, monkeypatch):
    monkeypatch.setattr("foretell.routers._minilm._REMEMBERED", 3)
    assert len(encoder.encode(list("abcdefgh"))) == 8
    assert len(encoder._remembered) == 3


def test_a_library_that_is_absent_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr("foretell.routers._minilm.find_spec", lambda _: None)
    with pytest.raises(TrainingDataError, match=r"pip install 'foretell\[train,embedding\]'"):
        ensure_sentence_encoder()


# First numbers of the vectors that sentence-transformers 5 on torch 2.13 gives in float32.
REFERENCE = {
    "Add another song to the Cita Romántica playlist.": [
        -0.068291, -0.058402, 0.000212, -0.002010, -0.091777, 0.082172,
    ],
    "In which country is Tshilenge?": [
        0.016763, 0.021665, 0.046915, 0.049025, -0.038197, 0.007954,
    ],
    "x" * 5000: [-0.041596, -0.024682, 0.077893, -0.006149, 0.017001, 0.001262],
    "¿qué? 你好 🙂": [0.044046, 0.011832, 0.092309, 0.064337, 0.015997, 0.013031],
    "def f(x):\n  return x": [-0.001593, 0.063167, 0.002939, 0.035823, -0.042196, -0.034226],
}  # fmt: skip


@pytest.mark.real_model
def test_the_real_model_gives_the_vectors_of_sentence_transformers():
    vectors = ensure_sentence_encoder().encode(list(REFERENCE))
    assert vectors.shape == (5, 384)
    assert vectors[:, :6] == pytest.approx(np.array(list(REFERENCE.values())), abs=2e-6)
