"""Laws of the batching policy."""

from hypothesis import given
from hypothesis import strategies as st

from foretell.prefill.engines.llamacpp._schedule import Waiting, gated_together, next_call

WAITING = st.lists(st.builds(Waiting, tokens=st.integers(1, 2000), gated=st.booleans()), max_size=8)


@given(WAITING, st.integers(0, 8), st.booleans(), st.floats(0, 1))
def test_a_call_fits_does_something_and_never_risks_an_answer(
    waiting, decoding, after_prefill, decline_rate
):
    call = next_call(
        waiting,
        decoding=decoding,
        after_prefill=after_prefill,
        batch_tokens=512,
        decline_rate=decline_rate,
    )
    tokens = sum(count for _, count in call.prefill)
    assert tokens + (decoding if call.decode else 0) <= 512
    assert call.empty == (not waiting and not decoding)
    assert all(0 < count <= waiting[i].tokens for i, count in call.prefill)
    gated = [waiting[i].gated for i, _ in call.prefill]
    assert len(set(gated)) <= 1
    if any(gated):
        assert not call.decode


@given(WAITING, st.integers(1, 8))
def test_running_answers_wait_for_at_most_one_gated_call(waiting, decoding):
    call = next_call(
        waiting, decoding=decoding, after_prefill=True, batch_tokens=512, decline_rate=0.5
    )
    assert call.decode


@given(st.lists(st.integers(1, 300), min_size=1, max_size=8), st.floats(0, 1))
def test_packing_is_never_dearer_per_query_than_going_alone(own, rate):
    k = gated_together(own, batch_tokens=512, decline_rate=rate)
    together = (3.5 + sum(own[:k])) * (1 - 0.45 * rate**k) / k
    alone = (3.5 + own[0]) * (1 - 0.45 * rate)
    assert together <= alone + 1e-9
    assert k == 1 or sum(own[:k]) <= 512


def test_nothing_declined_packs_all_and_everything_declined_packs_too():
    assert gated_together([14] * 8, batch_tokens=512, decline_rate=0) == 8
    # When everyone is declined, a shared call stops for everyone.
    assert gated_together([14] * 8, batch_tokens=512, decline_rate=1) == 8


def test_long_queries_with_even_odds_go_alone():
    # (3.5 + 100)(1 - .225) = 80.2 alone; (3.5 + 200)(1 - .1125)/2 = 90.3 as a pair.
    assert gated_together([100] * 8, batch_tokens=512, decline_rate=0.5) == 1


def test_open_prefill_beside_answers_is_cut_short():
    call = next_call(
        [Waiting(tokens=500, gated=False)],
        decoding=3,
        after_prefill=False,
        batch_tokens=512,
        decline_rate=0.5,
    )
    assert call.decode
    assert call.prefill == ((0, 64),)
