"""The fine-tuned text classifier: torch teaches what NumPy applies."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from foretell.calibration import auroc
from foretell.routers import TextClassifierRouter, ensure_sentence_encoder

TEXTS = ["", "ab", "a b c d e", "你好 🙂", "j i h " * 40, "abc " * 9]


def generator():
    return np.random.default_rng(0)


def tiny(make_encoder, **changes):
    return TextClassifierRouter(encoder=make_encoder, **{"epochs": 2, "batch": 16, **changes})


def in_torch(encoder, texts):
    import torch

    from foretell.routers._torch_encoder import TorchEncoder

    with torch.no_grad():
        return TorchEncoder(encoder.weights, dropout=0.5)(encoder.tokens(texts)).numpy()


@pytest.mark.torch
def test_torch_gives_the_vectors_of_numpy(make_encoder):
    encoder = make_encoder()
    assert in_torch(encoder, TEXTS) == pytest.approx(encoder.encode(TEXTS), abs=1e-5)


@pytest.mark.torch
@pytest.mark.real_model
def test_torch_gives_the_vectors_of_numpy_with_the_real_model():
    encoder = ensure_sentence_encoder()
    cosine = (in_torch(encoder, TEXTS) * encoder.encode(TEXTS)).sum(axis=1)
    assert cosine.min() > 0.9999


def letters(make_data, n, seed):
    """Whether "a" comes before "b": no bag of letters could tell."""
    draw = np.random.default_rng(seed)
    first = draw.random(n) < 0.5
    texts = [
        ("a c b" if a else "b c a") + " " + " ".join(draw.choice(list("defg"), 3)) for a in first
    ]
    return replace(make_data(n, seed=seed), texts=tuple(texts), weak=first.astype(float))


@pytest.mark.torch
def test_teaching_moves_the_encoder_and_ranks_new_queries(make_data, make_encoder):
    train, new = letters(make_data, 192, 1), letters(make_data, 100, 2)
    router = tiny(make_encoder, epochs=4, body_rate=1e-3, dropout=0.0)
    taught = router.fit(train, generator())
    still = tiny(make_encoder, epochs=0).fit(train, generator())
    assert not np.allclose(taught.features(new), still.features(new))
    assert auroc(taught.score(new), new.weak) > 0.9


@pytest.mark.torch
def test_when_no_epoch_helps_the_frozen_encoder_is_kept(make_data, make_encoder):
    train = letters(make_data, 64, 1)
    ruined = tiny(make_encoder, body_rate=1.0, head_rate=1.0).fit(train, generator())
    frozen = tiny(make_encoder, epochs=0).fit(train, generator())
    assert np.array_equal(ruined.score(train), frozen.score(train))


@pytest.mark.torch
def test_teaching_is_decided_by_the_generator_and_leaves_torchs_own_alone(make_data, make_encoder):
    import torch

    train = letters(make_data, 64, 1)
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    scores = [tiny(make_encoder).fit(train, generator()).score(train) for _ in range(2)]
    assert np.array_equal(*scores)
    assert torch.equal(before, torch.random.get_rng_state())
    assert threads == torch.get_num_threads()


@pytest.mark.torch
def test_texts_are_cut_off_at_the_limit(make_data, make_encoder):
    train = letters(make_data, 64, 1)
    fitted = tiny(make_encoder, most_tokens=6, weight_decay=0.1).fit(train, generator())
    two = replace(train.take(np.array([0, 1])), texts=("a b c d e", "a b c d " + "j " * 50))
    one, other = fitted.score(two)
    assert one == other


@pytest.mark.torch
def test_what_is_fitted_applies_without_torch(make_data, make_encoder, monkeypatch):
    fitted = tiny(make_encoder).fit(letters(make_data, 64, 1), generator())
    for name in [name for name in sys.modules if name.partition(".")[0] == "torch"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert np.isfinite(fitted.p_success(letters(make_data, 8, 2))).all()


def test_fitting_without_torch_names_the_extra():
    code = """
import sys
sys.modules["torch"] = None
import foretell.routers._torch_encoder
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "pip install 'foretell[torch,embedding]'" in done.stderr
