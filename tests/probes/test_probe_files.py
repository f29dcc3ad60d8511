"""A saved probe comes back whole, or not at all."""

import json
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from foretell.errors import InputError, ProbeFileError, ProbeMismatchError
from foretell.probes import (
    HeldOut,
    LabelDefinition,
    describe,
    hash_training_data,
    load_probe,
    save_probe,
)
from foretell.records import ReadPoint

POINT = ReadPoint(1, "mean")
NOW = datetime(2026, 1, 1, tzinfo=UTC)
PARTS = {
    "id": "geo",
    "version": 1,
    "domain": "geo",
    "label": LabelDefinition(metric="m", source="code"),
}


@pytest.fixture
def folder(selection, card, tmp_path, held_out):
    save_probe(selection.probe, card, tmp_path / "probes" / "geo-3", held_out=held_out)
    return tmp_path / "probes" / "geo-3"


def test_a_loaded_probe_predicts_bit_for_bit_what_the_saved_one_does(folder, selection, data):
    loaded = load_probe(folder).probe
    activations = data.activations[POINT]
    assert np.array_equal(loaded.p_success(activations), selection.probe.p_success(activations))
    assert np.array_equal(loaded.coordinates(activations), selection.probe.coordinates(activations))
    assert loaded.score(activations[0]) == selection.probe.score(activations[0])


def test_what_thresholds_are_chosen_on_comes_back_with_its_gaps(folder, held_out):
    loaded = load_probe(folder).held_out
    assert np.array_equal(loaded.p_success, held_out.p_success)
    assert np.array_equal(loaded.weak, held_out.weak)
    assert np.array_equal(loaded.strong, held_out.strong, equal_nan=True)


def test_everything_thresholds_may_be_chosen_on_comes_back(selection, card, held_out, tmp_path):
    n = len(held_out.weak)
    more = {
        name: np.linspace(0, 1, n)
        for name in (
            "p_strong",
            "expected_tokens",
            "prompt_tokens",
            "weak_tokens",
            "strong_prompt_tokens",
            "strong_tokens",
            "weights",
            "groups",
        )
    }
    more["p_strong"][0] = np.nan
    save_probe(selection.probe, card, tmp_path / "p", held_out=replace(held_out, **more))
    loaded = load_probe(tmp_path / "p").held_out
    for name, column in more.items():
        assert np.array_equal(getattr(loaded, name), column, equal_nan=True)


@pytest.mark.parametrize("column", ["strong", "p_strong"])
def test_held_out_columns_of_different_lengths_are_refused(column):
    columns = {"p_success": np.ones(2), "weak": np.ones(2), "strong": np.ones(2)}
    with pytest.raises(InputError, match=rf"{column} has shape \(3,\).* one row for each query"):
        HeldOut(**{**columns, column: np.ones(3)})


@pytest.mark.parametrize(
    ("column", "value"),
    [("p_success", 1.5), ("p_success", np.nan), ("weak", np.nan), ("strong", 2), ("p_strong", -1)],
)
def test_a_held_out_chance_or_success_that_is_not_one_is_refused(column, value):
    columns = {"p_success": np.ones(2), "weak": np.ones(2), "strong": np.array([1.0, np.nan])}
    with pytest.raises(InputError, match=f"{column} has numbers outside 0 to 1"):
        HeldOut(**{**columns, column: np.array([0.5, value])})


def test_a_card_comes_back_as_it_was_written(selection, card, tmp_path, held_out):
    written = save_probe(selection.probe, card, tmp_path / "p", held_out=held_out)
    assert load_probe(tmp_path / "p").card == written
    assert written == replace(card, weights_sha256=written.weights_sha256)
    assert len(written.weights_sha256) == 64


def test_a_card_tells_where_the_probe_comes_from(card, selection, data):
    assert card.name == "geo@3"
    assert card.created == "2026-01-02T03:04:05+00:00"
    assert card.model == data.model
    assert (card.domain, card.read_points, card.read_point) == ("geo", (POINT,), POINT)
    assert (card.kind, card.settings, card.target) == (
        "linear",
        {"read_point": POINT.name},
        "binary",
    )
    assert card.label == LabelDefinition(metric="json_field", source="code")
    assert (card.n_train, card.n_positive) == (200, data.weak.sum())
    assert card.base_rate == pytest.approx(data.weak.mean())
    assert (card.sweep, card.chosen) == (selection.sweep, selection.chosen)
    assert card.kinds_tried == selection.kinds_tried
    assert card.training_data_sha256 == hash_training_data(data, [POINT])
    libraries = {"foretell", "numpy", "scikit-learn", "scipy", "torch"}
    assert set(card.library_versions) == libraries


def test_a_card_says_when_the_target_is_a_rate_and_weighs_its_base_rate(selection, data):
    outcomes = selection.outcomes.copy()
    outcomes[0] = 0.5
    weights = np.where(outcomes == 1, 3.0, 1.0)
    card = describe(replace(selection, outcomes=outcomes, weights=weights), data, **PARTS, now=NOW)
    assert card.target == "rate"
    assert card.n_positive == outcomes.sum()
    assert card.base_rate == pytest.approx(np.average(outcomes, weights=weights))


def test_only_the_two_files_are_left_and_others_may_read_them(folder):
    assert sorted(path.name for path in folder.iterdir()) == ["card.json", "weights.safetensors"]
    assert [path.name for path in folder.parent.iterdir()] == ["geo-3"]
    assert folder.stat().st_mode & 0o055 == 0o055


def test_a_probe_is_not_overwritten_unless_asked(folder, selection, card, held_out):
    with pytest.raises(ProbeFileError, match="exists already"):
        save_probe(selection.probe, card, folder, held_out=held_out)
    save_probe(
        selection.probe, replace(card, version=4), folder, held_out=held_out, replace_existing=True
    )
    assert load_probe(folder).card.version == 4
    assert [path.name for path in folder.parent.iterdir()] == ["geo-3"]


@pytest.mark.parametrize("failing_write", [1, 2])
def test_a_save_that_fails_leaves_the_old_probe_and_nothing_else(
    folder, selection, card, monkeypatch, failing_write, held_out
):
    writes = []

    def fail(descriptor):
        writes.append(descriptor)
        if len(writes) == failing_write:
            raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(ProbeFileError, match="disk full"):
        save_probe(
            selection.probe,
            replace(card, version=4),
            folder,
            held_out=held_out,
            replace_existing=True,
        )
    assert load_probe(folder).card.version == 3
    assert [path.name for path in folder.parent.iterdir()] == ["geo-3"]


def test_a_swap_that_fails_puts_the_old_probe_back(folder, selection, card, monkeypatch, held_out):
    rename = type(folder).rename

    def fail(path, target):
        if ".new-" in path.name:
            raise OSError("no")
        return rename(path, target)

    monkeypatch.setattr(type(folder), "rename", fail)
    with pytest.raises(ProbeFileError, match="cannot write the probe"):
        save_probe(selection.probe, card, folder, held_out=held_out, replace_existing=True)
    assert load_probe(folder).card.version == 3
    assert [path.name for path in folder.parent.iterdir()] == ["geo-3"]


def test_a_place_that_cannot_be_written_is_named(selection, card, tmp_path, held_out):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ProbeFileError, match="cannot write a probe beside"):
        save_probe(selection.probe, card, tmp_path / "file" / "p", held_out=held_out)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "mlp"},
        {"read_points": (ReadPoint(0),)},
        {"settings": {}},
        {"calibration": None},
        {"n_train": 5},
        {"gate": "some"},
        {"heads": "some"},
    ],
)
def test_a_card_of_another_probe_is_refused_before_anything_is_written(
    selection, card, tmp_path, change, held_out
):
    with pytest.raises(InputError, match="describe the very probe"):
        save_probe(selection.probe, replace(card, **change), tmp_path / "p", held_out=held_out)
    assert not list(tmp_path.iterdir())


def edit_card(folder, **changes):
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder, **changes):
    """Change tensors and promise the new hash, so that only the later checks can notice."""
    from hashlib import sha256

    path = folder / "weights.safetensors"
    tensors = {**load_file(path), **changes}
    save_file({name: value for name, value in tensors.items() if value is not None}, path)
    edit_card(folder, weights_sha256=sha256(path.read_bytes()).hexdigest())


@pytest.mark.parametrize("name", ["card.json", "weights.safetensors"])
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(ProbeFileError, match=f"cannot read .*{name}"):
        load_probe(folder)


def test_a_single_flipped_bit_is_noticed(folder):
    path = folder / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ProbeFileError, match=r"weights\.safetensors has SHA-256 .* card promises"):
        load_probe(folder)


def test_weights_that_are_no_safetensors_file_are_named(folder):
    from hashlib import sha256

    (folder / "weights.safetensors").write_bytes(b"\x80\x04pickle")
    edit_card(folder, weights_sha256=sha256(b"\x80\x04pickle").hexdigest())
    with pytest.raises(ProbeFileError, match="is not a safetensors file"):
        load_probe(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"held_out.weak": np.ones(5)}, r"column weak has shape \(5,\)"),
        ({"held_out.strong": None}, "no tensor 'strong'"),
        ({"held_out.p_success": np.full(200, np.nan)}, "p_success has numbers outside 0 to 1"),
        ({"probe.offset": None}, "no tensor 'offset'"),
        ({"probe.weight": np.ones(5, np.float32)}, r"weight \(5,\).* do not fit together"),
        ({"probe.bias": np.array([np.nan])}, "the probe's bias is nan"),
        ({"probe.bias": np.ones(2)}, "wanted one number"),
        ({"probe.weight": np.full(24, np.inf, np.float32)}, "holds 24 numbers that are not finite"),
    ],
)
def test_tensors_other_than_promised_are_named(folder, changes, complaint):
    edit_weights(folder, **changes)
    with pytest.raises(
        ProbeFileError, match=rf"weights\.safetensors and .*card\.json.*{complaint}"
    ):
        load_probe(folder)


def test_arrays_that_fit_each_other_but_not_the_model_are_refused(folder):
    edit_weights(
        folder,
        **{
            "probe.weight": np.ones(5, np.float32),
            "probe.projection": np.ones((5, 2), np.float32),
            "probe.offset": np.ones(2, np.float32),
        },
    )
    with pytest.raises(ProbeFileError, match="says width 24 but the parts beside it have 5"):
        load_probe(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"kind": "oracle"}, "kind 'oracle' is unknown here; .*linear.* so upgrade foretell"),
        ({"settings": {}}, "no setting 'read_point'"),
        ({"settings": {"read_point": 3}}, "do not make a probe of kind 'linear'"),
        ({"read_points": [{"layer": 0, "pooling": "mean"}]}, "says read points"),
    ],
)
def test_a_card_that_does_not_fit_the_arrays_is_refused(folder, changes, complaint):
    edit_card(folder, **changes)
    with pytest.raises(ProbeFileError, match=complaint):
        load_probe(folder)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"schema_version": 1}, "schema version 1; this foretell reads 2, 3 and 4, so upgrade"),
        ({"schema_version": None}, "schema version None"),
        ({"n_train": "many"}, "card.json: n_train: .*integer"),
        ({"surprise": 1}, "card.json: surprise"),
        ({"base_rate": float("nan")}, "card.json: base_rate"),
        ({"read_points": [{"layer": -1, "pooling": "last"}]}, "card.json: layers count from 0"),
        ({"calibration": {"slope": -1.0, "intercept": 0.0}}, "card.json: a calibration"),
    ],
)
def test_a_card_that_is_not_one_is_named_with_its_field(folder, changes, complaint):
    edit_card(folder, **changes)
    with pytest.raises(ProbeFileError, match=complaint):
        load_probe(folder)


def test_a_probe_of_the_version_before_is_read_and_saved_as_one_of_today(
    folder, selection, held_out, tmp_path
):
    """Version 2 knew neither heads of a pool nor a limit of the depth."""
    path = folder / "card.json"
    before = json.loads(path.read_text())
    del before["depth"], before["heads"]["pool"]
    path.write_text(json.dumps({**before, "schema_version": 2}))
    loaded = load_probe(folder)
    assert (loaded.card.depth, loaded.heads.pool, loaded.held_out.pool) == (None, {}, {})
    again = save_probe(selection.probe, loaded.card, tmp_path / "again", held_out=held_out)
    assert again.schema_version == 4
    assert load_probe(tmp_path / "again").card == again


@pytest.mark.parametrize("name", ["mid", "gpt-4.1", "pool", "p_pool.mid", "weak"])
def test_what_is_known_of_a_pool_comes_back_under_any_name(
    selection, card, held_out, tmp_path, name
):
    n = len(held_out.weak)
    chances, outcomes = np.linspace(0, 1, n), np.where(np.arange(n) % 3, 1.0, np.nan)
    pooled = replace(held_out, p_pool={name: chances}, pool={name: outcomes})
    save_probe(selection.probe, card, tmp_path / "p", held_out=pooled)
    loaded = load_probe(tmp_path / "p").held_out
    assert list(loaded.p_pool) == list(loaded.pool) == [name]
    assert np.array_equal(loaded.p_pool[name], chances)
    assert np.array_equal(loaded.pool[name], outcomes, equal_nan=True)


def test_columns_of_a_pool_are_checked_like_the_others(held_out):
    with pytest.raises(InputError, match=r"pool\.mid has shape \(3,\)"):
        replace(held_out, pool={"mid": np.ones(3)})
    with pytest.raises(InputError, match=r"p_pool\.mid has numbers outside 0 to 1"):
        replace(held_out, p_pool={"mid": np.full(len(held_out.weak), 2.0)})


def test_outcomes_of_a_pool_are_part_of_the_training_data(data):
    n = len(data)
    alone = hash_training_data(data, [POINT])
    assert hash_training_data(data, [POINT], {}) == alone
    ones, zeros = np.ones(n), np.zeros(n)
    pooled = {hash_training_data(data, [POINT], {"mid": column}) for column in (ones, zeros)}
    assert len({alone, *pooled}) == 3


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_card_that_is_not_a_json_object_is_named(folder, content):
    (folder / "card.json").write_text(content)
    with pytest.raises(ProbeFileError, match=r"card\.json"):
        load_probe(folder)


def test_a_probe_serves_the_same_weights_in_any_engine(card):
    card.check_serves(card.model)
    card.check_serves(replace(card.model, engine="another"), domain="geo")


@pytest.mark.parametrize("field", ["weights_sha256", "chat_template_sha256"])
def test_a_probe_refuses_other_weights_and_another_template(card, field):
    served = replace(card.model, **{field: "f" * 64})
    with pytest.raises(
        ProbeMismatchError, match=r"probe geo@3 .*aaaa.* but .*ffff.*refit"
    ) as caught:
        card.check_serves(served)
    assert str(card.model) in str(caught.value)


def test_a_probe_refuses_another_domain(card):
    with pytest.raises(ProbeMismatchError, match="domain 'geo' but domain 'maths'"):
        card.check_serves(card.model, domain="maths")


def test_the_training_hash_ignores_row_order_and_notices_everything_else(data):
    whole = hash_training_data(data, [POINT])
    assert hash_training_data(data.take(np.arange(200)[::-1]), [POINT]) == whole
    others = [
        data.take(np.arange(199)),
        replace(data, weak=1 - data.weak),
        replace(data, strong=data.weak),
        replace(data, weights=np.full(200, 2.0)),
        replace(data, groups=data.ids),
        replace(data, domain=("snips",) * 200),
    ]
    hashes = [hash_training_data(other, [POINT]) for other in others]
    hashes += [hash_training_data(data, points) for points in ([ReadPoint(0, "mean")], [])]
    assert len({whole, *hashes}) == 1 + len(hashes)


def test_a_card_needs_a_model_and_a_time_zone_and_is_written_in_utc(selection, data):
    now = datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=2)))
    assert describe(selection, data, **PARTS, now=now).created == "2025-12-31T23:00:00+00:00"
    with pytest.raises(InputError, match="names no model"):
        describe(selection, replace(data, model=None), **PARTS, now=datetime.now(UTC))
    with pytest.raises(InputError, match="no time zone"):
        describe(selection, data, **PARTS, now=datetime(2026, 1, 1))


def test_loading_and_predicting_import_neither_scikit_learn_nor_scipy(folder):
    program = f"""
import sys
import numpy as np
from foretell.probes import load_probe
saved = load_probe({str(folder)!r})
assert 0 < saved.probe.p_success(np.zeros(saved.probe.width, np.float32)) < 1
heavy = {{"sklearn", "scipy", "torch", "pandas", "pyarrow"}} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", program], check=True)
