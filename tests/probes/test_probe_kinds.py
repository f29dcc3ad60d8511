"""Every kind of fitted probe goes through a file and comes back the same."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from foretell.calibration import FittedBeta, FittedIsotonic, FittedPlatt, FittedTemperature
from foretell.errors import InputError
from foretell.probes import (
    KINDS,
    FittedAttentionProbe,
    FittedFusionProbe,
    FittedLinearProbe,
    FittedMixProbe,
    FittedMlpProbe,
    FittedProbe,
    FittedSeveralProbe,
    hash_training_data,
    load_probe,
    save_probe,
)
from foretell.probes._kinds import from_tensors
from foretell.probes._saveable import saveable
from foretell.records import ReadPoint, TokenActivations

WIDTH = 24
LOWER, UPPER, TOKENS = ReadPoint(0, "mean"), ReadPoint(1, "mean"), ReadPoint(1, "tokens")
CALIBRATION = FittedPlatt(slope=0.5, intercept=-0.25)


def numbers(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape).astype(np.float32)


def linear():
    return FittedLinearProbe(
        read_point=UPPER,
        weight=numbers(WIDTH),
        bias=0.5,
        projection=numbers(WIDTH, 3),
        offset=numbers(3),
        calibration=CALIBRATION,
    )


def several(kind=FittedSeveralProbe, **more):
    return kind(
        read_points=(LOWER, UPPER),
        weights=(numbers(WIDTH), numbers(WIDTH)),
        bias=0.5,
        calibration=CALIBRATION,
        **more,
    )


def fusion(base):
    return FittedFusionProbe(
        base=base,
        base_weight=0.75,
        bias=0.125,
        signals=("first_entropy",),
        centres=np.array([1.0]),
        signal_weights=np.array([-0.5]),
        domains=("geo",),
        domain_weights=np.array([0.25]),
        calibration=CALIBRATION,
    )


def mlp():
    return FittedMlpProbe(
        read_points=(LOWER, UPPER),
        projections=(numbers(WIDTH, 3), numbers(WIDTH, 2)),
        offsets=(numbers(3), numbers(2)),
        weights=(numbers(2, 5, 4), numbers(2, 4, 1)),
        biases=(numbers(2, 4), numbers(2, 1)),
        calibration=CALIBRATION,
    )


def attention(variant):
    return FittedAttentionProbe(
        read_point=TOKENS,
        variant=variant,
        queries=numbers(2, WIDTH, 3) if variant == "softmax" else None,
        values=numbers(2, WIDTH, 3),
        offsets=numbers(2, 3),
        bias=0.5,
        calibration=CALIBRATION,
    )


PROBES = [
    linear(),
    several(),
    several(FittedMixProbe, shares=(0.25, 0.75)),
    fusion(linear()),
    fusion(attention("max")),
    mlp(),
    attention("softmax"),
    attention("max"),
]


def of_every_kind(test):
    names = [f"{i}-{probe.kind}" for i, probe in enumerate(PROBES)]
    return pytest.mark.parametrize("probe", PROBES, ids=names)(test)


@pytest.fixture(scope="module")
def queries(data):
    generator = np.random.default_rng(1)
    tokens = [numbers(2 + i % 5, WIDTH) + np.float32(i) for i in range(len(data))]
    return replace(
        data,
        sequences={TOKENS: TokenActivations.stack(tokens)},
        first_entropy=generator.exponential(size=len(data)),
    )


def test_every_kind_is_tried_here():
    assert {probe.kind for probe in PROBES} == set(KINDS)


@of_every_kind
def test_a_probe_keeps_to_the_protocol(probe):
    assert isinstance(probe, FittedProbe)
    assert list(probe.read_points) == sorted(probe.read_points)


@of_every_kind
def test_settings_are_json_and_with_the_tensors_make_the_same_probe(probe, queries):
    settings = json.loads(json.dumps(probe.settings()))
    again = from_tensors(probe.kind, settings, probe.tensors(), probe.calibration)
    assert type(again) is type(probe)
    assert again.read_points == probe.read_points
    assert again.reads_first_token == probe.reads_first_token
    assert np.array_equal(again.chances(queries), probe.chances(queries))


@of_every_kind
def test_a_saved_probe_comes_back_bit_for_bit(probe, queries, card, held_out, tmp_path):
    described = replace(
        card,
        kind=probe.kind,
        read_points=probe.read_points,
        settings=probe.settings(),
        calibration=probe.calibration,
    )
    written = save_probe(probe, described, tmp_path / "p", held_out=held_out)
    saved = load_probe(tmp_path / "p")
    assert saved.card == written
    assert np.array_equal(saved.probe.scores(queries), probe.scores(queries))
    assert np.array_equal(saved.probe.chances(queries), probe.chances(queries))


@of_every_kind
def test_a_missing_tensor_is_refused(probe):
    for name in probe.tensors():
        tensors = {k: v for k, v in probe.tensors().items() if k != name}
        with pytest.raises(InputError, match=r"no tensor|do not fit"):
            from_tensors(probe.kind, probe.settings(), tensors, CALIBRATION)


@of_every_kind
def test_a_number_that_is_not_finite_is_refused(probe):
    for name, tensor in probe.tensors().items():
        broken = tensor.copy()
        broken.flat[0] = np.nan
        with pytest.raises(InputError, match=r"finite|nan"):
            from_tensors(
                probe.kind, probe.settings(), {**probe.tensors(), name: broken}, CALIBRATION
            )


@of_every_kind
def test_a_tensor_with_one_more_axis_is_refused_or_changes_nothing(probe, queries):
    refused = 0
    for name, tensor in probe.tensors().items():
        tensors = {**probe.tensors(), name: tensor[None]}
        try:
            again = from_tensors(probe.kind, probe.settings(), tensors, CALIBRATION)
        except InputError:
            refused += 1
        else:
            assert np.array_equal(again.chances(queries), probe.chances(queries))
    assert refused


def test_the_training_hash_covers_token_activations(queries):
    whole = hash_training_data(queries, [TOKENS])
    backwards = np.arange(len(queries))[::-1]
    assert hash_training_data(queries.take(backwards), [TOKENS]) == whole
    rows = queries.sequences[TOKENS]
    changed = replace(rows, values=rows.values + np.float32(1))
    assert hash_training_data(replace(queries, sequences={TOKENS: changed}), [TOKENS]) != whole


def test_an_unknown_kind_says_what_is_known_and_what_to_do():
    with pytest.raises(InputError, match=r"'oracle' is unknown here.*linear.*so upgrade foretell"):
        from_tensors("oracle", {}, {}, CALIBRATION)


@pytest.mark.parametrize(
    "calibration",
    [
        FittedBeta(a=1.5, b=0.5, c=0.25),
        FittedIsotonic(scores=(-1.0, 0.5), chances=(0.25, 0.75)),
        FittedTemperature(slope=0.5),
    ],
    ids=lambda calibration: calibration.kind,
)
def test_every_calibration_comes_back(calibration, queries, card, held_out, tmp_path):
    probe = linear().calibrated(calibration)
    described = replace(card, calibration=calibration)
    save_probe(probe, described, tmp_path / "p", held_out=held_out)
    saved = load_probe(tmp_path / "p")
    assert saved.card.calibration == calibration
    assert np.array_equal(saved.probe.chances(queries), probe.chances(queries))


def test_an_invented_calibration_is_refused_before_it_is_saved():
    with pytest.raises(InputError, match="of type str cannot be saved"):
        saveable("calibration")


def test_reading_any_kind_imports_neither_torch_nor_scikit_learn():
    program = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_probe_kinds
for probe in test_probe_kinds.PROBES:
    test_probe_kinds.from_tensors(
        probe.kind, probe.settings(), probe.tensors(), probe.calibration
    )
heavy = {{"sklearn", "scipy", "torch", "pandas", "pyarrow"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)
