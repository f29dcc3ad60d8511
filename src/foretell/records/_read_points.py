"""Where in the network a vector is read."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, get_args

from foretell.errors import UnknownReadPointError

Pooling = Literal["last", "mean", "tokens"]

_NAME = re.compile(r"layer(\d+)_(last|mean|tokens)")


@dataclass(frozen=True, slots=True, order=True)
class ReadPoint:
    """Where in the network one vector is read.

    ``layer`` counts decoder blocks from 0; the value is the residual stream as it leaves that
    block, before any final normalisation. ``pooling`` reduces the token axis over the query's
    *own* tokens (those after the shared prefix, see ``Prompt.own_start``): ``last`` takes the
    final one, ``mean`` averages them, ``tokens`` keeps them all.
    """

    layer: int
    pooling: Pooling = "last"

    def __post_init__(self) -> None:
        if self.layer < 0:
            raise UnknownReadPointError(
                f"layers count from 0, got layer {self.layer}; use 0 for the first decoder block"
            )
        if self.pooling not in get_args(Pooling):
            raise UnknownReadPointError(
                f"unknown pooling {self.pooling!r}; use one of {', '.join(get_args(Pooling))}"
            )

    @property
    def name(self) -> str:
        """``layer20_mean``: the name used in files, columns and cards."""
        return f"layer{self.layer}_{self.pooling}"

    @classmethod
    def parse(cls, name: str) -> ReadPoint:
        """The read point of a ``name``; raises ``UnknownReadPointError`` for anything else."""
        match = _NAME.fullmatch(name)
        if match is None:
            raise UnknownReadPointError(
                f"{name!r} is not a read point; wanted something like 'layer20_mean'"
            )
        return cls(int(match[1]), match[2])  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"layer {self.layer}, {self.pooling}"
