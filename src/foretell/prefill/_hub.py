"""Single files from the Hugging Face hub, through its own cache."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

from foretell.errors import ModelFileError
from foretell.prefill._wheels import Progress


def fetch_from_hub(
    repository: str, revision: str | None, file: str | None, *, progress: Progress | None = None
) -> tuple[Path, str]:
    """Path of a GGUF file and the commit it is of.

    The hub's cache comes first, so that a start needs no network and a branch does not move
    under a probe. Raises ``ModelFileError`` when the file is neither there nor on the hub.
    """
    path = _cached(repository, revision, file)
    if path is None:
        if progress:
            progress(f"fetching {repository} from the Hugging Face hub")
        path = _fetched(repository, revision, file)
    # .../models--org--name/snapshots/<commit>/<file, perhaps in folders>
    parts = path.parts
    return path, parts[len(parts) - 1 - parts[::-1].index("snapshots") + 1]


def _cached(repository: str, revision: str | None, file: str | None) -> Path | None:
    try:
        if file is not None:
            return Path(hf_hub_download(repository, file, revision=revision, local_files_only=True))
        folder = Path(snapshot_download(repository, revision=revision, local_files_only=True))
    except LocalEntryNotFoundError:
        return None
    kept = sorted(folder.glob("**/*.gguf"))
    return kept[0] if len(kept) == 1 else None


def _fetched(repository: str, revision: str | None, file: str | None) -> Path:
    try:
        if file is None:
            file = _only_gguf(repository, revision)
        return Path(hf_hub_download(repository, file, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        named = f"hf:{repository}" + (f":{file}" if file else "")
        raise ModelFileError(
            f"{named} is neither in the hub's cache nor could it be fetched "
            f"({type(error).__name__}); check the name, the network, and HF_TOKEN for a gated model"
        ) from error


def _only_gguf(repository: str, revision: str | None) -> str:
    names = HfApi().list_repo_files(repository, revision=revision)
    found = [name for name in names if name.endswith(".gguf")]
    if len(found) != 1:
        raise ModelFileError(
            f"hf:{repository} has {len(found)} GGUF files ({', '.join(found) or 'none'}); name "
            f"one: hf:{repository}:file.gguf"
        )
    return found[0]
