"""Bookkeeping of the KV cache, against a plain model of which sequence holds which tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from foretell.prefill.engines.llamacpp._cells import CellPool, common_prefix

TOKENS = st.lists(st.integers(0, 2), min_size=0, max_size=40).map(tuple)


@given(TOKENS, TOKENS)
def test_the_common_prefix_is_the_longest_one(left, right):
    n = common_prefix(left, right)
    assert left[:n] == right[:n]
    assert left[n : n + 1] != right[n : n + 1] or min(len(left), len(right)) == n


def pool(cells=100, sequences=6, kept_cells=40):
    cleared = []
    return CellPool(
        cells=cells, sequences=sequences, kept_cells=kept_cells, clear=cleared.append
    ), cleared


def test_a_kept_prefix_is_shared_and_not_counted_twice():
    cells, _ = pool()
    prefix = tuple(range(20))
    first = cells.lease(prefix, 30)
    assert cells.used == 30
    copy = cells.keep_prefix(first, prefix)
    assert copy not in (None, first.sequence)
    assert cells.used == 30  # 20 kept, 10 the request's own
    second = cells.lease(prefix, 30)
    assert (second.shared, second.source.sequence) == (20, copy)
    assert cells.used == 40


def test_a_prefix_in_use_is_never_evicted():
    cells, cleared = pool()
    prefix = tuple(range(20))
    first = cells.lease(prefix, 30)
    cells.keep_prefix(first, prefix)
    assert cells.lease((), 71) is None
    cells.release(first)
    assert cells.lease((), 71) is None or cells.used <= 100
    assert cleared


def test_an_idle_prefix_gives_way_to_a_request():
    cells, _ = pool()
    lease = cells.lease((), 30)
    cells.release(lease, keep=tuple(range(30)))
    assert cells.used == 30
    assert cells.lease((), 100) is not None
    assert cells.longest_match(tuple(range(30)))[1] == 0


def test_what_is_kept_stays_within_its_bound():
    cells, _ = pool()
    for start in range(5):
        lease = cells.lease((), 15)
        cells.release(lease, keep=tuple(range(start * 100, start * 100 + 15)))
    assert cells.used <= 40


class KvCache(RuleBasedStateMachine):
    """Leases, kept prefixes and evictions in any order, mirrored into what llama.cpp would hold."""

    def __init__(self):
        super().__init__()
        self.held = {}  # sequence -> tokens in the real cache
        self.leases = []
        self.pool = CellPool(cells=60, sequences=5, kept_cells=30, clear=self.clear)

    def clear(self, sequence):
        self.held.pop(sequence, None)

    @rule(prefix=TOKENS, own=st.integers(1, 20))
    def request_comes(self, prefix, own):
        lease = self.pool.lease(prefix, len(prefix) + own)
        if lease is None:
            return
        assert lease.sequence not in self.held
        if lease.source is not None:
            assert self.held[lease.source.sequence][: lease.shared] == prefix[: lease.shared]
        self.held[lease.sequence] = prefix
        self.leases.append((lease, prefix))

    @precondition(lambda self: self.leases)
    @rule(data=st.data())
    def prefix_is_evaluated(self, data):
        lease, prefix = data.draw(st.sampled_from(self.leases))
        copy = self.pool.keep_prefix(lease, prefix)
        if copy is not None:
            assert copy not in self.held
            self.held[copy] = prefix

    @precondition(lambda self: self.leases)
    @rule(data=st.data(), keep=st.booleans())
    def request_ends(self, data, keep):
        index = data.draw(st.integers(0, len(self.leases) - 1))
        lease, prefix = self.leases.pop(index)
        self.pool.release(lease, keep=prefix if keep else None)

    @invariant()
    def books_cover_the_real_cache(self):
        assert 0 <= self.pool.used <= self.pool.cells
        for lease, prefix in self.leases:
            assert self.held[lease.sequence] == prefix

    def teardown(self):
        for lease, _ in self.leases:
            self.pool.release(lease)
        assert self.pool.lease((), 60) is not None


KvCache.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
test_the_books_hold_under_any_order_of_events = KvCache.TestCase


def test_all_or_nothing():
    cells, cleared = pool()
    cells.release(cells.lease((), 30), keep=tuple(range(30)))
    held = cells.lease((), 60)
    assert cells.lease((), 50) is None
    assert cells.longest_match(tuple(range(30)))[1] == 30
    assert not cleared
    cells.release(held)
    assert cells.lease((), 50) is not None


@pytest.mark.parametrize("length", [0, 3])
def test_a_short_prefix_is_not_worth_keeping(length):
    cells, _ = pool()
    assert cells.keep_prefix(cells.lease((), 10), tuple(range(length))) is None
