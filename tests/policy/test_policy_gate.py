import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import foretell.policy
from foretell.policy import GateReading, decide, early_exit_gate
from foretell.records import Estimate, ReadPoint

MIDDLE = ReadPoint(14, "last")
VECTOR = np.zeros(4, dtype=np.float32)


@given(st.floats(0, 1), st.floats(0, 2))
def test_a_gate_stops_exactly_what_the_policy_escalates(p, keep_at):
    gate = early_exit_gate(lambda _: (0.0, p), keep_at=keep_at, read_point=MIDDLE)
    decision = decide(Estimate(score=0.0, p_success=p, router="probe"), keep_at=keep_at)
    assert gate(MIDDLE, VECTOR) == (decision.action == "keep")


def test_a_gate_records_what_it_saw_and_how_long_the_probe_took():
    ticks = iter([10.0, 10.25])
    gate = early_exit_gate(
        lambda vector: (float(vector.sum()), 0.25),
        keep_at=0.5,
        read_point=MIDDLE,
        clock=lambda: next(ticks),
    )
    assert not gate(MIDDLE, np.ones(4, dtype=np.float32))
    assert gate.reading == GateReading(
        read_point=MIDDLE, score=4.0, p_success=0.25, seconds=0.25, passed=False
    )


def test_a_gate_lets_other_read_points_pass_and_has_no_reading_before_its_own():
    gate = early_exit_gate(lambda _: (0.0, 0.0), keep_at=0.5, read_point=MIDDLE)
    assert gate(ReadPoint(14, "mean"), VECTOR)
    assert gate(ReadPoint(7, "last"), VECTOR)
    assert gate.reading is None


def test_a_chance_that_is_not_a_number_does_not_pass():
    gate = early_exit_gate(lambda _: (0.0, float("nan")), keep_at=0.0, read_point=MIDDLE)
    assert not gate(MIDDLE, VECTOR)


def test_the_room_offers_exactly_what_it_lists():
    listed = foretell.policy.__all__
    assert list(listed) == sorted(listed)
    assert set(listed) == {name for name in vars(foretell.policy) if not name.startswith("_")}
