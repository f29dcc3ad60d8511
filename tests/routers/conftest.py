"""Made-up queries that get harder along one hidden number, which every column shows a little."""

from functools import partial

import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import BertProcessing

from foretell.records import ReadPoint, RoutingData
from foretell.routers import (
    CascadeRouter,
    SentenceEncoder,
    TextClassifierRouter,
    answer_logprob_router,
    embedding_router,
    first_token_entropy_router,
    knn_router,
    make_router,
    matrix_factorisation_router,
    similarity_ranking_router,
)


def made_up(n=120, *, seed=0):
    generator = np.random.default_rng(seed)
    harder = generator.normal(size=n)
    words = np.where(harder > 0, "prove", "add")
    return RoutingData(
        domain=("made up",) * n,
        ids=tuple(f"{seed}-{i}" for i in range(n)),
        texts=tuple(f"{word} {i} and {i + 1}" for i, word in enumerate(words)),
        groups=tuple(f"{seed}-{i // 2}" for i in range(n)),
        lengths=np.maximum(1, (20 + 6 * harder).astype(np.int64)),
        attributes=tuple({"hard": bool(h > 0), "place": i % 3} for i, h in enumerate(harder)),
        activations={
            ReadPoint(1, "last"): (
                np.outer(harder, np.arange(1, 9)) + generator.normal(size=(n, 8))
            ).astype(np.float32),
            ReadPoint(2, "mean"): generator.normal(size=(n, 8)).astype(np.float32),
        },
        first_entropy=np.where(generator.random(n) < 0.1, np.nan, 1 + 0.2 * harder),
        answer_logprob=-1 - 0.2 * harder,
        weak=(harder + 0.5 * generator.normal(size=n) < 0).astype(np.float64),
    )


def letter_counts(texts):
    """A stand-in for the sentence encoder: unit vectors, (texts, 27)."""
    counts = np.ones((len(texts), 27), np.float32)
    for row, text in enumerate(texts):
        for letter in text.lower():
            counts[row, ord(letter) % 27] += 1
    return counts / np.linalg.norm(counts, axis=1, keepdims=True)


WIDTH, HIDDEN, BLOCKS = 64, 128, 2


def tiny_encoder():
    """A sentence encoder of random weights that knows the letters a to j."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghij", *(f"##{c}" for c in "abcdefghij")]
    tokenizer = Tokenizer(WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer()
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.post_processor = BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    draw = np.random.default_rng(0).normal

    def dense(name, rows, columns):
        return {
            f"{name}.weight": draw(0, 0.3, (rows, columns)).astype(np.float32),
            f"{name}.bias": draw(0, 0.1, rows).astype(np.float32),
        }

    def norm(name):
        return {
            f"{name}.weight": draw(1, 0.1, WIDTH).astype(np.float32),
            f"{name}.bias": draw(0, 0.1, WIDTH).astype(np.float32),
        }

    weights = {
        f"embeddings.{kind}_embeddings.weight": draw(0, 1, (rows, WIDTH)).astype(np.float32)
        for kind, rows in (("word", len(words)), ("position", 256), ("token_type", 2))
    } | norm("embeddings.LayerNorm")
    for block in range(BLOCKS):
        name = f"encoder.layer.{block}."
        for role in ("query", "key", "value"):
            weights |= dense(f"{name}attention.self.{role}", WIDTH, WIDTH)
        weights |= dense(f"{name}attention.output.dense", WIDTH, WIDTH)
        weights |= norm(f"{name}attention.output.LayerNorm")
        weights |= dense(f"{name}intermediate.dense", HIDDEN, WIDTH)
        weights |= dense(f"{name}output.dense", WIDTH, HIDDEN) | norm(f"{name}output.LayerNorm")
    return SentenceEncoder(weights, tokenizer)


def ask_by_rule(messages):
    """A model that finds proofs hard and has no opinion on very long queries."""
    text = messages[-1]["content"]
    if len(text) > 1_000:
        return "I cannot tell."
    return "8" if "prove" in text else "Difficulty: 3"


STAND_INS = {
    "embedding": partial(embedding_router, letter_counts),
    "knn": partial(knn_router, letter_counts),
    "mf": partial(matrix_factorisation_router, letter_counts),
    "sw_ranking": partial(similarity_ranking_router, letter_counts),
    "text_classifier": partial(TextClassifierRouter, encoder=tiny_encoder, epochs=2),
    "cascade": lambda: CascadeRouter(
        first=first_token_entropy_router(), second=answer_logprob_router()
    ),
    "llm": partial(make_router, "llm", ask=ask_by_rule),
}


def router_of(name):
    return STAND_INS[name]() if name in STAND_INS else make_router(name)


@pytest.fixture
def make_data():
    return made_up


@pytest.fixture
def encode():
    return letter_counts


@pytest.fixture
def make_encoder():
    return tiny_encoder


@pytest.fixture
def make():
    """The router of a name, with stand-ins for what is slow, or would have to be fetched."""
    return router_of


@pytest.fixture(scope="session")
def fitted():
    """Every router by name, fitted once on the same queries."""
    cache = {}

    def of(name):
        if name not in cache:
            cache[name] = router_of(name).fit(made_up(), np.random.default_rng(1))
        return cache[name]

    return of
