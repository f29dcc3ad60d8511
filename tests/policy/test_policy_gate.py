import numpy as np
from hypothesis import given
from hypothesis import strategies as st

import foretell.policy
from foretell.policy import GateReading, GateStage, decide, early_exit_gate
from foretell.records import Estimate, ReadPoint

MIDDLE = ReadPoint(14, "last")
VECTOR = np.zeros(4, dtype=np.float32)


def estimate(p, score=0.0):
    return Estimate(score=score, p_success=p, router="probe")


def stage(p, stop_below=0.5, read_point=MIDDLE):
    return GateStage(
        read_point=read_point,
        foretell=lambda vectors: estimate(p, float(vectors[read_point].sum())),
        goes_on=lambda seen: seen.p_success >= stop_below,
    )


@given(st.floats(0, 1), st.floats(0, 2))
def test_a_gate_that_asks_the_policy_stops_exactly_what_is_escalated(p, keep_at):
    def goes_on(seen):
        return decide(seen, keep_at=keep_at).serve == "weak"

    gate = early_exit_gate(
        [GateStage(read_point=MIDDLE, foretell=lambda _: estimate(p), goes_on=goes_on)]
    )
    assert gate(MIDDLE, VECTOR) == (p >= keep_at)


def test_a_gate_records_what_it_saw_and_how_long_the_probe_took():
    ticks = iter([10.0, 10.25])
    gate = early_exit_gate([stage(0.25)], clock=lambda: next(ticks))
    assert not gate(MIDDLE, np.ones(4, dtype=np.float32))
    assert gate.reading == GateReading(
        read_point=MIDDLE, estimate=estimate(0.25, 4.0), seconds=0.25, settled=True
    )


def test_a_gate_lets_other_read_points_pass_and_has_no_reading_before_its_own():
    gate = early_exit_gate([stage(0.0)])
    assert gate(ReadPoint(14, "mean"), VECTOR)
    assert gate(ReadPoint(7, "last"), VECTOR)
    assert gate.reading is None


def test_a_stage_sees_the_vectors_of_the_read_points_before_it():
    late = ReadPoint(28, "last")
    seen = {}

    def look(vectors):
        seen.update(vectors)
        return estimate(1.0)

    gate = early_exit_gate([GateStage(read_point=late, foretell=look, goes_on=lambda _: True)])
    first, second = VECTOR + 1, VECTOR + 2
    assert gate(MIDDLE, first)
    assert gate(late, second)
    assert seen[MIDDLE] is first
    assert seen[late] is second


def test_an_early_stage_stops_the_hopeless_and_a_later_one_decides_the_rest():
    late = ReadPoint(28, "last")
    ticks = iter([0.0, 1.0, 5.0, 7.0])
    gate = early_exit_gate([stage(0.3, 0.1), stage(0.4, 0.5, late)], clock=lambda: next(ticks))
    assert gate(MIDDLE, VECTOR)
    assert not gate(late, VECTOR)
    assert gate.reading == GateReading(
        read_point=late, estimate=estimate(0.4), seconds=3.0, settled=True
    )


def test_what_an_early_stage_settles_is_the_last_word_though_the_prefill_goes_on():
    late = ReadPoint(28, "last")
    settling = GateStage(
        read_point=MIDDLE,
        foretell=lambda _: estimate(0.1),
        goes_on=lambda _: True,
        settles=lambda seen: seen.p_success < 0.3,
    )
    gate = early_exit_gate([settling, stage(0.9, read_point=late)])
    assert gate(MIDDLE, VECTOR)
    assert gate(late, VECTOR)
    assert gate.reading is not None
    assert (gate.reading.read_point, gate.reading.estimate) == (MIDDLE, estimate(0.1))


def test_a_chance_that_is_not_a_number_does_not_pass():
    assert not early_exit_gate([stage(float("nan"), 0.0)])(MIDDLE, VECTOR)


def test_the_room_offers_exactly_what_it_lists():
    listed = foretell.policy.__all__
    assert list(listed) == sorted(listed)
    assert set(listed) == {name for name in vars(foretell.policy) if not name.startswith("_")}
