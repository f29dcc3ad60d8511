"""The file of a recording: what was asked, what was answered, and what was read on the way.

``NAME.jsonl.gz`` holds a line about the model, then a line for each answer. ``NAME.parquet``
beside it holds the activations, when there are any: row i belongs to answer i.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from foretell.errors import InputError
from foretell.prefill._cache import appears_whole
from foretell.prefill.engines.recorded._vectors import Vectors, read_vectors, write_vectors
from foretell.records import (
    Answer,
    FirstToken,
    Message,
    ModelIdentity,
    Observation,
    ReadPoint,
    Usage,
    content_text,
)

_FORMAT = "foretell-recording"
_VERSION = 1
_SUFFIX = ".jsonl.gz"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedAnswer:
    """One answer of a recording.

    ``key`` is the hash of what was asked. ``pieces`` are the answer's pieces as they came, after
    the beginning that a trailing assistant message gave; empty when only the whole text was
    kept. ``own_tokens`` counts the prompt's tokens after the shared prefix.
    """

    key: str
    answer: Answer
    own_tokens: int | None = None
    first_token: FirstToken | None = None
    pieces: tuple[str, ...] = ()
    activations: Vectors = field(default_factory=dict[ReadPoint, NDArray[np.float32]])

    @classmethod
    def of(cls, observation: Observation) -> RecordedAnswer:
        """What an observation knows; its pieces were not kept."""
        return cls(
            key=key_of(observation.query.messages),
            answer=observation.answer,
            own_tokens=observation.own_tokens,
            first_token=observation.first_token,
            activations=observation.activations,
        )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recording:
    """Answers of one model.

    ``identity`` is ``None`` for a model behind an API, ``context_tokens`` when nobody noted it.
    """

    model: str
    answers: Mapping[str, RecordedAnswer]
    identity: ModelIdentity | None = None
    context_tokens: int | None = None


def key_of(messages: Sequence[Message], tools: Sequence[Mapping[str, Any]] = ()) -> str:
    """Hash of what is asked: 32 hexadecimal digits, blind to how text is cut into parts."""
    asked: list[Any] = [
        {**message, "content": content_text(message)} if message.get("content") else dict(message)
        for message in messages
    ]
    text = json.dumps([asked, list(tools)], sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def write_recording(
    path: Path,
    observations: Iterable[Observation],
    *,
    model: str | None = None,
    context_tokens: int | None = None,
) -> None:
    """Write what one model answered, so that it can be replayed elsewhere.

    ``model`` is its name, that of its answers when absent. Activations are written when every
    observation has the same read points. The same observations give the same bytes.

    Raises ``InputError`` when there are none, when they are of several models, or when the same
    messages were answered twice.
    """
    seen = list(observations)
    if not seen:
        raise InputError(f"nothing to write to {path}: there are no observations")
    identities = {observation.model for observation in seen}
    names = {observation.answer.model for observation in seen}
    if len(identities) > 1 or (model is None and len(names) > 1):
        raise InputError(
            f"a recording is of one model, but these {len(seen)} observations are of "
            f"{', '.join(sorted(names))} ({len(identities)} identities); write one file for each"
        )
    save_recording(
        path,
        model=model or names.pop(),
        answers=[RecordedAnswer.of(observation) for observation in seen],
        identity=identities.pop(),
        context_tokens=context_tokens,
    )


def save_recording(
    path: Path,
    *,
    model: str,
    answers: Sequence[RecordedAnswer],
    identity: ModelIdentity | None,
    context_tokens: int | None,
) -> None:
    """Write the answers, and the vectors beside them if each answer has the same read points."""
    vectors_path = _vectors_path(path)
    if len({answer.key for answer in answers}) < len(answers):
        raise InputError(
            f"some of the {len(answers)} answers are to the same messages; keep one for each"
        )
    points = {frozenset(answer.activations) for answer in answers}
    if len(points) > 1:
        raise InputError(
            "the answers have different read points, as when some prefills were stopped early; "
            "record them again without a gate"
        )
    if any(points):
        write_vectors(vectors_path, [answer.activations for answer in answers])
    header = {
        "format": _FORMAT,
        "version": _VERSION,
        "model": model,
        "identity": asdict(identity) if identity else None,
        "context_tokens": context_tokens,
        "vectors": any(points),
    }
    lines = [header, *map(_as_line, answers)]
    text = "".join(
        json.dumps(line, ensure_ascii=False, separators=(",", ":")) + "\n" for line in lines
    )
    with appears_whole(path) as partial:
        partial.write_bytes(gzip.compress(text.encode(), mtime=0))


def load_recording(path: Path, *, with_vectors: bool = True) -> Recording:
    """Read a recording; raises ``InputError`` for what is not one, or is damaged."""
    vectors_path = _vectors_path(path)
    if not path.is_file():
        raise InputError(f"there is no recording {path}; wanted the path of a NAME{_SUFFIX}")
    try:
        lines = gzip.decompress(path.read_bytes()).decode().rstrip("\n").split("\n")
        header, *rows = [json.loads(line) for line in lines]
        if header["format"] != _FORMAT or header["version"] != _VERSION:
            raise InputError(
                f"{path} is {header['format']!r} version {header['version']}; this release reads "
                f"{_FORMAT!r} version {_VERSION}"
            )
        identity = ModelIdentity(**header["identity"]) if header["identity"] else None
        wanted = header["vectors"] and with_vectors
        vectors = read_vectors(vectors_path) if wanted else [{}] * len(rows)
        answers = [
            _from_line(row, header["model"], activations)
            for row, activations in zip(rows, vectors, strict=True)
        ]
        return Recording(
            model=header["model"],
            identity=identity,
            context_tokens=header["context_tokens"],
            answers={answer.key: answer for answer in answers},
        )
    except (OSError, EOFError, zlib.error, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not a whole recording ({type(error).__name__}: {error}); its files belong "
            "together, so copy all of them again, or record anew"
        ) from error


def _vectors_path(path: Path) -> Path:
    if not path.name.endswith(_SUFFIX):
        raise InputError(f"{path} is not named as a recording is: wanted NAME{_SUFFIX}")
    return path.with_name(path.name.removesuffix(_SUFFIX) + ".parquet")


def _as_line(recorded: RecordedAnswer) -> dict[str, Any]:
    answer, first = recorded.answer, recorded.first_token
    return {
        "key": recorded.key,
        "text": answer.text,
        "finish": answer.finish_reason,
        "usage": [answer.usage.prompt_tokens, answer.usage.completion_tokens],
        "logprob": answer.mean_logprob,
        "own": recorded.own_tokens,
        "first": [first.entropy, first.margin, first.probability] if first else None,
        "pieces": list(recorded.pieces),
    }


def _from_line(row: Mapping[str, Any], model: str, activations: Vectors) -> RecordedAnswer:
    prompt_tokens, completion_tokens = row["usage"]
    return RecordedAnswer(
        key=row["key"],
        answer=Answer(
            text=row["text"],
            model=model,
            finish_reason=row["finish"],
            usage=Usage(prompt_tokens=prompt_tokens, completion_tokens=completion_tokens),
            mean_logprob=row["logprob"],
        ),
        own_tokens=row["own"],
        first_token=_first_token(row["first"]),
        pieces=tuple(row["pieces"]),
        activations=activations,
    )


def _first_token(numbers: list[float] | None) -> FirstToken | None:
    if numbers is None:
        return None
    entropy, margin, probability = numbers
    return FirstToken(entropy=entropy, margin=margin, probability=probability)
