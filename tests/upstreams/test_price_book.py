import subprocess
import sys
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foretell.config import LlamacppModel, OpenAIModel, Price, TinyModel
from foretell.records import MeteredUsage, Usage
from foretell.upstreams import PriceBook, cost_usd, provider_name

counts = st.integers(0, 10**7)
NOW = datetime(2026, 11, 24, 12, tzinfo=UTC)
BOOK = PriceBook(now=lambda: NOW)
USAGE = MeteredUsage(prompt_tokens=1_000, completion_tokens=50, cached_tokens=200)


def model_at(base_url: str, model: str = "gpt-4o", price: Price | None = None) -> OpenAIModel:
    return OpenAIModel(engine="openai", model=model, base_url=base_url, price=price)


def test_a_configured_price_goes_before_a_published_one():
    model = model_at("https://api.openai.com/v1", price=Price(input=1, output=4))
    # 1,000 x 1 + 50 x 4 = 1,200 millionths
    assert BOOK.cost_usd(model, "gpt-4o", USAGE) == pytest.approx(0.0012)


def test_cached_tokens_have_a_price_of_their_own():
    model = model_at("http://10.0.0.1/v1", price=Price(input=1, output=4, cached_input=0.1))
    # 800 x 1 + 200 x 0.1 + 50 x 4 = 1,020 millionths
    assert BOOK.cost_usd(model, None, USAGE) == pytest.approx(0.00102)


def test_cached_tokens_may_cost_nothing():
    model = model_at("http://10.0.0.1/v1", price=Price(input=1, output=4, cached_input=0))
    assert BOOK.cost_usd(model, None, USAGE) == pytest.approx(0.001)


@pytest.mark.parametrize("answered_by", ["gpt-4o-2024-08-06", "gpt-4o", None, "", "not-a-model"])
def test_a_known_host_is_priced_by_who_answered_or_else_by_who_was_asked(answered_by):
    # gpt-4o: 2.5 new, 1.25 cached, 10 out: 800 x 2.5 + 200 x 1.25 + 50 x 10 = 2,750 millionths
    cost = BOOK.cost_usd(model_at("https://api.openai.com/v1"), answered_by, USAGE)
    assert cost == pytest.approx(0.00275)


def test_the_model_that_answered_goes_before_the_one_that_was_asked():
    model = model_at("https://api.openai.com/v1", "gpt-4o")
    mini = BOOK.cost_usd(model, "gpt-4o-mini", USAGE)
    assert mini == BOOK.cost_usd(model_at("https://api.openai.com/v1", "gpt-4o-mini"), None, USAGE)
    assert mini is not None
    assert mini < 0.00275


def test_another_host_sells_the_models_of_a_provider_at_its_own_price():
    azure = model_at("https://us.openai.azure.com/openai/v1", "our-deployment")
    assert BOOK.cost_usd(azure, None, USAGE) is None
    assert BOOK.cost_usd(azure, "gpt-4o-2024-08-06", USAGE) is not None


@pytest.mark.parametrize(
    "base_url",
    [
        "http://127.0.0.1:9000/v1",
        "http://localhost/v1",
        "http://[::1]:8000/v1",
        "https://models.example.com/v1",
        "http://api.openai.com/v1",  # not how it is reached, so something else in its place
    ],
)
def test_a_host_that_is_no_providers_has_no_price_whatever_its_model_is_called(base_url):
    assert BOOK.cost_usd(model_at(base_url), "gpt-4o", USAGE) is None
    assert provider_name(base_url) is None


@pytest.mark.parametrize("model", ["big-1", "whisper-1", "text-embedding-3-small"])
def test_a_model_without_a_price_per_token_is_unknown_and_not_free(model):
    assert BOOK.cost_usd(model_at("https://api.openai.com/v1", model), None, USAGE) is None


def test_a_model_in_this_process_costs_what_is_configured_or_nobody_knows():
    here = LlamacppModel(engine="llamacpp", model="file:x", price=Price(input=0.02, output=0.08))
    assert BOOK.cost_usd(here, None, USAGE) == pytest.approx((1_000 * 0.02 + 50 * 0.08) / 1e6)
    assert BOOK.cost_usd(TinyModel(engine="tiny"), "gpt-4o", USAGE) is None


def test_the_worst_cost_has_no_cached_tokens_and_is_unknown_with_any_of_its_parts():
    model = model_at("http://10.0.0.1/v1", price=Price(input=1, output=4, cached_input=0.1))
    worst = BOOK.worst_usd(model, prompt_tokens=1_000, completion_tokens=50)
    assert worst == pytest.approx(0.0012)
    assert BOOK.worst_usd(model, prompt_tokens=None, completion_tokens=50) is None
    assert BOOK.worst_usd(model, prompt_tokens=1_000, completion_tokens=None) is None
    unknown = model_at("http://10.0.0.1/v1")
    assert BOOK.worst_usd(unknown, prompt_tokens=1, completion_tokens=1) is None


@given(counts, counts, counts, st.sampled_from([None, 0.0, 0.5, 2.0]))
def test_no_answer_costs_more_than_the_worst_and_without_a_cache_price_both_costs_agree(
    prompt, cached, completion, cached_input
):
    price = Price(input=2.0, output=8.0, cached_input=cached_input)
    usage = MeteredUsage(
        prompt_tokens=prompt, completion_tokens=completion, cached_tokens=min(cached, prompt)
    )
    model = model_at("http://10.0.0.1/v1", price=price)
    cost = BOOK.cost_usd(model, None, usage)
    worst = BOOK.worst_usd(model, prompt_tokens=prompt, completion_tokens=completion)
    assert cost is not None
    assert worst is not None
    assert 0 <= cost <= worst + 1e-12
    if cached_input in (None, 2.0):
        plain = Usage(prompt_tokens=prompt, completion_tokens=completion)
        assert cost == pytest.approx(cost_usd(plain, price))


@pytest.mark.parametrize(
    ("base_url", "name"),
    [
        ("https://api.openai.com/v1", "openai"),
        ("https://api.anthropic.com/v1", "anthropic"),
        ("https://us.openai.azure.com/openai/v1", "azure.ai.openai"),
        ("https://api.mistral.ai/v1", "mistral_ai"),
        ("https://api.x.ai/v1", "x_ai"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "gcp.gemini"),
        ("https://us-east5-aiplatform.googleapis.com/v1", "gcp.vertex_ai"),
        ("https://openrouter.ai/api/v1", "openrouter"),
    ],
)
def test_a_provider_goes_by_the_name_of_the_conventions(base_url, name):
    assert provider_name(base_url) == name


def test_without_published_prices_only_configured_ones_count():
    program = """
import sys
sys.modules["genai_prices"] = None
from foretell.config import OpenAIModel, Price
from foretell.records import MeteredUsage
from foretell.upstreams import PriceBook, provider_name
book = PriceBook()
book.warm()
usage = MeteredUsage(prompt_tokens=1, completion_tokens=1)
url = "https://api.openai.com/v1"
model = OpenAIModel(engine="openai", model="gpt-4o", base_url=url)
print(book.cost_usd(model, None, usage), provider_name(url))
priced = model.model_copy(update={"price": Price(input=1, output=1)})
print(book.cost_usd(priced, None, usage))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == ["None", "None", "2e-06"]


def test_published_prices_are_loaded_when_they_are_first_needed():
    program = """
import sys
from foretell.upstreams import PriceBook, Target
book = PriceBook()
print("genai_prices" in sys.modules, "aiohttp" in sys.modules)
book.warm()
print("genai_prices.data" in sys.modules)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == ["False", "False", "True"]
